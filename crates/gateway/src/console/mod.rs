//! The administration console: a database named `pangea`, answered by the gateway itself.
//!
//! Operators know it from PgBouncer: `psql -p PORT pangea`, then SHOW, PAUSE, RESUME, RECONNECT, KILL, RELOAD. Commands
//! and columns have PgBouncer's names where they mean the same. It is about this gateway and its clients, not about the
//! cluster's.
//!
//! What it guarantees:
//! * It shows what is known; what is not is NULL (LAG-IS-NEVER-GUESSED).
//! * When PAUSE answers, no client of this gateway has anything under way in what is paused, and nothing begins until it
//!   is resumed. Statements and new clients wait meanwhile, within bounds.
//! * Sessions pay for it with stores to memory of their own (`stats`, `watch`), and with no lock.
//! * It has places of its own, so that it can be reached when there is none left for clients.
//!
//! Rejected: functions in the servers, as `pangea.status()` is one. They would be asked through the very sessions and
//! servers that are to be looked into, and could not pause those.

mod access;
mod clients;
mod command;
mod idle;
mod orders;
mod pools;
mod regions;
mod show;
mod stats;
mod table;
mod watch;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BytesMut;

use crate::shared::Shared;
use crate::stream::Stream;

pub(crate) use clients::{ClientKind, Clients, Identity, Registered};
pub(crate) use watch::{Order, Watch, admitted, killed, paused};

/// The database that is the console.
pub(crate) const DATABASE: &str = "pangea";

/// Most consoles at a time.
pub(crate) const CONSOLES_MAX: usize = 32;

/// Serves an operator who has proved who it is, to the end of the connection.
pub(crate) async fn serve(shared: &Arc<Shared>, stream: Stream, input: BytesMut, registered: Registered) {
    let user = registered.client.identity.user.clone();
    match access::of(shared, &user).await {
        Ok(access) => wire::Console::new(shared, stream, input, registered, access).run().await,
        Err(error) => {
            tracing::info!(user, reason = error.message, "console refused");
            crate::say_goodbye(stream, &error).await;
        }
    }
}

const DATABASES_SQL: &str = "SELECT datname::text FROM pg_catalog.pg_database WHERE datallowconn";

/// The databases that are known and whether they are paused; and whether these are all.
async fn databases(shared: &Shared) -> (BTreeMap<String, bool>, bool) {
    let mut databases = shared.console.databases();
    let rows = shared.admin.query(DATABASES_SQL, &[]).await;
    for row in rows.as_ref().map(Vec::as_slice).unwrap_or_default() {
        let name: String = row.get(0);
        let paused = shared.console.is_paused(&name);
        databases.insert(name, paused);
    }
    (databases, rows.is_ok())
}
