//! Parts of a configuration that each are well-formed, and cannot be or should not be together.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use pangea_base::RegionId;
use pangea_consistency::{ReadSettings, Setting};
use pangea_store::StoreConfig;

use super::ClientAuth;
use super::document::Document;
use super::problem::Problem;

/// Everything that listens. DNS listens on TCP as well.
const LISTENERS: [&str; 5] =
    ["listen.cluster", "listen.reader", "listen.writer", "listen.link", "dns.listen"];
/// What clients connect to.
const ENDPOINTS: [&str; 3] = ["listen.cluster", "listen.reader", "listen.writer"];

pub(super) fn check(document: &Document<'_>) -> Vec<Problem> {
    let rules = [names, listeners, peers, reading, store, dns, data_dir, trust, pool];
    rules.iter().flat_map(|rule| rule(document)).collect()
}

fn names(document: &Document<'_>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let region = document.get::<RegionId>("region");
    if let (Some(cluster), Some(region)) = (document.get::<String>("cluster"), &region)
        && let Err(error) = pangea_gateway::check_name(&cluster, region)
    {
        let remedy = "use letters, digits and inner hyphens, as in \"orders\"";
        problems.push(document.error("cluster", error, remedy));
    }
    if let (Some(primary), Some(region)) = (document.get::<RegionId>("primary"), &region) {
        // A peer whose name cannot be read might be it.
        let peers: Option<Vec<RegionId>> =
            entries(document).map(|peer| document.get(&format!("{peer}.region"))).collect();
        if primary != *region && peers.is_some_and(|peers| !peers.contains(&primary)) {
            let text = format!("{primary} is neither this region nor one of its peers");
            problems.push(document.error("primary", text, "name one of them, or add it to [[peers]]"));
        }
    }
    problems
}

fn listeners(document: &Document<'_>) -> Vec<Problem> {
    let found: Vec<(&str, SocketAddr)> =
        LISTENERS.iter().filter_map(|path| Some((*path, document.get(path)?))).collect();
    let twice = found.iter().enumerate().filter_map(|(place, (path, address))| {
        let (other, at) = found.iter().take(place).find(|(_, earlier)| clash(*earlier, *address))?;
        let text = format!("{address} is taken by {other} ({at})");
        Some(document.error(path, text, "give each a port of its own"))
    });
    twice.collect()
}

/// Whether two listeners cannot both be. A listener on all addresses of IPv6 has those of IPv4 as well.
fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    let takes = |all: IpAddr, one: IpAddr| all.is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    a.port() != 0
        && a.port() == b.port()
        && (a.ip() == b.ip() || takes(a.ip(), b.ip()) || takes(b.ip(), a.ip()))
}

/// Paths of the peers.
fn entries(document: &Document<'_>) -> impl Iterator<Item = String> {
    (0..document.count("peers")).map(|place| format!("peers.{place}"))
}

fn peers(document: &Document<'_>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let own = document.get::<RegionId>("region");
    let own_link = document.get::<SocketAddr>("listen.link");
    let (mut names, mut links) = (BTreeSet::new(), BTreeSet::new());
    for peer in entries(document) {
        let (name_path, link_path) = (format!("{peer}.region"), format!("{peer}.link"));
        if let Some(name) = document.get::<RegionId>(&name_path) {
            if own.as_ref() == Some(&name) {
                let text = format!("{name} is this region itself");
                problems.push(document.error(&name_path, text, "list the other regions only"));
            } else if !names.insert(name.clone()) {
                let text = format!("{name} is a peer already");
                problems.push(document.error(&name_path, text, "list each region once"));
            }
        }
        if let Some(link) = document.get::<SocketAddr>(&link_path) {
            if own_link == Some(link) {
                let text = format!("{link} is this region's own link listener");
                problems.push(document.error(&link_path, text, "write where the peer listens"));
            } else if !links.insert(link) {
                let text = format!("{link} is the link of another peer, too");
                problems.push(document.error(&link_path, text, "write where this peer listens"));
            }
        }
    }
    problems
}

