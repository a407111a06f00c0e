//! `cluster.toml`: what a cluster is, and the mark that a directory holds one.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use pangea_base::RegionId;
use pangea_node::{ClientAuth, FailoverConfig, PoolConfig};
use pangea_store::StoreConfig;
use serde::{Deserialize, Serialize};

use crate::error::ClusterError;
use crate::layout::Layout;
use crate::wan::{Table, TableError};

/// The version of the file's form.
const FORMAT: u32 = 1;

/// What a cluster is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this form.
    pub format: u32,
    /// Name of the cluster.
    pub cluster: String,
    /// The region whose server is writable.
    pub primary: RegionId,
    /// In-region readers of each region.
    pub readers: u8,
    /// First port; 0 for free ones, chosen at each start.
    pub port_base: u16,
    /// How clients prove who they are.
    pub auth: ClientAuth,
    /// Which server connections sessions share.
    #[serde(default)]
    pub pool: PoolConfig,
    /// The distances.
    pub wan: WanChoice,
    /// OS user of the region processes, when the supervisor is root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os_user: Option<String>,
    /// PostgreSQL's programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pg_bin: Option<PathBuf>,
    /// Where the topology and the lease are kept; in a file of the cluster when absent. Fixed when the cluster is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreConfig>,
    /// When other regions take over.
    #[serde(default)]
    pub failover: FailoverConfig,
    /// Regions that were removed and whose directories were kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<RegionId>,
    /// The regions.
    #[serde(rename = "region")]
    pub regions: Vec<RegionEntry>,
}

/// A region of a cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegionEntry {
    /// Its name.
    pub name: RegionId,
    /// Cluster endpoint.
    pub cluster: SocketAddr,
    /// Reader endpoint.
    pub reader: SocketAddr,
    /// Writer endpoint.
    pub writer: SocketAddr,
    /// Link listener.
    pub link: SocketAddr,
    /// DNS listener.
    pub dns: SocketAddr,
}

/// Where the distances between regions come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum WanChoice {
    /// No emulator: regions are connected directly.
    Off,
    /// The built-in table.
    Aws,
    /// A file.
    File(PathBuf),
}

impl WanChoice {
    /// The table, unless there is no emulator.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn table(&self) -> Result<Option<Table>, TableError> {
        match self {
            Self::Off => Ok(None),
            Self::Aws => Ok(Some(Table::aws())),
            Self::File(path) => Table::load(path).map(Some),
        }
    }
}

impl From<String> for WanChoice {
    fn from(text: String) -> Self {
        match text.as_str() {
            "off" => Self::Off,
            "aws" => Self::Aws,
            // Absolute, because it is read again by a later start from another directory.
            path => Self::File(std::path::absolute(path).unwrap_or_else(|_| path.into())),
        }
    }
}

impl fmt::Display for WanChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Aws => f.write_str("aws"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

impl From<WanChoice> for String {
    fn from(choice: WanChoice) -> Self {
        choice.to_string()
    }
}

impl Manifest {
    /// The form that this program writes.
    pub(crate) fn format() -> u32 {
        FORMAT
    }

    /// Reads the manifest of a directory.
    ///
    /// # Errors
    /// When there is none, or it cannot be understood.
    pub fn load(layout: &Layout) -> Result<Self, ClusterError> {
        Self::load_if_any(layout)?
            .ok_or_else(|| ClusterError::NoCluster { path: layout.data_dir().to_owned() })
    }

    pub(crate) fn load_if_any(layout: &Layout) -> Result<Option<Self>, ClusterError> {
        #[derive(Deserialize)]
        struct OnlyFormat {
            format: u32,
        }
        let path = layout.manifest();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(ClusterError::file("read", &path)(error)),
        };
        let invalid = |source| ClusterError::Manifest { path: path.clone(), source: Box::new(source) };
        // The number first: another form would only give confusing errors.
        let found = toml::from_str::<OnlyFormat>(&text).map_err(invalid)?.format;
        if found != FORMAT {
            return Err(ClusterError::Format { path, found, known: FORMAT });
        }
        toml::from_str(&text).map(Some).map_err(invalid)
    }

    /// A region by its name.
    ///
    /// # Errors
    /// When there is none.
    pub fn region(&self, name: &RegionId) -> Result<&RegionEntry, ClusterError> {
        self.regions.iter().find(|entry| entry.name == *name).ok_or_else(|| {
            let known: Vec<&str> = self.regions.iter().map(|entry| entry.name.as_str()).collect();
            ClusterError::NoRegion { region: name.clone(), known: known.join(", ") }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_a_round_trip_and_refuses_another_format() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let layout = Layout::new(dir.path());
        assert!(matches!(Manifest::load(&layout), Err(ClusterError::NoCluster { .. })));
        let at = "127.0.0.1:7400".parse()?;
        let entry =
            RegionEntry { name: "a".parse()?, cluster: at, reader: at, writer: at, link: at, dns: at };
        let manifest = Manifest {
            format: FORMAT,
            cluster: "pangea".into(),
            primary: "a".parse()?,
            readers: 1,
            port_base: 7400,
            auth: ClientAuth::Scram,
            pool: PoolConfig::default(),
            wan: WanChoice::Aws,
            os_user: None,
            pg_bin: None,
            store: Some(StoreConfig::etcd(vec!["http://a:1".into()], "p/".into())),
            failover: FailoverConfig::default(),
            regions: vec![entry],
            removed: vec!["c".parse()?],
        };
        let text = toml::to_string(&manifest)?;
        std::fs::write(layout.manifest(), &text)?;
        let read = Manifest::load(&layout)?;
        assert_eq!(toml::to_string(&read)?, text);
        let missing = read.region(&"b".parse()?).err();
        assert!(missing.is_some_and(|error| error.to_string().contains("has a")));

        std::fs::write(layout.manifest(), text.replace("format = 1", "format = 2"))?;
        assert!(matches!(Manifest::load(&layout), Err(ClusterError::Format { found: 2, .. })));
        Ok(())
    }
}
