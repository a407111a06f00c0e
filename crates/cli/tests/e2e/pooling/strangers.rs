//! Many clients on few servers, each with a session full of its own things.
//!
//! `PANGEA_POOL_SECONDS` and `PANGEA_POOL_CLIENTS` make it longer and more; `PANGEA_POOL_SEED` repeats what clients chose
//! to do.

use std::str::FromStr;
use std::time::{Duration, Instant};

use pangea_lab::history::Rng;
use tokio::time::timeout;
use tokio_postgres::NoTls;

use super::POOL_SIZE;
use crate::support::{EU, Lab, Session, US, code, eventually, pool_seconds};

/// Longest time that one step may take with all the others about.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);

/// Growth of the gateway's memory, in kB, that is not called a leak: allocators keep what they may need.
const GROWTH_KB_MAX: u64 = 4 * 1024;

fn given<T: FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

pub(super) async fn do_what_they_like(lab: &Lab) {
    let seconds = pool_seconds().unwrap_or(8);
    let (count, seed) = (given("PANGEA_POOL_CLIENTS", 60), given("PANGEA_POOL_SEED", 1));
    lab.connect(US).await.run(SETUP).await;
    for region in [US, EU] {
        lab.replicated(region, "SELECT count(*) FROM pg_roles WHERE rolname = 'stranger'").await;
    }
    let end = Instant::now() + Duration::from_secs(seconds);
    let clients = (0..count).map(|number| {
        let region = if number % 2 == 0 { US } else { EU };
        async move {
            let mut client = Stranger::new(lab, region, number, seed).await;
            let mut steps = 0_u64;
            while Instant::now() < end {
                let step = timeout(STEP_TIMEOUT, client.step(lab, region)).await;
                step.unwrap_or_else(|_| panic!("stranger {number} waits for ever in step {steps}"));
                steps += 1;
            }
            steps
        }
    });
    let half = async {
        tokio::time::sleep(Duration::from_secs(seconds) / 2).await;
        [resident_kb(lab, US).await, resident_kb(lab, EU).await]
    };
    let (steps, before) = futures_util::join!(futures_util::future::join_all(clients), half);
    let after = [resident_kb(lab, US).await, resident_kb(lab, EU).await];
    eprintln!(
        "{count} strangers did {} steps in {seconds} s; resident {before:?} kB at half time, {after:?} at the end",
        steps.iter().sum::<u64>()
    );
    for (before, after) in before.iter().zip(after) {
        assert!(after <= before + GROWTH_KB_MAX, "memory grows: {before} kB, then {after} kB");
    }
    nothing_is_left(lab).await;
}

const SETUP: &str = "CREATE ROLE stranger; CREATE TABLE seen (id int); \
    CREATE FUNCTION remember(what text) RETURNS text LANGUAGE plpgsql AS \
    $$ BEGIN PERFORM set_config('app.remembered', what, false); RETURN what; END $$";

/// What clients are gone from is given back, and nothing of theirs is on it.
async fn nothing_is_left(lab: &Lab) {
    for region in [US, EU] {
        let server = lab.server(region).connect().await;
        let sessions = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' \
                        AND usename = 'postgres' AND application_name NOT LIKE 'pangea%' \
                        AND pid <> pg_backend_pid()";
        let within = async || {
            let open: usize = server.text(sessions).await.parse().ok()?;
            // The pool of the region's own sessions, and those of the regions that reach this one.
            (open <= 3 * POOL_SIZE).then_some(())
        };
        eventually("pools are within their limit", within).await;
        let busy = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%'";
        eventually("no transaction is left open", async || (server.text(busy).await == "0").then_some(()))
            .await;
        let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
        eventually("no lock is left", async || (server.text(locks).await == "0").then_some(())).await;
    }
}

/// Resident memory of a region's process.
async fn resident_kb(lab: &Lab, region: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", lab.pid(region).await));
    let status = status.unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}

/// A client, and what its session must look like.
struct Stranger {
    number: u64,
    rng: Rng,
    session: Session,
    /// `app.me`, `app.remembered`.
    me: Option<String>,
    remembered: Option<String>,
    timeout: Option<u32>,
    is_stranger: bool,
    statement: Option<tokio_postgres::Statement>,
    has_sql_statement: bool,
    /// Rows in the temporary table.
    table: Option<u64>,
    locked: bool,
    cursor: bool,
    listens: bool,
    /// Notifications that it has sent.
    notified: u64,
}

impl Stranger {
    async fn new(lab: &Lab, region: &str, number: u64, seed: u64) -> Self {
        let session = lab.at(region).named(&format!("stranger {number}")).connect().await;
        Self {
            number,
            rng: Rng::new(seed.wrapping_mul(1000) + number),
            session,
            me: None,
            remembered: None,
            timeout: None,
            is_stranger: false,
            statement: None,
            has_sql_statement: false,
            table: None,
            locked: false,
            cursor: false,
            listens: false,
            notified: 0,
        }
    }

