//! What the gateway knows of each database's catalogue, to judge statements by it.
//!
//! One task for each database in use reads the catalogue from the local server and reads it again when it has
//! changed. A name that is not known is judged as one that needs the primary, so a catalogue that is behind costs
//! a round trip and never a wrong answer; what a known name means can change only with the position that
//! [`DatabaseCatalog::covers`] tells.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use pangea_base::{Lsn, Position};
use pangea_sql::{Batch, Cache, Catalog, CatalogBuilder, CatalogTable};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::position::PositionWatch;

/// Bytes of classified statements that are kept for each database: some twenty thousand.
const CACHE_BYTES: usize = 8 << 20;

/// Pause between two looks at the catalogue when nobody asks for one.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Least pause between two looks, however many ask.
const CHECK_PAUSE: Duration = Duration::from_millis(20);

/// Pause after the catalogue could not be read.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// Longest wait of a new session for the first look.
const FIRST_LOOK_TIMEOUT: Duration = Duration::from_secs(3);

/// Longest wait for the local server to replay what the catalogue has to cover.
const REPLAY_TIMEOUT: Duration = Duration::from_secs(2);

const REPLAYED_SQL: &str = "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() \
     THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_flush_lsn() END";

/// The catalogues of the databases in use.
#[derive(Debug)]
pub(crate) struct Catalogs {
    dir: PathBuf,
    position: Arc<PositionWatch>,
    databases: Mutex<HashMap<String, Weak<DatabaseCatalog>>>,
}

/// What is known of one database.
#[derive(Debug)]
pub(crate) struct DatabaseCatalog {
    state: Mutex<State>,
    wanted: Notify,
    version: AtomicU64,
    /// Grows with each attempt to look.
    looks: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    catalog: Arc<Catalog>,
    /// Replay position before the last look.
    covers: Option<Lsn>,
    /// Somebody needs the catalogue to cover this.
    needed: Option<Position>,
    cache: Cache,
}

impl Catalogs {
    pub(crate) fn new(dir: PathBuf, position: Arc<PositionWatch>) -> Self {
        Self { dir, position, databases: Mutex::default() }
    }

    /// The catalogue of a database; begins to read it when nobody has yet.
    pub(crate) fn get(&self, database: &str) -> Arc<DatabaseCatalog> {
        let mut databases = self.databases.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = databases.get(database).and_then(Weak::upgrade) {
            return known;
        }
        databases.retain(|_, catalog| catalog.strong_count() > 0);
        let catalog = Arc::new(DatabaseCatalog::new());
        databases.insert(database.to_owned(), Arc::downgrade(&catalog));
        let reader = Reader {
            dir: self.dir.clone(),
            database: database.to_owned(),
            position: self.position.clone(),
            catalog: Arc::downgrade(&catalog),
            fingerprint: None,
        };
        tokio::spawn(reader.run());
        catalog
    }
}

impl DatabaseCatalog {
    fn new() -> Self {
        let state =
            State { catalog: Arc::default(), covers: None, needed: None, cache: Cache::new(CACHE_BYTES) };
        Self {
            state: Mutex::new(state),
            wanted: Notify::new(),
            version: AtomicU64::new(1),
            looks: watch::channel(0).0,
        }
    }

    /// What a statement's text does.
    pub(crate) fn classify(&self, text: &str) -> Arc<Batch> {
        let catalog = {
            let mut state = self.lock();
            if let Some(batch) = state.cache.get(text) {
                return batch;
            }
            state.catalog.clone()
        };
        let batch = Arc::new(pangea_sql::classify(text, &catalog));
        if batch.unknown_names {
            self.wanted.notify_one();
        }
        let mut state = self.lock();
        if Arc::ptr_eq(&state.catalog, &catalog) {
            state.cache.insert(text, batch.clone());
        }
        batch
    }

