//! The console's commands that change something.

use std::time::Duration;

use pangea_pgwire::{ErrorFields, SqlState};

use super::command::Command;
use crate::shared::Shared;

/// Longest wait of a PAUSE for transactions to end. Whoever gave it can cancel it before.
pub(super) const PAUSE_TIMEOUT: Duration = Duration::from_secs(3600);

/// What a command was answered with.
#[derive(Debug, Clone, Default)]
pub(super) struct Done {
    pub(super) tag: &'static str,
    pub(super) notice: Option<ErrorFields>,
}

impl Done {
    pub(super) fn new(tag: &'static str) -> Self {
        Self { tag, notice: None }
    }
}

/// Does what is done at once. A PAUSE has begun with it, and is over when [`super::clients::Clients::settled`] says so.
pub(super) async fn obey(shared: &Shared, command: &Command, by: &str) -> Result<Done, ErrorFields> {
    let clients = &shared.console;
    if let Command::Pause(database) | Command::Resume(database) | Command::Reconnect(database) = command
        && let Some(database) = database
    {
        known(shared, database).await?;
    }
    let done = match command {
        Command::Pause(database) => {
            clients.pause(database.as_deref());
            shared.pools.renew_database(database.as_deref());
            Done::new("PAUSE")
        }
        Command::Resume(database) => {
            resume(shared, database.as_deref())?;
            Done::new("RESUME")
        }
        Command::Reconnect(database) => {
            clients.reconnect(database.as_deref());
            shared.pools.renew_database(database.as_deref());
            Done::new("RECONNECT")
        }
        Command::Kill(database) => {
            known(shared, database).await?;
            // First, so that none comes in behind.
            clients.pause(Some(database));
            clients.kill_database(database);
            Done::new("KILL")
        }
        Command::KillClient(id) if clients.kill_client(*id) => Done::new("KILL"),
        Command::KillClient(id) => {
            return Err(ErrorFields::error(SqlState::UNDEFINED_OBJECT, format!("no client has the id {id}"))
                .with_hint("SHOW CLIENTS tells the ids of this gateway's clients."));
        }
        Command::Reload => reload(shared)?,
        Command::Set => Done::new("SET"),
        Command::Show(_) => Done::new("SHOW"),
    };
    if !matches!(command, Command::Set | Command::Show(_)) {
        tracing::info!(?command, by, "an order was given on the console");
    }
    Ok(done)
}

fn resume(shared: &Shared, database: Option<&str>) -> Result<(), ErrorFields> {
    if shared.console.resume(database) {
        return Ok(());
    }
    let error = |text: String| ErrorFields::error(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, text);
    Err(match database {
        None => error("no database is paused".to_owned()).with_hint("SHOW DATABASES tells which are."),
        Some(database) if shared.console.all_paused() => {
            error(format!("database \"{database}\" is not paused by itself: all are"))
                .with_hint("RESUME without a name ends that.")
        }
        Some(database) => error(format!("database \"{database}\" is not paused"))
            .with_hint("SHOW DATABASES tells which are."),
    })
}

fn reload(shared: &Shared) -> Result<Done, ErrorFields> {
    let waiting = shared.control.reload().map_err(|why| {
        ErrorFields::error(SqlState::CONFIG_FILE_ERROR, "the configuration was not taken over")
            .with_detail(why)
            .with_hint(
                "Nothing has changed. Correct the file; `pangea config check FILE` tells what is wrong.",
            )
    })?;
    let notice = (!waiting.is_empty()).then(|| {
        let text = format!("changed settings that take effect at the next start: {}", waiting.join(", "));
        ErrorFields::warning(SqlState::WARNING, text)
    });
    Ok(Done { tag: "RELOAD", notice })
}

/// Whether there is such a database. What cannot be read is believed: when the server is away is when databases are
/// paused.
async fn known(shared: &Shared, database: &str) -> Result<(), ErrorFields> {
    let (databases, complete) = super::databases(shared).await;
    if databases.contains_key(database) || !complete {
        return Ok(());
    }
    let text = format!("database \"{database}\" does not exist");
    Err(ErrorFields::error(SqlState::UNDEFINED_DATABASE, text)
        .with_hint("SHOW DATABASES tells which there are; their names are taken as they are written."))
}
