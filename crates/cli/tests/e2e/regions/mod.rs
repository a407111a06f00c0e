//! Regions that come, go, and get their data anew, while clients work.

mod membership;
mod rebuild;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use pangea_lab::ClusterOptions;
use pangea_lab::wan::{Distance, Table};
use tokio::task::JoinHandle;

use crate::support::{Lab, Logs, eventually, run, scenarios};

/// The region that is added.
const WEST: &str = "us-west-2";

/// Each region reaches each other one by an address of its own.
fn with_links(options: &mut ClusterOptions) {
    let distance = Distance { round_trip: Duration::from_millis(4), jitter: Duration::ZERO, bandwidth: None };
    options.wan_table = Some(Table::uniform(distance));
}

#[test]
fn added_and_removed() {
    run(
        Logs::Faults,
        with_links,
        scenarios![
            membership::a_region_is_added_while_clients_write,
            membership::the_new_region_becomes_primary_and_back,
            membership::removals_that_would_harm_are_refused,
            membership::a_region_is_removed_while_clients_write,
            membership::a_region_comes_again_and_goes_with_its_data,
        ],
    );
}

#[test]
fn rebuilt() {
    run(
        Logs::Faults,
        with_links,
        scenarios![
            rebuild::is_refused_where_data_are_needed,
            rebuild::of_a_secondary,
            rebuild::of_a_broken_server
        ],
    );
}

/// A client that writes again and again in one session, and must not notice anything.
struct Writer {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU32>,
    work: JoinHandle<()>,
}

impl Writer {
    /// Begins to write into the table `work`, which is made when it is not there, and to read from it.
    async fn start(lab: &Lab, region: &str) -> Self {
        Self::begin(lab, region, true).await
    }

    /// The same without reads: one that is under way on a server that is killed ends with it.
    async fn writing(lab: &Lab, region: &str) -> Self {
        Self::begin(lab, region, false).await
    }

    async fn begin(lab: &Lab, region: &str, reads: bool) -> Self {
        let session = lab.connect(region).await;
        session.run("CREATE TABLE IF NOT EXISTS work (id bigserial PRIMARY KEY)").await;
        let (stop, written) = (Arc::<AtomicBool>::default(), Arc::<AtomicU32>::default());
        let (told, count) = (stop.clone(), written.clone());
        let work = tokio::spawn(async move {
            while !told.load(Ordering::Relaxed) {
                session.run("INSERT INTO work DEFAULT VALUES").await;
                count.fetch_add(1, Ordering::Relaxed);
                if reads {
                    // It sees its own write, wherever it reads.
                    let id: i64 = session.text("SELECT max(id) FROM work").await.parse().unwrap();
                    assert!(id >= 1);
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        let writer = Self { stop, written, work };
        writer.goes_on().await;
        writer
    }

    /// Waits until it has written more.
    async fn goes_on(&self) {
        let before = self.written.load(Ordering::Relaxed);
        eventually("the client writes on", async || {
            assert!(!self.work.is_finished(), "the client has noticed something");
            (self.written.load(Ordering::Relaxed) > before + 3).then_some(())
        })
        .await;
    }

    /// Ends it; an error that it had is the test's.
    async fn end(self) {
        self.goes_on().await;
        self.stop.store(true, Ordering::Relaxed);
        self.work.await.unwrap();
    }
}
