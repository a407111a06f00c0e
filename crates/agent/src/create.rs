//! Makes data directories: `initdb` for the primary, `pg_basebackup` for a standby.
//!
//! Both write into a sibling directory that is renamed when it is complete and on disk. A crash in the middle
//! leaves only that sibling, which the next start removes; a failure removes it at once.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use pangea_control::Desired;
use tokio::process::Command;
use tokio::sync::watch;

use crate::error::{ServerError, last_lines};
use crate::rejoin;
use crate::server::{Orders, Phase};
use crate::settings::{HBA_TEXT, SETTINGS_FILE, ServerSpec, conninfo};

/// Pauses between attempts to clone while the primary cannot be reached. There is no last attempt: a region
/// that comes up before its primary has nothing else to do, and its status says what it waits for.
const CLONE_PAUSE_MIN: Duration = Duration::from_millis(100);
const CLONE_PAUSE_MAX: Duration = Duration::from_secs(2);
const INCLUDE_LINE: &str =
    "\n# Pangea's settings; the last line of a setting wins.\ninclude = 'pangea.conf'\n";
const STANDBY_FILE: &str = "standby.signal";

/// Makes the data directory if there is none, checks it if there is one, and writes Pangea's settings.
pub(crate) async fn prepare(
    spec: &ServerSpec,
    role: Desired,
    orders: &watch::Receiver<Orders>,
    phase: &watch::Sender<Phase>,
) -> Result<(), ServerError> {
    spec.check_socket_path()?;
    rejoin::remove_unfinished(spec)?;
    let existing = inspect(&spec.pgdata)?;
    make_private_dir(&spec.socket_dir)?;
    if let Some(log_dir) = spec.log_file.parent() {
        make_private_dir(log_dir)?;
    }
    match existing {
        Found::Ours { major, standby } => {
            check_major(spec, &spec.pgdata, &major)?;
            if role == Desired::Standby && !standby {
                rejoin::make_standby(spec, orders, phase).await?;
                if !spec.pgdata.exists() {
                    clone_until_done(spec, &spec.uplink_dir, phase).await?;
                }
            }
        }
        Found::Foreign => return Err(ServerError::Foreign { path: spec.pgdata.clone() }),
        Found::Nothing => match role {
            Desired::Primary if orders.borrow().create => {
                phase.send_replace(Phase::Initdb);
                initdb(spec, spec.password_file.as_deref()).await?;
            }
            Desired::Primary => return Err(ServerError::NoData { path: spec.pgdata.clone() }),
            Desired::Standby | Desired::Stopped | Desired::Undecided => {
                clone_until_done(spec, &spec.uplink_dir, phase).await?;
            }
        },
    }
    write_settings(&spec.pgdata, spec)
}

/// Whether the data directory is that of a standby.
pub(crate) fn is_standby(pgdata: &Path) -> bool {
    pgdata.join(STANDBY_FILE).exists()
}

/// Marks the data directory as that of a standby.
pub(crate) fn mark_standby(pgdata: &Path) -> Result<(), ServerError> {
    let signal = pgdata.join(STANDBY_FILE);
    write_synced(&signal, "").map_err(ServerError::file("write", &signal))
}

/// Makes the data directory of a standby one that has to be compared with the primary before it starts.
pub(crate) fn unmark_standby(pgdata: &Path) -> Result<(), ServerError> {
    let signal = pgdata.join(STANDBY_FILE);
    fs::remove_file(&signal).map_err(ServerError::file("remove", &signal))
}

/// What is under the name of the data directory.
enum Found {
    Nothing,
    Foreign,
    Ours { major: String, standby: bool },
}

fn inspect(pgdata: &Path) -> Result<Found, ServerError> {
    let mut entries = match fs::read_dir(pgdata) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(ServerError::file("read", pgdata)(error)),
    };
    if entries.next().is_none() {
        return Ok(Found::Nothing);
    }
    if !pgdata.join(SETTINGS_FILE).is_file() {
        return Ok(Found::Foreign);
    }
    match fs::read_to_string(pgdata.join("PG_VERSION")) {
        Ok(text) => {
            Ok(Found::Ours { major: text.trim().to_owned(), standby: pgdata.join(STANDBY_FILE).exists() })
        }
        Err(_) => Ok(Found::Foreign),
    }
}

fn check_major(spec: &ServerSpec, path: &Path, major: &str) -> Result<(), ServerError> {
    let version = spec.bin.version();
    if major == version.major.to_string() {
        return Ok(());
    }
    Err(ServerError::OtherMajor {
        path: path.to_owned(),
        found: major.to_owned(),
        bin: spec.bin.dir().to_owned(),
        version,
    })
}

async fn initdb(spec: &ServerSpec, password_file: Option<&Path>) -> Result<(), ServerError> {
    let unfinished = Unfinished::beside(&spec.pgdata)?;
    let mut command = Command::new(spec.bin.program("initdb"));
    command.arg("-D").arg(&unfinished.path).args(["-U", "postgres", "--auth-local=trust"]);
    // Checksums: corruption on one region's disk is noticed before a failover makes it everybody's.
    command.args(["--auth-host=reject", "-E", "UTF8", "--locale=C", "-k", "--no-instructions"]);
    if let Some(file) = password_file {
        command.arg("--pwfile").arg(file);
    }
    let output = run("initdb", &mut command).await?;
    if !output.status.success() {
        return Err(failure("initdb", &spec.pgdata, &output));
    }
    let path = unfinished.path.join("postgresql.conf");
    append(&path, INCLUDE_LINE).map_err(ServerError::file("write", &path))?;
    write_settings(&unfinished.path, spec)?;
    unfinished.finish(&spec.pgdata)
}

