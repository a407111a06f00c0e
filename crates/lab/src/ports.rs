//! Which region listens where.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use pangea_base::RegionId;

use crate::error::ClusterError;
use crate::manifest::RegionEntry;

/// Ports from one region's first to the next one's.
const STRIDE: u16 = 10;
/// What each port is for, in the order of the plan.
const PURPOSES: [&str; 4] = ["cluster endpoint", "reader endpoint", "writer endpoint", "link"];

/// Plans the ports of all regions: from `base` upwards, or free ones when it is 0. Checks that they are free.
pub(crate) fn plan(regions: &[RegionId], base: u16) -> Result<Vec<RegionEntry>, ClusterError> {
    // Held until all are chosen, so that no port is chosen twice.
    let mut held = Vec::new();
    let mut entries = Vec::new();
    for (index, region) in regions.iter().enumerate() {
        let mut ports = [0; PURPOSES.len()];
        for (offset, (port, purpose)) in ports.iter_mut().zip(PURPOSES).enumerate() {
            let wanted = if base == 0 { 0 } else { number(base, index, offset)? };
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
        let [cluster, reader, writer, link] = ports.map(at);
        entries.push(RegionEntry { name: region.clone(), cluster, reader, writer, link });
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
        let entries = plan(&regions, 0).unwrap();
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
        let error = plan(&regions, port).unwrap_err().to_string();
        assert!(error.contains(&port.to_string()) && error.contains("--port-base"), "{error}");
    }
}
