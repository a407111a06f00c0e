//! Composition root of one region process.

mod config;

pub use config::{ClientAuth, ConfigError, ListenConfig, PeerConfig, RegionConfig, TlsConfig};
