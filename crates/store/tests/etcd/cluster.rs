//! Three members of etcd on this machine, gone when the test is.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pangea_store::{Store, StoreConfig, StoreError};
use tempfile::TempDir;

use crate::admin;
use crate::certs::Certs;

/// Of `Store` in most tests: so long that a machine with other things to do makes nothing fail.
const PATIENT_MS: u64 = 10_000;

/// How long a cluster may take to start or to find a leader.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Ports below those that the system gives to outgoing connections, and not those of the other tests.
const PORT_MIN: u32 = 12_000;
const PORT_COUNT: u32 = 7_000;

/// Runs etcd and ends it when standard input closes, which the end of the test process does, however it ends.
const KEEPER: &str = r#""$@" & echo $!; exec >/dev/null; cat; kill -9 $!; wait"#;

pub(crate) struct Cluster {
    members: Vec<Member>,
    pub(crate) certs: Option<Certs>,
    pub(crate) dir: TempDir,
}

struct Member {
    arguments: Vec<String>,
    endpoint: String,
    log: PathBuf,
    keeper: Option<Child>,
    pid: Option<Pid>,
}

impl Cluster {
    /// Three members without TLS and users.
    pub(crate) async fn plain() -> Self {
        Self::start(None).await
    }

    /// Three members that ask for a client certificate. Tokens of users live a second.
    pub(crate) async fn secure() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let certs = Certs::new(dir.path());
        Self::start(Some((dir, certs))).await
    }

    async fn start(secure: Option<(TempDir, Certs)>) -> Self {
        let (dir, certs) = match secure {
            Some((dir, certs)) => (dir, Some(certs)),
            None => (tempfile::tempdir().unwrap(), None),
        };
        let ports = free_ports(6);
        let scheme = if certs.is_some() { "https" } else { "http" };
        let peer = |n: usize| format!("http://127.0.0.1:{}", ports[n + 3]);
        let all: Vec<_> = (0..3).map(|n| format!("m{n}={}", peer(n))).collect();
        let members = (0..3).map(|n| {
            let endpoint = format!("{scheme}://127.0.0.1:{}", ports[n]);
            let mut arguments = vec![
                format!("--name=m{n}"),
                format!("--data-dir={}", dir.path().join(format!("m{n}")).display()),
                format!("--listen-client-urls={endpoint}"),
                format!("--advertise-client-urls={endpoint}"),
                format!("--listen-peer-urls={}", peer(n)),
                format!("--initial-advertise-peer-urls={}", peer(n)),
                format!("--initial-cluster={}", all.join(",")),
                "--log-level=warn".to_owned(),
            ];
            if let Some(certs) = &certs {
                arguments.extend(certs.server_arguments());
                arguments.extend(["--auth-token-ttl=1".to_owned(), "--bcrypt-cost=4".to_owned()]);
            }
            let log = dir.path().join(format!("m{n}.log"));
            Member { arguments, endpoint, log, keeper: None, pid: None }
        });
        let mut cluster = Self { members: members.collect(), certs, dir };
        for n in 0..3 {
            cluster.restart(n);
        }
        for n in 0..3 {
            cluster.wait_ready(&[n]).await;
        }
        cluster
    }

    /// For a store of all members, which are asked in this order.
    pub(crate) fn config(&self, order: &[usize], prefix: &str) -> StoreConfig {
        let paths = self.certs.as_ref();
        StoreConfig::Etcd {
            endpoints: order.iter().map(|&n| self.members[n].endpoint.clone()).collect(),
            prefix: prefix.to_owned(),
            ca: paths.map(|certs| certs.ca.clone()),
            cert: paths.map(|certs| certs.client_cert.clone()),
            key: paths.map(|certs| certs.client_key.clone()),
            user: None,
            password_file: None,
            request_timeout_ms: PATIENT_MS,
        }
    }

    /// As [`Self::config`], with a request timeout.
    pub(crate) fn impatient(&self, order: &[usize], prefix: &str, timeout: Duration) -> StoreConfig {
        let mut config = self.config(order, prefix);
        if let StoreConfig::Etcd { request_timeout_ms, .. } = &mut config {
            *request_timeout_ms = timeout.as_millis().try_into().unwrap();
        }
        config
    }

    pub(crate) fn kill(&mut self, n: usize) {
        // The keeper's standard input closes.
        let mut keeper = self.members[n].keeper.take().unwrap();
        drop(keeper.stdin.take());
        keeper.wait().unwrap();
        self.members[n].pid = None;
    }

    pub(crate) fn restart(&mut self, n: usize) {
        let member = &mut self.members[n];
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&member.log).unwrap();
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper", "etcd"])
            .args(&member.arguments)
            // Debian's etcd for ARM wants to be told that it is meant.
            .env("ETCD_UNSUPPORTED_ARCH", "arm64")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut line).unwrap();
        member.pid = Some(Pid::from_raw(line.trim().parse().unwrap()));
        member.keeper = Some(keeper);
    }

    /// Stops the member, and returns when each of its threads has stopped: the signal alone leaves those that run
    /// on another processor a moment, which is enough to pass a request on.
    pub(crate) fn freeze(&self, n: usize) {
        let pid = self.members[n].pid.unwrap();
        kill(pid, Signal::SIGSTOP).unwrap();
        let threads = PathBuf::from(format!("/proc/{pid}/task"));
        let stopped = |thread: std::io::Result<std::fs::DirEntry>| {
            // proc(5), /proc/pid/stat: the state follows the name, which is in parentheses.
            let stat = std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap();
            stat.rsplit_once(") ").unwrap().1.starts_with('T')
        };
        while !std::fs::read_dir(&threads).unwrap().all(stopped) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn thaw(&self, n: usize) {
        kill(self.members[n].pid.unwrap(), Signal::SIGCONT).unwrap();
    }

    /// Returns when the members, asked in this order, give an answer.
    pub(crate) async fn wait_ready(&self, order: &[usize]) {
        let began = Instant::now();
        let store = Store::open(&self.config(order, "ready/")).await.unwrap();
        loop {
            match store.load().await {
                // A user is asked for: so it is ready.
                Ok(_) | Err(StoreError::Invalid(_)) => return,
                Err(error) if began.elapsed() > READY_TIMEOUT => panic!("{error}\n{}", self.logs()),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Indices of the members, those of followers first, that of the leader last.
    pub(crate) async fn followers_first(&self) -> [usize; 3] {
        let endpoints = self.members.iter().map(|member| member.endpoint.clone()).collect();
        let leader = admin::leader(endpoints).await;
        [(leader + 1) % 3, (leader + 2) % 3, leader]
    }

    pub(crate) fn endpoint(&self, n: usize) -> &str {
        &self.members[n].endpoint
    }

    fn logs(&self) -> String {
        let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
        self.members.iter().map(|member| read(&member.log)).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for n in 0..self.members.len() {
            if self.members[n].keeper.is_some() {
                self.kill(n);
            }
        }
    }
}

fn free_ports(count: usize) -> Vec<u16> {
    static CLUSTERS: AtomicU32 = AtomicU32::new(0);
    let cluster = CLUSTERS.fetch_add(1, Ordering::Relaxed);
    let first = std::process::id().wrapping_mul(97).wrapping_add(cluster * 20);
    let candidates = (0..PORT_COUNT).map(|n| PORT_MIN + first.wrapping_add(n) % PORT_COUNT);
    // Held until all are found, or one would be found twice.
    let listeners: Vec<_> = candidates
        .filter_map(|port| TcpListener::bind(("127.0.0.1", u16::try_from(port).unwrap())).ok())
        .take(count)
        .collect();
    assert_eq!(listeners.len(), count, "no free ports");
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}