    async fn step(&mut self, lab: &Lab, region: &str) {
        match self.rng.below(18) {
            0 => self.set().await,
            1 => self.remember().await,
            2 => self.prepare().await,
            3 => self.prepare_by_sql().await,
            4 => self.fill_table().await,
            5 => self.lock().await,
            6 => self.open_cursor().await,
            7 => self.fail().await,
            8 => self.roll_back().await,
            9 => self.cancel().await,
            10 => self.set_locally().await,
            11 if self.rng.below(4) == 0 => self.vanish(lab, region).await,
            12 => self.change_role().await,
            14 => self.listen().await,
            13 if self.rng.below(3) == 0 => self.discard().await,
            _ => self.look().await,
        }
    }

    fn value(&mut self) -> String {
        format!("{}-{}", self.number, self.rng.below(1000))
    }

    async fn set(&mut self) {
        if self.rng.below(3) == 0 {
            self.session.run("RESET app.me; RESET statement_timeout").await;
            (self.me, self.timeout) = (None, None);
            return;
        }
        // Odd, for it is shown in seconds where it is whole ones.
        let (value, limit) = (self.value(), 100_001 + 2 * self.rng.below(4000));
        self.session.run(&format!("SET app.me = '{value}'")).await;
        self.session.run(&format!("SET statement_timeout = '{limit}ms'")).await;
        (self.me, self.timeout) = (Some(value), Some(limit));
    }

    /// A setting made inside a function, which nobody sees from outside: it lasts for the transaction, and may last longer.
    async fn remember(&mut self) {
        let value = self.value();
        self.session.run("BEGIN").await;
        self.session.expect(&format!("SELECT remember('{value}')"), &value).await;
        self.session.expect("SELECT current_setting('app.remembered')", &value).await;
        self.session.run("COMMIT").await;
        self.remembered = Some(value);
    }

    async fn prepare(&mut self) {
        let number = self.number;
        let statement = self.session.prepare(&format!("SELECT {number} + $1::int4")).await;
        self.statement = Some(statement.unwrap_or_else(|error| panic!("stranger {number}: {error:?}")));
    }

    async fn prepare_by_sql(&mut self) {
        if self.has_sql_statement {
            self.session.expect("EXECUTE mine", self.number).await;
            self.session.run("DEALLOCATE mine").await;
        } else {
            self.session.run(&format!("PREPARE mine AS SELECT {}", self.number)).await;
        }
        self.has_sql_statement = !self.has_sql_statement;
    }

    async fn fill_table(&mut self) {
        match self.table {
            None => {
                self.session.run("CREATE TEMP TABLE mine (id int)").await;
                self.table = Some(0);
            }
            Some(rows) if self.rng.below(3) > 0 => {
                self.session.run(&format!("INSERT INTO mine VALUES ({})", self.number)).await;
                self.table = Some(rows + 1);
            }
            Some(_) => {
                self.session.run("DROP TABLE mine").await;
                self.table = None;
            }
        }
    }

    async fn lock(&mut self) {
        let function = if self.locked { "pg_advisory_unlock" } else { "pg_try_advisory_lock" };
        self.session.expect(&format!("SELECT {function}({})", self.number), "t").await;
        self.locked = !self.locked;
    }

    async fn open_cursor(&mut self) {
        if self.cursor {
            self.session.expect("FETCH kept", self.number).await;
            self.session.run("CLOSE kept").await;
        } else {
            let declare = format!("BEGIN; DECLARE kept CURSOR WITH HOLD FOR SELECT {}; COMMIT", self.number);
            self.session.run(&declare).await;
        }
        self.cursor = !self.cursor;
    }

    /// Hears all that is notified on its channel while it listens, by itself and by the one before it.
    async fn listen(&mut self) {
        let channel = format!("stranger_{}", self.number);
        if !self.listens || self.rng.below(4) == 0 {
            let verb = if self.listens { "UNLISTEN" } else { "LISTEN" };
            self.session.run(&format!("{verb} {channel}")).await;
            self.listens = !self.listens;
            return;
        }
        self.notified += 1;
        let payload = self.notified.to_string();
        self.session.run(&format!("NOTIFY stranger_{}, 'another'", self.number + 1)).await;
        self.session.run(&format!("NOTIFY {channel}, '{payload}'")).await;
        loop {
            let (heard_on, heard) = self.session.notification().await;
            assert_eq!(heard_on, channel);
            // Of before the last LISTEN, perhaps.
            let is_known = heard == "another" || heard.parse::<u64>().is_ok_and(|old| old <= self.notified);
            assert!(is_known, "stranger {}: {heard}", self.number);
            if heard == payload {
                return;
            }
        }
    }

    async fn fail(&mut self) {
        assert_eq!(self.session.fails("SELECT 1/0").await, "22012");
    }

    async fn roll_back(&mut self) {
        self.session.run("BEGIN").await;
        self.session.run("SET app.me = 'undone'").await;
        self.session.run("INSERT INTO seen VALUES (1)").await;
        if self.rng.below(2) == 0 {
            assert_eq!(self.session.fails("SELECT 1/0").await, "22012");
        }
        self.session.run("ROLLBACK").await;
    }

