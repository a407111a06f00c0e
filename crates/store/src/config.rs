//! Which backend, and how to reach it.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::etcd::{self, MEMBERS_MAX, REQUEST_TIMEOUT_MS_MIN};

/// Where a cluster keeps its topology and its lease. All regions of a cluster name the same place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum StoreConfig {
    /// One file, for regions that are processes of one machine.
    Embedded {
        /// The file, in a directory that exists. A lock file and a temporary file appear beside it.
        path: PathBuf,
    },
    /// etcd 3.4 or newer.
    Etcd {
        /// `http://host:port` or `https://host:port` of each member, the nearest first.
        #[schemars(length(min = 1, max = MEMBERS_MAX))]
        endpoints: Vec<String>,
        /// What the names of the keys begin with. Clusters that share an etcd have different prefixes.
        #[serde(default = "default_prefix")]
        prefix: String,
        /// File with the certificates (PEM) of the authority of the members; needed for `https`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ca: Option<PathBuf>,
        /// File with the client certificate chain (PEM), where etcd asks for one; with `key`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cert: Option<PathBuf>,
        /// File with the private key (PEM) of `cert`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<PathBuf>,
        /// etcd user; needs read and write of both keys. With `password_file`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<String>,
        /// File with the user's password; one line end at its end does not count. Read at each authentication, so that
        /// it can be changed while a region runs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        password_file: Option<PathBuf>,
        /// Limit of one load or write in milliseconds, failover between members included; at least 100.
        #[schemars(range(min = REQUEST_TIMEOUT_MS_MIN))]
        #[serde(default = "default_request_timeout_ms")]
        request_timeout_ms: u64,
    },
}

impl StoreConfig {
    /// Whether a member of etcd can be named like this. `https` needs the authority.
    ///
    /// # Errors
    /// What is wrong with the name.
    pub fn check_endpoint(name: &str, with_authority: bool) -> Result<(), String> {
        etcd::check_endpoint(name, with_authority)
    }

    /// etcd without certificates and users.
    #[must_use]
    pub fn etcd(endpoints: Vec<String>, prefix: String) -> Self {
        Self::Etcd {
            endpoints,
            prefix,
            ca: None,
            cert: None,
            key: None,
            user: None,
            password_file: None,
            request_timeout_ms: default_request_timeout_ms(),
        }
    }
}

fn default_prefix() -> String {
    "pangea/".to_owned()
}

fn default_request_timeout_ms() -> u64 {
    1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_forms_are_completed() {
        let embedded: StoreConfig = toml::from_str("kind = 'embedded'\npath = '/s'").unwrap();
        assert_eq!(embedded, StoreConfig::Embedded { path: "/s".into() });
        let etcd: StoreConfig = toml::from_str("kind = 'etcd'\nendpoints = ['http://a:2379']").unwrap();
        let StoreConfig::Etcd { prefix, request_timeout_ms, user: None, ca: None, .. } = &etcd else {
            panic!("{etcd:?}")
        };
        assert_eq!((prefix.as_str(), *request_timeout_ms), ("pangea/", 1000));
        let text = toml::to_string(&etcd).unwrap();
        assert_eq!(toml::from_str::<StoreConfig>(&text).unwrap(), etcd);
    }

    #[test]
    fn unknown_words_are_refused() {
        for bad in ["kind = 'redis'", "kind = 'embedded'\npath = '/s'\nsync = false", "kind = 'etcd'"] {
            toml::from_str::<StoreConfig>(bad).unwrap_err();
        }
    }
}
