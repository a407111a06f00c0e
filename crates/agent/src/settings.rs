//! What a server is told: pure text, tested without a server.
//!
//! Pangea's settings live in `pangea.conf`, included at the end of `postgresql.conf` and rewritten at every
//! start. The few on which safety rests (no TCP port, the private socket) are given on the command line as
//! well, because `ALTER SYSTEM` would otherwise override them.

use std::path::{Path, PathBuf};

use pangea_base::RegionId;

use crate::SOCKET_PORT;
use crate::bin::PgBin;
use crate::error::{SOCKET_PATH_LEN_MAX, ServerError};

/// Written beside `postgresql.conf`; also the mark that Pangea made the directory.
pub(crate) const SETTINGS_FILE: &str = "pangea.conf";

const SYNCHRONOUS_COMMIT: &str = "synchronous_commit";

/// Everything about one server.
#[derive(Debug, Clone)]
pub struct ServerSpec {
    /// `cluster_name` and, for a standby, `application_name`: the region, or `<region>-reader1`.
    pub name: String,
    /// Programs to run.
    pub bin: PgBin,
    /// Data directory.
    pub pgdata: PathBuf,
    /// Directory (0700) of its socket.
    pub socket_dir: PathBuf,
    /// Its log.
    pub log_file: PathBuf,
    /// File with the password of the role `postgres`, read once, when the data of the cluster is created.
    pub password_file: Option<PathBuf>,
    /// Directory of the socket that leads to the primary's server.
    pub uplink_dir: PathBuf,
    /// Its region.
    pub region: RegionId,
    /// Directory of the reports of what was lost; `None` for an in-region reader, which has nothing that its region's
    /// server has not.
    pub reports_dir: Option<PathBuf>,
    /// Custom settings (`pangea.…`) and their defaults.
    pub custom_settings: Vec<(String, String)>,
    /// Lines of the user, which come last.
    pub user_settings: Vec<String>,
}

impl ServerSpec {
    /// Path of its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.socket_dir.join(format!(".s.PGSQL.{SOCKET_PORT}"))
    }

    /// How it reaches the primary.
    pub(crate) fn primary(&self) -> String {
        conninfo(&self.uplink_dir, &self.name)
    }

    /// The system cuts or refuses longer socket paths with a message that helps nobody.
    pub(crate) fn check_socket_path(&self) -> Result<(), ServerError> {
        let path = self.socket();
        let length = path.as_os_str().len();
        if length > SOCKET_PATH_LEN_MAX {
            return Err(ServerError::SocketPathTooLong { path, length });
        }
        Ok(())
    }

    /// Arguments of `postgres`.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let setting = |name: &str, value: String| ["-c".to_owned(), format!("{name}={value}")];
        let mut arguments = vec!["-D".to_owned(), self.pgdata.display().to_string()];
        arguments.extend(setting("listen_addresses", String::new()));
        arguments.extend(setting("port", SOCKET_PORT.to_string()));
        arguments.extend(setting("unix_socket_directories", list_element(&self.socket_dir)));
        // Gateways ask once for a connection whether its commits wait for the log: a reload must not change it.
        if !self.user_settings.iter().any(|line| line.contains(SYNCHRONOUS_COMMIT)) {
            arguments.extend(setting(SYNCHRONOUS_COMMIT, "on".to_owned()));
        }
        arguments
    }

    /// Text of `pangea.conf`.
    pub(crate) fn settings_text(&self) -> String {
        let mut text = String::from(
            "# Written by Pangea at every start: changes here are lost.\n\
             # Own settings go into `postgres_settings` of the region's configuration, or ALTER SYSTEM.\n",
        );
        let mut line = |name: &str, value: &str| {
            text.push_str(name);
            text.push_str(" = ");
            text.push_str(value);
            text.push('\n');
        };
        line("listen_addresses", "''");
        line("port", &SOCKET_PORT.to_string());
        line("unix_socket_directories", &quoted(&list_element(&self.socket_dir)));
        line("unix_socket_permissions", "0700");
        line("cluster_name", &quoted(&self.name));
        for (name, value) in FIXED {
            line(name, value);
        }
        for (name, value) in &self.custom_settings {
            line(name, &quoted(value));
        }
        // A primary takes no note of these.
        line("primary_conninfo", &quoted(&self.primary()));
        line("recovery_target_timeline", "'latest'");
        if !self.user_settings.is_empty() {
            text.push_str("\n# postgres_settings of the region's configuration\n");
        }
        for setting in &self.user_settings {
            text.push_str(setting);
            text.push('\n');
        }
        text
    }
}

