//! The files of a cluster: its manifest, what its regions read, and what is made once.

use std::path::Path;

use pangea_base::RegionId;
use pangea_node::{DnsConfig, ListenConfig, PeerConfig, ReadConsistencyConfig, RegionConfig, TlsConfig};
use pangea_store::StoreConfig;

use crate::certs::{self, Pem};
use crate::cluster::ClusterOptions;
use crate::error::ClusterError;
use crate::layout::{Layout, Owner, make_dir};
use crate::manifest::{Manifest, RegionEntry};
use crate::wan::Wan;

/// The zone of a local cluster is below this one.
const DNS_ZONE: &str = "internal";
/// Characters of a password: 24 of 62 are 142 bits.
const PASSWORD_LEN: usize = 24;

/// Writes everything that the regions read, and returns the password. What is made once (authority, password)
/// is kept when it exists.
pub(crate) fn write_files(
    layout: &Layout,
    owner: &Owner,
    manifest: &Manifest,
    wan: Option<&Wan>,
    options: &ClusterOptions,
) -> Result<String, ClusterError> {
    let ours = Owner(None);
    // The mark first: from here on the directory is ours, however far this start gets.
    write_manifest(layout, manifest)?;
    ours.private_dir(&layout.ca_dir())?;
    owner.private_dir(&layout.store_dir())?;
    make_dir(&layout.store_ways(), 0o711)?;
    let password = match read_if_any(&layout.password())? {
        Some(text) => text.trim().to_owned(),
        None => {
            let password = new_password()?;
            ours.private_file(&layout.password(), &format!("{password}\n"))?;
            password
        }
    };
    ours.private_file(&layout.pgpass(), &format!("*:*:*:postgres:{password}\n"))?;
    for entry in &manifest.regions {
        write_identity(layout, owner, manifest, &entry.name)?;
        write_region_config(layout, owner, manifest, wan, options, entry)?;
    }
    Ok(password)
}

/// Writes the mark, and what the cluster is.
pub(crate) fn write_manifest(layout: &Layout, manifest: &Manifest) -> Result<(), ClusterError> {
    let text = toml::to_string(manifest)
        .map_err(|error| ClusterError::Options(format!("the manifest cannot be written: {error}")))?;
    Owner(None).private_file(&layout.manifest(), &text)
}

/// Makes a region's directory, with its certificate, the first password and its way to the store.
pub(crate) fn write_identity(
    layout: &Layout,
    owner: &Owner,
    manifest: &Manifest,
    region: &RegionId,
) -> Result<(), ClusterError> {
    let (authority, dir) = (authority(layout, &manifest.cluster)?, layout.region(region));
    for path in [dir.clone(), dir.join("tls"), dir.join("log")] {
        owner.private_dir(&path)?;
    }
    let pem = certs::region(&manifest.cluster, region.as_str(), &authority)?;
    owner.private_file(&dir.join("tls/ca.pem"), &authority.cert)?;
    owner.private_file(&dir.join("tls/cert.pem"), &pem.cert)?;
    owner.private_file(&dir.join("tls/key.pem"), &pem.key)?;
    let password = read_if_any(&layout.password())?.unwrap_or_default();
    owner.private_file(&dir.join("initial_password"), &password)?;
    layout.lead_store(region)
}

/// Writes the configuration of a region.
pub(crate) fn write_region_config(
    layout: &Layout,
    owner: &Owner,
    manifest: &Manifest,
    wan: Option<&Wan>,
    options: &ClusterOptions,
    entry: &RegionEntry,
) -> Result<(), ClusterError> {
    let dir = layout.region(&entry.name);
    let config = region_config(&dir, manifest, entry, wan, options, &layout.store_way(&entry.name))?;
    let text = toml::to_string(&config)
        .map_err(|error| ClusterError::Options(format!("the configuration cannot be written: {error}")))?;
    owner.private_file(&layout.region_config(&entry.name), &text)
}

fn region_config(
    dir: &Path,
    manifest: &Manifest,
    entry: &RegionEntry,
    wan: Option<&Wan>,
    options: &ClusterOptions,
    store_dir: &Path,
) -> Result<RegionConfig, ClusterError> {
    let mut peers = Vec::new();
    for peer in manifest.regions.iter().filter(|peer| peer.name != entry.name) {
        let link = match wan {
            Some(wan) => wan.link(&entry.name, &peer.name)?.address(),
            None => peer.link,
        };
        peers.push(PeerConfig { region: peer.name.clone(), link, addresses: Vec::new() });
    }
    Ok(RegionConfig {
        cluster: manifest.cluster.clone(),
        region: entry.name.clone(),
        primary: manifest.primary.clone(),
        store: manifest
            .store
            .clone()
            .unwrap_or_else(|| StoreConfig::Embedded { path: store_dir.join("control.json") }),
        failover: manifest.failover.clone(),
        dns: Some(DnsConfig {
            listen: entry.dns,
            zone: format!("{}.{DNS_ZONE}", manifest.cluster),
            ttl_s: DnsConfig::TTL_S,
        }),
        addresses: Vec::new(),
        data_dir: dir.to_owned(),
        pg_bin: manifest.pg_bin.clone(),
        os_user: manifest.os_user.clone(),
        readers: manifest.readers,
        initial_password_file: Some(dir.join("initial_password")),
        postgres_settings: options.postgres_settings.clone(),
        listen: ListenConfig {
            cluster: entry.cluster,
            reader: entry.reader,
            writer: entry.writer,
            link: entry.link,
        },
        tls: TlsConfig {
            ca: dir.join("tls/ca.pem"),
            cert: dir.join("tls/cert.pem"),
            key: dir.join("tls/key.pem"),
        },
        read_consistency: ReadConsistencyConfig::default(),
        client_auth: manifest.auth,
        clients_max: RegionConfig::CLIENTS_MAX,
        authentication_timeout_s: options.authentication_timeout_s,
        admin_users: options.admin_users.clone(),
        stats_users: options.stats_users.clone(),
        pool: manifest.pool.clone(),
        peers,
    })
}

