//! One client connection as a state machine: routing, replay, in-flight units. Pure.
