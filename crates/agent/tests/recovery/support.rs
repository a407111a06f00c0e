//! Servers for the tests: those of the agent, on temporary directories.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pangea_agent::{Orders, PgBin, Phase, SOCKET_PORT, Server, ServerSpec, kill_leftover};
use pangea_control::Desired;
use tokio::sync::watch;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// PostgreSQL does not run as root: there, the test runs once more as the user of the servers.
pub(crate) fn delegated(test: &str) -> bool {
    if !nix::unistd::geteuid().is_root() {
        return false;
    }
    let user = nix::unistd::User::from_name("postgres").unwrap().expect("the OS user postgres");
    // By this name it can be run from a directory that the user may not enter.
    let status = std::process::Command::new("/proc/self/exe")
        .args(["--exact", test, "--nocapture"])
        .uid(user.uid.as_raw())
        .gid(user.gid.as_raw())
        .current_dir("/")
        .env_remove("TMPDIR")
        .status()
        .unwrap();
    assert!(status.success(), "{test}: {status}");
    true
}

/// In memory where there is such a place: `initdb`, clones and `pg_rewind` sync all that they write.
pub(crate) fn scratch() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

/// What a server is in a test.
pub(crate) enum Role {
    Primary,
    Standby { uplink_dir: PathBuf },
}

pub(crate) struct Node {
    pub(crate) spec: ServerSpec,
    pub(crate) role: Role,
    server: Option<Server>,
}

impl Node {
    pub(crate) fn new(dir: &std::path::Path, name: &str, role: Role) -> Self {
        let dir = dir.join(name);
        let settings = ["fsync = off", "shared_buffers = 16MB", "recovery_init_sync_method = syncfs"];
        let spec = ServerSpec {
            name: name.to_owned(),
            bin: PgBin::find(None).unwrap(),
            pgdata: dir.join("pgdata"),
            socket_dir: dir.join("run"),
            log_file: dir.join("log"),
            password_file: None,
            uplink_dir: PathBuf::new(),
            region: name.parse().unwrap(),
            reports_dir: Some(dir.join("reports")),
            custom_settings: Vec::new(),
            user_settings: settings.map(str::to_owned).to_vec(),
        };
        Self { spec, role, server: None }
    }

    pub(crate) async fn start(&mut self) {
        std::fs::create_dir_all(self.spec.pgdata.parent().unwrap()).unwrap();
        let mut spec = self.spec.clone();
        let role = match &self.role {
            Role::Primary => Desired::Primary,
            Role::Standby { uplink_dir } => {
                spec.uplink_dir.clone_from(uplink_dir);
                Desired::Standby
            }
        };
        let orders = Orders { role, create: true, follows: None, synchronous: String::new(), rebuild: 0 };
        let mut server = Server::start(spec, watch::channel(orders).1, Vec::new());
        let mut phases = server.phases();
        tokio::select! {
            phase = phases.wait_for(|phase| *phase == Phase::Running) => drop(phase.unwrap()),
            ended = server.ended() => panic!("{ended:?}"),
        }
        self.server = Some(server);
    }

    pub(crate) async fn stop(&mut self) {
        self.server.take().unwrap().stop().await.unwrap();
    }

    /// As a power cut would.
    pub(crate) async fn kill(&mut self) {
        kill_leftover(&self.spec.pgdata).await;
        self.stop().await;
    }

    pub(crate) fn conninfo(&self) -> String {
        format!("host={} port={SOCKET_PORT} user=postgres", self.spec.socket_dir.display())
    }

    pub(crate) async fn connect(&self, database: &str) -> Sql {
        let conninfo = format!("{} dbname='{database}'", self.conninfo());
        let (client, connection) = tokio_postgres::connect(&conninfo, NoTls).await.unwrap();
        tokio::spawn(connection);
        Sql { client }
    }
}

pub(crate) fn standby_of(node: &Node) -> Role {
    Role::Standby { uplink_dir: PathBuf::from(&node.spec.socket_dir) }
}

pub(crate) struct Sql {
    pub(crate) client: Client,
}

impl Sql {
    /// Rows as text; null is `-`.
    pub(crate) async fn rows(&self, sql: &str) -> Vec<Vec<String>> {
        let messages = self.client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let mut rows = Vec::new();
        for message in messages {
            if let SimpleQueryMessage::Row(row) = message {
                rows.push((0..row.len()).map(|at| row.get(at).unwrap_or("-").to_owned()).collect());
            }
        }
        rows
    }

    pub(crate) async fn value(&self, sql: &str) -> String {
        self.rows(sql).await.remove(0).remove(0)
    }

    pub(crate) async fn run(&self, sql: &str) {
        self.rows(sql).await;
    }

    /// Runs it in one transaction and gives that transaction's id.
    pub(crate) async fn transaction(&self, sql: &str) -> u32 {
        let sql = format!("BEGIN; SELECT pg_current_xact_id(); {sql}; COMMIT");
        self.value(&sql).await.parse().unwrap()
    }

    pub(crate) async fn until(&self, sql: &str, expected: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let found = self.value(sql).await;
            if found == expected {
                return;
            }
            assert!(Instant::now() < deadline, "{sql}: {found}, not {expected}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