    /// Changes with what is known of the catalogue.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Whether the catalogue is at least as new as this position. When not, it is looked at again soon.
    pub(crate) fn covers(&self, position: Position) -> bool {
        let mut state = self.lock();
        let covered = state.covers.is_some_and(|covers| covers >= position.lsn);
        if !covered {
            let further = state
                .needed
                .is_none_or(|needed| (needed.timeline, needed.lsn) < (position.timeline, position.lsn));
            state.needed = if further { Some(position) } else { state.needed };
            self.wanted.notify_one();
        }
        covered
    }

    /// Waits for the first look, within bounds: without it everything goes to the primary.
    pub(crate) async fn first_look(&self) {
        let mut looks = self.looks.subscribe();
        let _ = timeout(FIRST_LOOK_TIMEOUT, looks.wait_for(|looks| *looks > 0)).await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads one database's catalogue while somebody uses it.
struct Reader {
    dir: PathBuf,
    database: String,
    position: Arc<PositionWatch>,
    catalog: Weak<DatabaseCatalog>,
    fingerprint: Option<String>,
}

/// Why the catalogue could not be read.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Row(#[from] pangea_sql::RowError),
}

impl Reader {
    async fn run(mut self) {
        while self.catalog.strong_count() > 0 {
            if let Err(error) = self.read().await {
                tracing::debug!(%error, database = self.database, "the catalogue cannot be read");
            }
            self.looked();
            sleep(RETRY_DELAY).await;
        }
    }

    /// Reads until nobody uses the catalogue any more or the server fails.
    async fn read(&mut self) -> Result<(), ReadError> {
        let config = crate::server::admin_config(&self.dir, &self.database);
        let (client, connection) = config.connect(NoTls).await?;
        let connection = tokio::spawn(connection);
        let result = self.follow(&client).await;
        connection.abort();
        result
    }

    async fn follow(&mut self, client: &Client) -> Result<(), ReadError> {
        client.batch_execute(pangea_sql::SESSION_SQL).await?;
        while let Some(needed) = self.catalog.upgrade().map(|catalog| catalog.lock().needed.take()) {
            if let Some(needed) = needed {
                let _ = timeout(REPLAY_TIMEOUT, self.position.replayed(needed)).await;
            }
            self.look(client).await?;
            self.looked();
            sleep(CHECK_PAUSE).await;
            let Some(catalog) = self.catalog.upgrade() else { return Ok(()) };
            let _ = timeout(CHECK_INTERVAL, catalog.wanted.notified()).await;
        }
        Ok(())
    }

    async fn look(&mut self, client: &Client) -> Result<(), ReadError> {
        // Before the look: what is replayed during it may or may not be seen.
        let covers = one_text(client, REPLAYED_SQL).await?.and_then(|text| text.parse().ok());
        let fingerprint = one_text(client, pangea_sql::FINGERPRINT_SQL).await?;
        let fresh = if fingerprint.is_some() && fingerprint == self.fingerprint {
            None
        } else {
            Some(Arc::new(read_catalog(client).await?))
        };
        self.fingerprint = fingerprint;
        if let Some(catalog) = self.catalog.upgrade() {
            let mut state = catalog.lock();
            if let Some(fresh) = fresh {
                state.catalog = fresh;
                state.cache.clear();
                catalog.version.fetch_add(1, Ordering::Release);
            }
            state.covers = covers;
        }
        Ok(())
    }

    fn looked(&self) {
        if let Some(catalog) = self.catalog.upgrade() {
            catalog.looks.send_modify(|looks| *looks += 1);
        }
    }
}

async fn one_text(client: &Client, sql: &str) -> Result<Option<String>, ReadError> {
    for message in client.simple_query(sql).await? {
        if let SimpleQueryMessage::Row(row) = message {
            return Ok(row.get(0).map(str::to_owned));
        }
    }
    Ok(None)
}

async fn read_catalog(client: &Client) -> Result<Catalog, ReadError> {
    let mut builder = CatalogBuilder::new();
    for table in CatalogTable::ALL {
        for message in client.simple_query(table.sql()).await? {
            if let SimpleQueryMessage::Row(row) = message {
                let columns: Vec<Option<&str>> = (0..row.len()).map(|column| row.get(column)).collect();
                builder.add_row(table, &columns)?;
            }
        }
    }
    Ok(builder.build())
}
