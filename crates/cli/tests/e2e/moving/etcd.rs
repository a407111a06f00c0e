//! A cluster that keeps its topology in etcd, by the command.

use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;

use pangea_base::RegionId;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::support::{EU, Pangea, US, eventually, in_scratch};

#[test]
fn up_remembers_store_and_lease() {
    in_scratch(up_and_up_again);
}

async fn up_and_up_again(scratch: &Path) {
    let (_etcd, address) = etcd(scratch).await;
    let data_dir = scratch.join("data");
    let pangea = Pangea::new(&data_dir);
    let regions = format!("{US},{EU}");
    let store = format!("etcd://{address}");
    let up = ["up", "--detach", "--wan", "off", "--port-base", "0", "--regions", &regions];
    pangea.run(&[&up[..], &["--store", &store, "--lease-ttl", "2500"]].concat()).await.ended(0);
    let config = |region: &str| {
        let region: RegionId = region.parse().unwrap();
        let path = data_dir.join(region.as_str()).join("region.toml");
        pangea_node::RegionConfig::load(&path).unwrap()
    };
    let made = config(US);
    assert_eq!(made.failover.lease_ttl_ms, 2500);
    pangea.run(&["switchover", "--to", EU]).await.ended(0);
    pangea.down().await;

    // Left out, both stay as they were; and the primary is where it was moved to.
    pangea.run(&up).await.ended(0);
    let again = config(EU);
    assert_eq!((again.failover.lease_ttl_ms, &again.store), (2500, &made.store));
    let status = pangea.run(&["status", "--json"]).await.ended(0).json();
    assert_eq!((&status["topology"]["primary"], &status["topology"]["epoch"]), (&EU.into(), &2.into()));
    pangea.down().await;
    let run = pangea.run(&["down", "--delete"]).await.ended(0);
    assert!(run.err.contains("etcdctl del --prefix pangea/"), "{run:?}");

    // A cluster with a store of its own does not move to another.
    pangea.up_well().await;
    pangea.down().await;
    pangea.up(&["--store", &store]).await.ended(2).refused(&["leave --store out"]);
}

/// An etcd of one member, and where it listens.
async fn etcd(scratch: &Path) -> (Child, String) {
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (clients, peers) = (free(), free());
    let (clients_url, peers_url) = (format!("http://{clients}"), format!("http://{peers}"));
    let mut command = Command::new("etcd");
    command.arg("--data-dir").arg(scratch.join("etcd"));
    // Debian's etcd for ARM wants to be told that it is meant.
    command.env("ETCD_UNSUPPORTED_ARCH", "arm64");
    command.args(["--listen-client-urls", &clients_url, "--advertise-client-urls", &clients_url]);
    command.args(["--listen-peer-urls", &peers_url, "--initial-advertise-peer-urls", &peers_url]);
    command.args(["--initial-cluster", &format!("default={peers_url}")]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let child =
        command.spawn().unwrap_or_else(|error| panic!("cannot run etcd (apt install etcd-server): {error}"));
    eventually("etcd listens", async || TcpStream::connect(&clients).await.ok()).await;
    (child, clients)
}
