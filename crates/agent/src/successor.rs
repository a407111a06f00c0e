//! An in-region reader takes the place of its region's server when that does not start again.
//!
//! The region stays what it was: a primary region stays primary, in the same epoch, and nothing that was acknowledged is
//! lost. What the dead server has flushed and the reader has not received is still in the dead one's `pg_wal`, which
//! this process can read: those segments are copied to the reader's, and it is not promoted before it has replayed them.
//! When they cannot be read the reader is left as it is; a primary region without a server resigns, and another region
//! takes over.
//!
//! The reader's data directory is renamed to the server's, and the failed one is kept beside it (`pgdata.failed`, until
//! the next time). The reader is then cloned anew.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pangea_base::Lsn;
use pangea_control::Desired;
use tokio::sync::watch;

use crate::error::ServerError;
use crate::promote::connect;
use crate::recovery::{Log, RecoveryError, control_data, tail};
use crate::server::{Followed, Orders, Server, State};
use crate::settings::ServerSpec;
use crate::{create, postmaster, rejoin};

/// Longest wait for the reader to shut down; the agent itself uses stronger signals before that.
const STOP_TIMEOUT: Duration = Duration::from_secs(45);
/// Longest wait for a reader's answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// An in-region reader. Whoever cares for the region's server holds one for each.
#[derive(Debug, Clone)]
pub struct Reader {
    spec: ServerSpec,
    orders: Arc<watch::Sender<Orders>>,
    states: watch::Receiver<State>,
}

impl Reader {
    /// Starts its server.
    #[must_use]
    pub fn start(spec: ServerSpec) -> (Self, Server) {
        let (orders, ordered) = watch::channel(Orders::standby());
        let server = Server::start(spec.clone(), ordered, Vec::new());
        (Self { spec, orders: Arc::new(orders), states: server.states() }, server)
    }

    /// Tells it who is primary: what it has and the primary has not must go.
    pub fn follow(&self, followed: Followed) {
        self.orders.send_if_modified(|orders| {
            let follows = Some(followed);
            let news = orders.follows != follows;
            orders.follows = follows;
            news
        });
    }

    fn order(&self, role: Desired) {
        self.orders.send_modify(|orders| orders.role = role);
    }

    /// Up to where it has replayed the log, and up to where it has it, when it runs.
    async fn position(&self) -> Option<(Lsn, Lsn)> {
        const SQL: &str = "SELECT pg_catalog.pg_last_wal_replay_lsn()::text, \
             greatest(pg_catalog.pg_last_wal_receive_lsn(), pg_catalog.pg_last_wal_replay_lsn())::text";
        if *self.states.borrow() != State::Standby {
            return None;
        }
        let ask = async { connect(&self.spec.socket_dir).await.ok()?.query_one(SQL, &[]).await.ok() };
        let row = tokio::time::timeout(ASK_TIMEOUT, ask).await.ok()??;
        let lsn = |index| row.get::<_, Option<&str>>(index)?.parse().ok();
        Some((lsn(0)?, lsn(1)?))
    }

    async fn stop(&self) -> Result<(), Failed> {
        self.order(Desired::Stopped);
        let mut states = self.states.clone();
        let down = async { states.wait_for(|state| *state == State::Down).await.map(|_| ()) };
        match tokio::time::timeout(STOP_TIMEOUT, down).await {
            // That is told when it begins to shut down.
            Ok(Ok(())) => Ok(postmaster::stop_leftover(&self.spec.pgdata).await?),
            Ok(Err(_)) => Err(Failed::Refused(format!("{} is no longer cared for", self.spec.name))),
            Err(_) => Err(Failed::Refused(format!("{} does not stop", self.spec.name))),
        }
    }
}

/// Why no reader takes the place.
enum Failed {
    Refused(String),
    Recovery(RecoveryError),
}

impl<E: Into<RecoveryError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::Recovery(error.into())
    }
}

/// What the server was whose place is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Was {
    /// Nothing that it has flushed may be missing.
    Primary,
    /// It has told the primary what it has flushed, and commits have counted on it.
    SynchronousStandby,
    Standby,
}

