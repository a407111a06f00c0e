//! Which region listens where.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use pangea_base::RegionId;

use crate::error::ClusterError;
use crate::manifest::RegionEntry;

/// Ports from one region's first to the next one's.
const STRIDE: u16 = 10;
/// What each port is for, in the order of the plan.
const PURPOSES: [&str; 5] = ["cluster endpoint", "reader endpoint", "writer endpoint", "link", "DNS"];

/// Where free ports are looked for. Below the ports that the system gives to outgoing connections: one of those
/// would be taken now and then between the moment of the choice and the start of the region.
const FREE_MIN: u16 = 20_000;
const FREE_COUNT: u16 = 12_000;
/// Places that are tried.
const ATTEMPTS_MAX: usize = 100;

/// Plans the ports of regions: from `base` upwards, or free ones when it is 0. Checks that they are free. With a base a
/// region keeps the place that it has in `known`, and nobody gets that of another.
pub(crate) fn plan(
    regions: &[RegionId],
    base: u16,
    known: &[RegionEntry],
) -> Result<Vec<RegionEntry>, ClusterError> {
    if base != 0 {
        return plan_from(&places(regions, base, known), base);
    }
    let places: Vec<_> = regions.iter().cloned().zip(0..).collect();
    let mut result = plan_from(&places, random_base()?);
    for _ in 1..ATTEMPTS_MAX {
        if !matches!(result, Err(ClusterError::PortInUse { .. })) {
            break;
        }
        result = plan_from(&places, random_base()?);
    }
    result
}

/// At random, so that clusters that are started at the same time do not choose the same ports.
fn random_base() -> Result<u16, ClusterError> {
    let mut bytes = [0; 2];
    getrandom::fill(&mut bytes).map_err(|error| ClusterError::Random(error.to_string()))?;
    Ok(FREE_MIN + u16::from_be_bytes(bytes) % (FREE_COUNT / STRIDE) * STRIDE)
}

/// The place of each region, counted from the first port: regions may have been added and removed in any order.
fn places(regions: &[RegionId], base: u16, known: &[RegionEntry]) -> Vec<(RegionId, usize)> {
    let place = |entry: &RegionEntry| {
        let offset = entry.cluster.port().checked_sub(base)?;
        (offset % STRIDE == 0).then_some(usize::from(offset / STRIDE))
    };
    let mut taken: BTreeMap<&RegionId, usize> =
        known.iter().filter_map(|entry| Some((&entry.name, place(entry)?))).collect();
    for region in regions {
        let free = (0..).find(|place| taken.values().all(|other| other != place)).unwrap_or_default();
        taken.entry(region).or_insert(free);
    }
    regions.iter().filter_map(|region| Some((region.clone(), *taken.get(region)?))).collect()
}

fn plan_from(regions: &[(RegionId, usize)], base: u16) -> Result<Vec<RegionEntry>, ClusterError> {
    // Held until all are chosen, so that no port is chosen twice.
    let mut held = Vec::new();
    let mut entries = Vec::new();
    for (region, index) in regions {
        let mut ports = [0; PURPOSES.len()];
        for (offset, (port, purpose)) in ports.iter_mut().zip(PURPOSES).enumerate() {
            let wanted = number(base, *index, offset)?;
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, wanted))
                .map_err(|_| ClusterError::PortInUse { port: wanted, purpose, region: region.clone() })?;
            let address = listener.local_addr().map_err(|_| ClusterError::PortInUse {
                port: wanted,
                purpose,
                region: region.clone(),
            })?;
            *port = address.port();
            held.push(listener);
        }
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let [cluster, reader, writer, link, dns] = ports.map(at);
        entries.push(RegionEntry { name: region.clone(), cluster, reader, writer, link, dns });
    }
    Ok(entries)
}

fn number(base: u16, index: usize, offset: usize) -> Result<u16, ClusterError> {
    let number = usize::from(base) + index * usize::from(STRIDE) + offset;
    u16::try_from(number).map_err(|_| {
        ClusterError::Options(format!("--port-base {base} leaves no room below 65536: use a smaller one"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_ports_a_region() {
        assert_eq!(number(7400, 0, 0).unwrap(), 7400);
        assert_eq!(number(7400, 2, 3).unwrap(), 7423);
        assert!(number(65500, 4, 0).is_err());
    }

    #[test]
    fn chosen_ports_differ_and_a_taken_one_is_named() {
        let regions: Vec<RegionId> = vec!["a".parse().unwrap(), "b".parse().unwrap()];
        let entries = plan(&regions, 0, &[]).unwrap();
        let mut ports: Vec<u16> = entries
            .iter()
            .flat_map(|entry| [entry.cluster, entry.reader, entry.writer, entry.link])
            .map(|address| address.port())
            .collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 8);

        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = plan(&regions, port, &[]).unwrap_err().to_string();
        assert!(error.contains(&port.to_string()) && error.contains("--port-base"), "{error}");
    }

    #[test]
    fn regions_keep_their_ports_and_a_new_one_gets_the_first_free() {
        let names = |list: &[&str]| list.iter().map(|name| name.parse().unwrap()).collect::<Vec<RegionId>>();
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let entry = |name: &str, port| RegionEntry {
            name: name.parse().unwrap(),
            cluster: at(port),
            reader: at(port + 1),
            writer: at(port + 2),
            link: at(port + 3),
            dns: at(port + 4),
        };
        let known = [entry("a", 7400), entry("c", 7420)];
        let found = |regions: &[&str], base| {
            places(&names(regions), base, &known).into_iter().map(|(_, place)| place).collect::<Vec<_>>()
        };
        assert_eq!(found(&["a", "c"], 7400), [0, 2]);
        assert_eq!(found(&["d"], 7400), [1]);
        assert_eq!(found(&["a", "c", "d", "e"], 7400), [0, 2, 1, 3]);
        assert_eq!(found(&["a", "c"], 7405), [0, 1], "another base begins anew");
    }
}
