//! What the regions of the cluster say of its control plane.

use std::time::Duration;

use anyhow::Context as _;
use pangea_base::RegionId;
use pangea_control::{Topology, TopologyChange};
use pangea_lab::{HttpError, Layout, Manifest, region_control, request_change};
use pangea_node::ControlStatus;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::args::DataDir;
use crate::exit::Ended;

/// How often something that has to become true is looked at.
pub(crate) const POLL: Duration = Duration::from_millis(20);
/// A process that hangs must not keep others from being heard.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest wait for a change to be in the topology: several leases and a busy store.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(15);

/// The cluster of a data directory.
pub(crate) struct Regions {
    pub(crate) layout: Layout,
    pub(crate) manifest: Manifest,
}

/// The answers of regions, in the order of the manifest.
pub(crate) struct Survey(Vec<(RegionId, Result<ControlStatus, HttpError>)>);

impl Regions {
    pub(crate) fn of(data_dir: &DataDir) -> anyhow::Result<Self> {
        let layout = data_dir.layout();
        let manifest = Manifest::load(&layout)?;
        Ok(Self { layout, manifest })
    }

    pub(crate) fn names(&self) -> Vec<RegionId> {
        self.manifest.regions.iter().map(|entry| entry.name.clone()).collect()
    }

    /// Asks all regions.
    pub(crate) async fn ask(&self) -> Survey {
        self.ask_of(&self.names()).await
    }

    /// Asks some regions, all at once.
    pub(crate) async fn ask_of(&self, regions: &[RegionId]) -> Survey {
        let mut asked = JoinSet::new();
        for (index, region) in regions.iter().cloned().enumerate() {
            let layout = self.layout.clone();
            asked.spawn(async move {
                let late = |_| {
                    let (socket, problem) =
                        (layout.status_socket(&region), format!("none within {ANSWER_TIMEOUT:?}"));
                    Err(HttpError::Exchange { socket, problem })
                };
                let answer = timeout(ANSWER_TIMEOUT, region_control(&layout, &region)).await;
                (index, region.clone(), answer.unwrap_or_else(late))
            });
        }
        let mut answers = asked.join_all().await;
        answers.sort_by_key(|(index, ..)| *index);
        Survey(answers.into_iter().map(|(_, region, answer)| (region, answer)).collect())
    }

    /// The topology now; an error when nobody knows it.
    pub(crate) async fn topology(&self) -> anyhow::Result<Topology> {
        self.ask().await.topology().cloned()
    }

    /// Has the topology changed and waits until it `is` so: the topology then.
    pub(crate) async fn change(
        &self,
        change: TopologyChange,
        is: impl Fn(&Topology) -> bool,
    ) -> anyhow::Result<Topology> {
        let survey = self.ask().await;
        let by = survey.primary()?;
        // Any region may write it; the primary is never in doubt about it.
        let by = survey.of(&by).or_else(|| survey.newest()).context("no region answers")?.region.clone();
        request_change(&self.layout, &by, &change).await?;
        let deadline = Instant::now() + CHANGE_TIMEOUT;
        loop {
            let survey = self.ask().await;
            let changed =
                survey.answers().filter_map(|answer| answer.topology.as_ref()).find(|topology| is(topology));
            if let Some(topology) = changed {
                return Ok(topology.clone());
            }
            if Instant::now() >= deadline {
                let problem = survey.answers().find_map(|answer| answer.store_problem.clone());
                let problem = problem.unwrap_or_else(|| "the store has not taken it".to_owned());
                return Err(Ended::under_way(format!(
                    "the change is not made after {CHANGE_TIMEOUT:?} and {by} goes on trying: {problem}; its log is {}",
                    self.layout.region_log(&by).display()
                )));
            }
            sleep(POLL).await;
        }
    }
}

impl Survey {
    /// Those that answer.
    pub(crate) fn answers(&self) -> impl Iterator<Item = &ControlStatus> {
        self.0.iter().filter_map(|(_, answer)| answer.as_ref().ok())
    }

    /// What a region says, if it answers.
    pub(crate) fn of(&self, region: &RegionId) -> Option<&ControlStatus> {
        self.answers().find(|answer| answer.region == *region)
    }

    /// Whoever has the newest topology; of several the primary itself.
    pub(crate) fn newest(&self) -> Option<&ControlStatus> {
        self.answers().filter(|answer| answer.topology.is_some()).max_by_key(|answer| {
            let topology = answer.topology.as_ref();
            topology.map(|topology| (topology.epoch, topology.primary == answer.region))
        })
    }

    /// The newest topology; an error when nobody knows any.
    pub(crate) fn topology(&self) -> anyhow::Result<&Topology> {
        if self.answers().next().is_none() {
            return Err(Ended::not_running());
        }
        let newest = self.newest().and_then(|answer| answer.topology.as_ref());
        newest.with_context(|| {
            let problem = self.answers().find_map(|answer| answer.store_problem.clone());
            let problem = problem.unwrap_or_else(|| "try again in a moment".to_owned());
            format!("no region has read the topology yet: {problem}")
        })
    }

    /// The primary, by the newest topology.
    pub(crate) fn primary(&self) -> anyhow::Result<RegionId> {
        Ok(self.topology()?.primary.clone())
    }

    /// Whether the region takes writes, as it says itself.
    pub(crate) fn is_writable(&self, region: &RegionId) -> bool {
        self.of(region).and_then(|answer| answer.own.as_ref()).is_some_and(|own| own.writable)
    }
}