/// Puts the most advanced reader in the place of the server, which does not run. Returns where the last record begins
/// that the reader has to replay before it is promoted, if it has not done so.
pub(crate) async fn succeed(
    spec: &ServerSpec,
    readers: &[Reader],
    was: Was,
) -> Result<Option<Lsn>, ServerError> {
    postmaster::kill_leftover(&spec.pgdata).await;
    let refused = |reason| ServerError::NoSuccessor { path: spec.pgdata.clone(), reason };
    let mut candidates = Vec::new();
    for reader in readers {
        candidates.extend(reader.position().await.map(|position| (position, reader)));
    }
    let best = candidates.into_iter().max_by_key(|((_, received), _)| *received);
    let ((replayed, received), reader) =
        best.ok_or_else(|| refused("no in-region reader runs".to_owned()))?;
    let taken = async {
        reader.stop().await?;
        let failed = failed_dir(&spec.pgdata);
        let left = if spec.pgdata.exists() { &spec.pgdata } else { &failed };
        let log = left.join("pg_wal");
        let last = match was {
            Was::Primary => complete(&reader.spec, &log, replayed, None).await?,
            Was::SynchronousStandby => complete(&reader.spec, &log, replayed, Some(received)).await?,
            Was::Standby => None,
        };
        take_over(spec, &reader.spec.pgdata)?;
        Ok(last)
    };
    let taken = taken.await;
    reader.order(Desired::Standby);
    match taken {
        Ok(last) => {
            tracing::warn!(server = spec.name, reader = reader.spec.name, %replayed, "a reader takes its place");
            Ok(last)
        }
        Err(Failed::Refused(reason)) => Err(refused(reason)),
        Err(Failed::Recovery(RecoveryError::Server(error))) => Err(error),
        Err(Failed::Recovery(error)) => Err(refused(crate::error::chain(&error))),
    }
}

/// Copies to the stopped reader what it has not got of the log in `left`. Returns where the last record begins that it
/// has not replayed, if there is one. A standby's log may end before what its reader has `received`: then nothing is
/// copied.
async fn complete(
    reader: &ServerSpec,
    left: &Path,
    replayed: Lsn,
    received: Option<Lsn>,
) -> Result<Option<Lsn>, Failed> {
    let control = control_data(&reader.bin, &reader.pgdata).await?;
    let timeline = rejoin::last_timeline(reader).await?;
    let newest = rejoin::newest_segment(left)?;
    if newest.is_none_or(|newest| newest > timeline) {
        let reason = format!("{} has not come to the timeline that the server wrote", reader.name);
        return Err(Failed::Refused(reason));
    }
    // A byte earlier: exactly at its end a segment is not begun.
    let from = Lsn(replayed.0.saturating_sub(1));
    let log = Log { dir: left, timeline, from, segment_bytes: control.wal_segment_bytes };
    let Some(last_segment) = log.last_segment() else {
        if received.is_some() {
            return Ok(None);
        }
        return Err(Failed::Refused(format!("the server's log cannot be read from {replayed} on")));
    };
    // What was received in part only the primary has whole as well, and sends again.
    let last =
        tail(&reader.bin, log).await?.last.filter(|last| received.is_none_or(|received| *last >= received));
    let Some(last) = last else { return Ok(None) };
    // The last record may end in the next segment; beyond that something was written that cannot be read.
    if last.0 / log.segment_bytes + 1 < last_segment {
        return Err(Failed::Refused(format!("the server's log is damaged after {last}")));
    }
    let to = reader.pgdata.join("pg_wal");
    let segments: Vec<PathBuf> =
        (from.0 / log.segment_bytes..=last_segment).map(|number| log.segment(number)).collect();
    let copied = tokio::task::spawn_blocking(move || copy(&segments, &to)).await;
    match copied {
        Ok(copied) => copied?,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
    Ok(Some(last))
}

fn copy(segments: &[PathBuf], to: &Path) -> Result<(), ServerError> {
    for segment in segments {
        let Some(name) = segment.file_name() else { continue };
        let (unfinished, finished) = (to.join("pangea.unfinished"), to.join(name));
        std::fs::copy(segment, &unfinished)
            .and_then(|_| File::open(&unfinished)?.sync_all())
            .and_then(|()| std::fs::rename(&unfinished, &finished))
            .map_err(ServerError::file("copy", segment))?;
    }
    File::open(to).and_then(|dir| dir.sync_all()).map_err(ServerError::file("sync", to))
}

/// Renames the directories. When that is cut short between the two, there is no data directory but a failed one, which
/// is seen at the next start.
fn take_over(spec: &ServerSpec, reader: &Path) -> Result<(), ServerError> {
    if spec.pgdata.exists() {
        put_aside(&spec.pgdata)?;
    }
    std::fs::rename(reader, &spec.pgdata).map_err(ServerError::file("rename", reader))?;
    let parent = spec.pgdata.parent().unwrap_or(Path::new("/"));
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(ServerError::file("sync", parent))
}

/// Where data are put that a server does not start with.
fn failed_dir(pgdata: &Path) -> PathBuf {
    pgdata.with_extension("failed")
}

/// Puts data there, in the place of what was there before.
pub(crate) fn put_aside(pgdata: &Path) -> Result<PathBuf, ServerError> {
    let failed = failed_dir(pgdata);
    create::remove_dir(&failed)?;
    std::fs::rename(pgdata, &failed).map_err(ServerError::file("put aside", pgdata))?;
    Ok(failed)
}

/// Whether the data of the server are gone that there were.
pub(crate) fn is_gone(spec: &ServerSpec, has_run: bool) -> bool {
    !spec.pgdata.join("PG_VERSION").exists() && (has_run || failed_dir(&spec.pgdata).exists())
}