    async fn cancel(&mut self) {
        let token = self.session.cancel_token();
        let (slept, _) = futures_util::join!(self.session.simple_query("SELECT pg_sleep(0.05)"), async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            token.cancel_query(NoTls).await
        });
        if let Err(error) = slept {
            assert_eq!(code(&error), "57014", "stranger {}", self.number);
        }
    }

    async fn set_locally(&mut self) {
        let value = self.value();
        self.session.run("BEGIN").await;
        self.session.run(&format!("SET LOCAL app.me = '{value}'")).await;
        self.session.expect("SELECT current_setting('app.me')", &value).await;
        self.session.run("COMMIT").await;
    }

    async fn change_role(&mut self) {
        self.session.run(if self.is_stranger { "RESET ROLE" } else { "SET ROLE stranger" }).await;
        self.is_stranger = !self.is_stranger;
        self.session.expect("SELECT current_user", self.role()).await;
        // Most of what others do here it may not.
        if self.is_stranger {
            self.session.run("RESET ROLE").await;
            self.is_stranger = false;
        }
    }

    fn role(&self) -> &'static str {
        if self.is_stranger { "stranger" } else { "postgres" }
    }

    async fn discard(&mut self) {
        self.session.run("DISCARD ALL").await;
        self.forget();
    }

    fn forget(&mut self) {
        (self.me, self.remembered, self.timeout, self.statement) = (None, None, None, None);
        (self.is_stranger, self.has_sql_statement, self.locked, self.cursor) = (false, false, false, false);
        (self.table, self.listens) = (None, false);
    }

    /// Goes without a word in the middle of a statement, and comes again.
    async fn vanish(&mut self, lab: &Lab, region: &str) {
        let name = format!("stranger {}", self.number);
        let next = lab.at(region).named(&name).connect().await;
        let old = std::mem::replace(&mut self.session, next);
        {
            let asked = old.simple_query("SELECT pg_sleep(0.2)");
            let _ = timeout(Duration::from_millis(10), asked).await;
        }
        old.vanish().await;
        self.forget();
        // Its lock goes with its old server, which is being told.
        let lock = format!("SELECT pg_try_advisory_xact_lock({})", self.number);
        eventually("the lock of the old session is gone", async || {
            (self.session.text(&lock).await == "t").then_some(())
        })
        .await;
    }

    /// Everything is its own.
    async fn look(&mut self) {
        let (number, session) = (self.number, &self.session);
        let setting = async |name: &str| {
            let value = session.text(&format!("SELECT current_setting('{name}', true)")).await;
            Some(value).filter(|value| !value.is_empty() && value != "NULL")
        };
        assert_eq!(setting("app.me").await, self.me, "stranger {number}");
        let remembered = setting("app.remembered").await;
        assert!(remembered.is_none() || remembered == self.remembered, "stranger {number}: {remembered:?}");
        let limit = self.timeout.map_or_else(|| "0".to_owned(), |limit| format!("{limit}ms"));
        session.expect("SHOW statement_timeout", limit).await;
        session.expect("SELECT current_user", self.role()).await;
        session.expect("SHOW application_name", format!("stranger {number}")).await;
        if let Some(statement) = &self.statement {
            let row = session.query_one(statement, &[&1_i32]).await;
            let sum: i32 = row.unwrap_or_else(|error| panic!("stranger {number}: {error:?}")).get(0);
            assert_eq!(u64::try_from(sum).ok(), Some(number + 1));
        }
        match self.table {
            Some(rows) => {
                session.expect("SELECT count(*) FROM mine", rows).await;
                session
                    .expect(
                        "SELECT coalesce(min(id), max(id), -1) FROM mine",
                        match rows {
                            0 => -1,
                            _ => i64::try_from(number).unwrap_or(-2),
                        },
                    )
                    .await;
            }
            None => assert_eq!(session.fails("SELECT count(*) FROM mine").await, "42P01"),
        }
        if !self.has_sql_statement {
            assert_eq!(session.fails("EXECUTE mine").await, "26000", "stranger {number}");
        }
        if !self.cursor {
            assert_eq!(session.fails("FETCH kept").await, "34000", "stranger {number}");
        }
    }
}

/// All connections of a pool are in use: who comes later waits in a queue.
pub(super) async fn wait_their_turn(lab: &Lab) {
    let mut holders = Vec::new();
    for _ in 0..POOL_SIZE {
        let holder = lab.at(US).connect().await;
        holder.run("BEGIN").await;
        holders.push(holder);
    }
    let waiting = lab.at(US).connect().await;
    let console = lab.at(US).database("pangea").connect().await;
    let statement = waiting.simple_query("SELECT 1");
    tokio::pin!(statement);
    let seen = eventually("the console shows who waits", async || {
        let rows = console.simple_query("SHOW POOLS").await.ok()?;
        rows.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => {
                row.get("cl_waiting").filter(|waiting| *waiting == "1").map(|_| ())
            }
            _ => None,
        })
    });
    tokio::select! {
        _ = &mut statement => panic!("a statement ran without a connection"),
        () = seen => {}
    }
    let first = holders.remove(0);
    let (ended, ran) = futures_util::join!(first.simple_query("COMMIT"), statement);
    assert!(ended.is_ok() && ran.is_ok());
}
