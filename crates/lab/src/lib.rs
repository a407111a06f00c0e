//! A whole global database on one machine: supervisor, WAN emulator