fn reading(document: &Document<'_>) -> Vec<Problem> {
    let values = [
        ("level", Setting::ReadConsistency),
        ("cluster", Setting::ReadConsistency),
        ("reader", Setting::ReadConsistency),
        ("writer", Setting::ReadConsistency),
        ("max_staleness", Setting::MaxStaleness),
        ("timeout", Setting::ConsistencyTimeout),
        ("timeout_action", Setting::ConsistencyTimeoutAction),
    ];
    let wrong = values.iter().filter_map(|(name, setting)| {
        let path = format!("read_consistency.{name}");
        let value: String = document.get(&path)?;
        let error = ReadSettings::default().set(*setting, &value).err()?;
        Some(document.error(&path, format!("is {value:?}"), error.hint.trim_end_matches('.')))
    });
    wrong.collect()
}

fn store(document: &Document<'_>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let has = |name: &str| document.has(&format!("store.{name}"));
    if document.get::<String>("store.kind").as_deref() != Some("etcd") {
        return problems;
    }
    for (one, other) in
        [("cert", "key"), ("key", "cert"), ("user", "password_file"), ("password_file", "user")]
    {
        if has(one) && !has(other) {
            let text = format!("is of no use without store.{other}");
            problems.push(document.error(&format!("store.{one}"), text, format!("add store.{other}")));
        }
    }
    if has("cert") && !has("ca") {
        problems.push(document.error("store.cert", "is of no use without store.ca", "add store.ca"));
    }
    for place in 0..document.count("store.endpoints") {
        let path = format!("store.endpoints.{place}");
        let Some(name) = document.get::<String>(&path) else { continue };
        if let Err(error) = StoreConfig::check_endpoint(&name, has("ca")) {
            let remedy = "write http://host:port, or https://host:port with store.ca";
            problems.push(document.error(&path, format!("is {name:?}: {error}"), remedy));
        }
    }
    problems
}

fn dns(document: &Document<'_>) -> Vec<Problem> {
    let mut problems = Vec::new();
    if let Some(zone) = document.get::<String>("dns.zone")
        && let Err(error) = pangea_discovery::check_zone(&zone)
    {
        problems.push(document.error("dns.zone", error.to_string(), "write one, as in \"mydb.example.com\""));
    }
    let everywhere = document.get::<SocketAddr>("listen.cluster").is_some_and(|it| it.ip().is_unspecified());
    if document.has("dns") && everywhere && document.count("addresses") == 0 {
        let text = "DNS has no address of this region to tell: listen.cluster is all of them";
        problems.push(document.warning("addresses", text, "add addresses, as in addresses = [\"10.0.0.1\"]"));
    }
    problems
}

/// The process changes into it before it looks for anything else.
fn data_dir(document: &Document<'_>) -> Vec<Problem> {
    let relative = document.get::<PathBuf>("data_dir").filter(|path| !path.is_absolute());
    let told = relative.map(|path| {
        let text = format!("{} is relative", path.display());
        document.error("data_dir", text, "write all of it, from /")
    });
    told.into_iter().collect()
}

/// Sizes of pools that a limit over several pools keeps from being reached.
fn pool(document: &Document<'_>) -> Vec<Problem> {
    let limits = ["pool.max_db_connections", "pool.max_user_connections"];
    let limits =
        limits.iter().filter_map(|path| Some((*path, document.get::<u64>(path).filter(|most| *most > 0)?)));
    let Some((limit, most)) = limits.min_by_key(|(_, most)| *most) else { return Vec::new() };
    let users = document.keys("pool.users").map(|user| format!("pool.users.{user}.pool_size"));
    let sizes = std::iter::once("pool.default_pool_size".to_owned()).chain(users);
    let too_large = sizes.filter_map(|path| {
        let size = document.get::<u64>(&path).filter(|size| *size > most)?;
        let text = format!("{size} is never reached: {limit} is {most}");
        Some(document.warning(&path, text, format!("lower it, or raise {limit}")))
    });
    too_large.collect()
}

fn trust(document: &Document<'_>) -> Vec<Problem> {
    if document.get("client_auth") != Some(ClientAuth::Trust) {
        return Vec::new();
    }
    let open = ENDPOINTS.iter().filter_map(|path| {
        let address = document.get::<SocketAddr>(path).filter(|address| !address.ip().is_loopback())?;
        Some(format!("{path} ({address})"))
    });
    let open: Vec<String> = open.collect();
    if open.is_empty() {
        return Vec::new();
    }
    let text = format!("trust lets everybody in, as anybody, who reaches {}", open.join(", "));
    vec![document.warning("client_auth", text, "write \"scram\", or listen on 127.0.0.1 only")]
}