/// The same in every region: a standby refuses to start with lower limits than its primary's.
const FIXED: [(&str, &str); 21] = [
    ("max_connections", "200"),
    ("max_prepared_transactions", "64"),
    // 11 regions of one server and three readers, each with a second connection while it is cloned.
    ("max_wal_senders", "100"),
    ("max_replication_slots", "64"),
    // Row changes of lost transactions are decoded after a failover.
    ("wal_level", "logical"),
    // pg_rewind needs it.
    ("wal_log_hints", "on"),
    // How long a secondary may be away without being cloned anew.
    ("wal_keep_size", "'256MB'"),
    // How much the slots that lost transactions are decoded from may hold back (`recovery::slots`).
    ("max_slot_wal_keep_size", "'1GB'"),
    // After a crash every file is made durable before the log is replayed: one by one that takes a second or more, as a
    // whole file system tens of milliseconds, unless something else writes much to the same one.
    ("recovery_init_sync_method", "'syncfs'"),
    ("hot_standby", "on"),
    // Long reads in a secondary are not cancelled by vacuum on the primary.
    ("hot_standby_feedback", "on"),
    ("wal_receiver_status_interval", "'1s'"),
    ("wal_retrieve_retry_interval", "'100ms'"),
    // A client that is gone does not keep its query running.
    ("client_connection_check_interval", "'1s'"),
    ("password_encryption", "'scram-sha-256'"),
    ("dynamic_shared_memory_type", "posix"),
    ("jit", "off"),
    // Standard error is the log file that the agent opened.
    ("logging_collector", "off"),
    ("log_destination", "'stderr'"),
    ("log_line_prefix", "'%m [%p] %b '"),
    ("log_checkpoints", "on"),
];

/// Text of `pg_hba.conf`. The only door is a socket in a 0700 directory: whoever comes through it is this
/// region's gateway, which has authenticated the client, or the OS user that owns the files anyway.
pub(crate) const HBA_TEXT: &str = "# Written by Pangea: the only door is the socket in a directory of mode 0700.\n\
     local all         all trust\n\
     local replication all trust\n";

/// How a standby reaches the primary. Never changes: the uplink leads to whichever region is primary.
pub(crate) fn conninfo(uplink_dir: &Path, name: &str) -> String {
    let value = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    format!(
        "host={} port={SOCKET_PORT} user=postgres sslmode=disable application_name={}",
        value(&uplink_dir.display().to_string()),
        value(name)
    )
}

/// A string of `postgresql.conf`.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// An element of a list setting, so that a comma or blank in a path does not split it.
fn list_element(path: &Path) -> String {
    format!("\"{}\"", path.display().to_string().replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(uplink_dir: &str) -> ServerSpec {
        ServerSpec {
            name: "eu-west-1".into(),
            bin: PgBin::fake(),
            pgdata: "/d/eu/pgdata".into(),
            socket_dir: "/d/eu's/run".into(),
            log_file: "/d/eu/log/postgres.log".into(),
            password_file: None,
            uplink_dir: uplink_dir.into(),
            region: "eu-west-1".parse().unwrap(),
            reports_dir: Some("/d/eu/recovery".into()),
            custom_settings: vec![("pangea.token".into(), "a'b".into())],
            user_settings: vec!["work_mem = '8MB'".into(), "max_connections = 300".into()],
        }
    }

    #[test]
    fn user_settings_come_last() {
        let text = spec("/u").settings_text();
        assert!(text.contains("listen_addresses = ''\n"));
        assert!(text.contains("unix_socket_directories = '\"/d/eu''s/run\"'\n"), "{text}");
        assert!(text.contains("pangea.token = 'a''b'\n"), "{text}");
        assert!(text.ends_with("work_mem = '8MB'\nmax_connections = 300\n"), "{text}");
    }

    #[test]
    fn standby_streams_through_its_uplink() {
        let text = spec("/d/o'x/run/uplink").settings_text();
        let expected = "primary_conninfo = 'host=''/d/o\\\\''x/run/uplink'' port=5432 user=postgres \
                        sslmode=disable application_name=''eu-west-1'''\n";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn no_port_even_against_alter_system() {
        let arguments = spec("/u").arguments();
        assert!(arguments.contains(&"listen_addresses=".to_owned()));
        assert!(arguments.contains(&"unix_socket_directories=\"/d/eu's/run\"".to_owned()));
    }

    #[test]
    fn a_reload_cannot_make_commits_asynchronous() {
        let mut spec = spec("/u");
        assert!(spec.arguments().contains(&"synchronous_commit=on".to_owned()));
        spec.user_settings.push("synchronous_commit = off".into());
        assert!(!spec.arguments().contains(&"synchronous_commit=on".to_owned()), "the user's word counts");
    }

    #[test]
    fn long_socket_paths_are_refused() {
        let mut long = spec("/u");
        long.socket_dir = PathBuf::from(format!("/{}", "x".repeat(92)));
        assert!(long.check_socket_path().is_ok());
        long.socket_dir = PathBuf::from(format!("/{}", "x".repeat(93)));
        let error = long.check_socket_path().unwrap_err().to_string();
        assert!(error.contains("108 bytes") && error.contains("--data-dir"), "{error}");
    }
}