async fn clone_until_done(
    spec: &ServerSpec,
    uplink_dir: &Path,
    phase: &watch::Sender<Phase>,
) -> Result<(), ServerError> {
    let mut pause = CLONE_PAUSE_MIN;
    loop {
        phase.send_if_modified(|phase| {
            let first = !matches!(phase, Phase::WaitingForPrimary(_));
            if first {
                *phase = Phase::BaseBackup;
            }
            first
        });
        match clone(spec, uplink_dir, phase).await {
            // The primary is not up, or the way to it is broken.
            Err(ServerError::Program { said, .. }) => {
                let reason = said.lines().last().unwrap_or_default().trim().to_owned();
                let news = phase.send_if_modified(|phase| {
                    let next = Phase::WaitingForPrimary(reason.clone());
                    let news = *phase != next;
                    *phase = next;
                    news
                });
                if news {
                    tracing::info!(server = spec.name, reason, "cannot clone from the primary yet");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(CLONE_PAUSE_MAX);
            }
            done => return done,
        }
    }
}

async fn clone(
    spec: &ServerSpec,
    uplink_dir: &Path,
    phase: &watch::Sender<Phase>,
) -> Result<(), ServerError> {
    let unfinished = Unfinished::beside(&spec.pgdata)?;
    let mut command = Command::new(spec.bin.program("pg_basebackup"));
    // Under a name of its own: it reports what it has flushed, and must not count as a synchronous standby.
    command.arg("-d").arg(conninfo(uplink_dir, &format!("{}-clone", spec.name)));
    command.arg("-D").arg(&unfinished.path).args(["-X", "stream", "-c", "fast"]);
    // It makes files in the target as soon as the primary has answered: that is progress to show.
    let show_progress = async {
        while !unfinished.path.join("PG_VERSION").exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        phase.send_replace(Phase::BaseBackup);
        std::future::pending::<std::convert::Infallible>().await
    };
    let output = tokio::select! {
        output = run("pg_basebackup", &mut command) => output?,
        never = show_progress => match never {},
    };
    if !output.status.success() {
        return Err(failure("pg_basebackup", &spec.pgdata, &output));
    }
    let version_file = unfinished.path.join("PG_VERSION");
    let major = fs::read_to_string(&version_file).map_err(ServerError::file("read", &version_file))?;
    check_major(spec, &spec.pgdata, major.trim())?;
    write_settings(&unfinished.path, spec)?;
    mark_standby(&unfinished.path)?;
    unfinished.finish(&spec.pgdata)
}

async fn run(action: &'static str, command: &mut Command) -> Result<Output, ServerError> {
    // kill_on_drop: when the region is told to stop meanwhile, nothing must go on writing.
    command.stdin(Stdio::null()).kill_on_drop(true).env("LC_ALL", "C").process_group(0);
    tracing::debug!(action, "running");
    command
        .output()
        .await
        .map_err(|source| ServerError::Spawn { program: command.as_std().get_program().into(), source })
}

fn failure(program: &'static str, path: &Path, output: &Output) -> ServerError {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let error = ServerError::program(program, path, output.status.to_string(), &stderr);
    if let ServerError::Program { .. } = &error {
        tracing::debug!(program, said = last_lines(&stderr), "failed");
    }
    error
}

/// Writes `pangea.conf` and `pg_hba.conf`.
fn write_settings(pgdata: &Path, spec: &ServerSpec) -> Result<(), ServerError> {
    for (name, text) in [("pg_hba.conf", HBA_TEXT), (SETTINGS_FILE, &spec.settings_text())] {
        let path = pgdata.join(name);
        let aside = pgdata.join(format!("{name}.new"));
        write_synced(&aside, text)
            .and_then(|()| fs::rename(&aside, &path))
            .map_err(ServerError::file("write", &path))?;
    }
    Ok(())
}

pub(crate) fn write_synced(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn append(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new().append(true).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Makes a directory that only its owner can enter, or makes an existing one so.
pub(crate) fn make_private_dir(path: &Path) -> Result<(), ServerError> {
    use std::os::unix::fs::PermissionsExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(ServerError::file("create", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
        .map_err(ServerError::file("set the mode of", path))
}

/// Removes a directory with all that is in it, if it is there.
pub(crate) fn remove_dir(path: &Path) -> Result<(), ServerError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(ServerError::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// A data directory in the making; removed again unless it is finished.
struct Unfinished {
    path: PathBuf,
    done: bool,
}

impl Unfinished {
    fn beside(pgdata: &Path) -> Result<Self, ServerError> {
        let name = pgdata.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let path = pgdata.with_file_name(format!(".{name}.unfinished"));
        // By its name it can only be what an earlier start of ours did not finish.
        remove_dir(&path)?;
        Ok(Self { path, done: false })
    }

    fn finish(mut self, pgdata: &Path) -> Result<(), ServerError> {
        let rename = fs::rename(&self.path, pgdata);
        rename.map_err(ServerError::file("rename a finished directory to", pgdata))?;
        self.done = true;
        let parent = pgdata.parent().unwrap_or(Path::new("/"));
        fs::File::open(parent).and_then(|dir| dir.sync_all()).map_err(ServerError::file("sync", parent))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.done
            && let Err(error) = fs::remove_dir_all(&self.path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove an unfinished data directory");
        }
    }
}