fn authority(layout: &Layout, cluster: &str) -> Result<Pem, ClusterError> {
    let (cert_file, key_file) = (layout.ca_dir().join("ca.pem"), layout.ca_dir().join("ca.key"));
    if let (Some(cert), Some(key)) = (read_if_any(&cert_file)?, read_if_any(&key_file)?) {
        return Ok(Pem { cert, key });
    }
    let pem = certs::authority(cluster)?;
    let ours = Owner(None);
    ours.private_file(&key_file, &pem.key)?;
    ours.private_file(&cert_file, &pem.cert)?;
    Ok(pem)
}

fn read_if_any(path: &Path) -> Result<Option<String>, ClusterError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ClusterError::file("read", path)(error)),
    }
}

fn new_password() -> Result<String, ClusterError> {
    const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    /// Bytes from here on would make some characters likelier than others.
    const FAIR: u8 = 248;
    let mut password = String::new();
    while password.len() < PASSWORD_LEN {
        let mut bytes = [0_u8; PASSWORD_LEN];
        getrandom::fill(&mut bytes).map_err(|error| ClusterError::Random(error.to_string()))?;
        let fair = bytes.into_iter().filter(|byte| *byte < FAIR);
        let characters = fair.filter_map(|byte| ALPHABET.get(usize::from(byte) % ALPHABET.len()));
        password.extend(characters.take(PASSWORD_LEN - password.len()).map(|byte| char::from(*byte)));
    }
    Ok(password)
}

#[cfg(test)]
mod tests {
    use boon::{Compiler, Draft, Schemas};
    use pangea_node::{FailoverConfig, Review, region_schema};

    use super::*;
    use crate::{RegionEntry, WanChoice};

    const NAMES: [&str; 2] = ["a", "b"];

    type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

    fn manifest() -> Outcome<Manifest> {
        let entry = |(name, port): (&str, u16)| {
            let at = |offset| ([127, 0, 0, 1], port + offset).into();
            let name = name.parse()?;
            Ok(RegionEntry { name, cluster: at(0), reader: at(1), writer: at(2), link: at(3), dns: at(4) })
        };
        Ok(Manifest {
            format: Manifest::format(),
            cluster: "pangea".into(),
            primary: "a".parse()?,
            readers: 1,
            port_base: 7400,
            auth: pangea_node::ClientAuth::Scram,
            pool: pangea_node::PoolConfig::default(),
            wan: WanChoice::Off,
            os_user: None,
            pg_bin: None,
            store: None,
            failover: FailoverConfig::default(),
            regions: NAMES.into_iter().zip([7400, 7410]).map(entry).collect::<Outcome<_>>()?,
            removed: Vec::new(),
        })
    }

    /// Besides [`Review`] by a validator that knows nothing of Pangea, which also holds the schema against that of
    /// the draft.
    #[test]
    fn what_is_written_is_valid() -> Outcome {
        let dir = tempfile::tempdir()?;
        let layout = Layout::new(dir.path());
        let options = ClusterOptions::new(dir.path().to_owned(), "pangea".into());
        write_files(&layout, &Owner(None), &manifest()?, None, &options)?;

        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        compiler.set_default_draft(Draft::V2020_12);
        compiler.add_resource("region.json", region_schema())?;
        let schema = compiler.compile("region.json", &mut schemas)?;
        let validate =
            |value: &serde_json::Value| schemas.validate(value, schema).map_err(|error| error.to_string());
        for name in NAMES {
            let path = layout.region_config(&name.parse()?);
            let review = Review::of_content(&path);
            assert!(review.is_good() && review.problems.is_empty(), "{review:?}");
            let text = std::fs::read_to_string(&path)?;
            let config: serde_json::Value = toml::from_str(&text)?;
            assert_eq!(validate(&config), Ok(()));
            // It is no schema that everything is valid for.
            for (key, bad) in [("readers", 300.into()), ("unknown", 1.into()), ("region", "A".into())] {
                let mut config = config.clone();
                config[key] = bad;
                assert!(validate(&config).is_err(), "{key}");
            }
        }
        Ok(())
    }
}
