//! Drives the PostgreSQL server of a region: create, clone, start, watch, stop
