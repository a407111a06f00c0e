//! What operators ask of a region, over its status socket.

use pangea_base::{Epoch, RegionId};
use pangea_control::{Check, PeerState, Step, SwitchoverRequest, Topology};
use serde::{Deserialize, Serialize};

use super::{ControlPlane, lock};

/// The control plane as a region sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ControlStatus {
    /// The region.
    pub region: RegionId,
    /// The newest epoch that it knows of.
    pub epoch: Option<Epoch>,
    /// The topology as it read it last.
    pub topology: Option<Topology>,
    /// Why the store cannot be read or written.
    pub store_problem: Option<String>,
    /// Why the region does not take over, if its lease has ended.
    pub objection: Option<String>,
    /// The data of its server are to be made anew, and are not gone yet.
    #[serde(default)]
    pub rebuilding: bool,
    /// The time of its process, in microseconds: that of the steps.
    pub now_us: u64,
    /// What happened lately.
    pub steps: Vec<Step>,
    /// What it tells the others.
    pub own: Option<PeerState>,
    /// What the others have told it.
    pub peers: Vec<PeerState>,
}

/// The answer to a request for a switchover.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SwitchoverAnswer {
    /// The number of the transition, when it begins.
    pub transition: Option<u64>,
    /// What was looked at.
    pub checks: Vec<Check>,
}

/// A request for a failover to the region that is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FailoverRequest {
    /// Take over though it cannot be excluded that writes are lost.
    pub allow_data_loss: bool,
}

impl ControlPlane {
    pub(crate) fn status(&self, region: &RegionId) -> ControlStatus {
        let now = self.clock.now();
        let controller = self.controller();
        ControlStatus {
            region: region.clone(),
            epoch: controller.primary().map(|(epoch, _)| epoch),
            topology: controller.topology().cloned(),
            store_problem: lock(&self.store_problem).clone(),
            objection: controller.objection().map(str::to_owned),
            rebuilding: controller.is_rebuilding(),
            now_us: u64::try_from(now.as_micros()).unwrap_or(u64::MAX),
            steps: controller.steps(),
            own: controller.state(now),
            peers: controller.peers().cloned().collect(),
        }
    }

    pub(crate) fn switchover(&self, request: &SwitchoverRequest) -> SwitchoverAnswer {
        let now = self.clock.now();
        // Unique among those of this cluster that anybody remembers.
        let id = u64::try_from(now.as_nanos() & u128::from(u64::MAX)).unwrap_or_default()
            ^ (self.clock.wall() << 32);
        let checks = self.controller().switchover(now, id, request);
        let begins = !request.dry_run && checks.iter().all(|check| check.passed);
        self.wake.notify_one();
        SwitchoverAnswer { transition: begins.then_some(id), checks }
    }

    pub(crate) fn failover(&self, request: &FailoverRequest) -> Result<String, String> {
        let answer = self.controller().failover(self.clock.now(), request.allow_data_loss);
        self.wake.notify_one();
        answer
    }

    /// Asks for the data of this region's server to be made anew.
    pub(crate) fn rebuild(&self) -> Result<(), String> {
        let answer = self.controller().rebuild(self.clock.now());
        self.wake.notify_one();
        answer.map(drop)
    }

    /// Whether a standby of this name is one of no region that the topology names.
    pub(crate) fn is_stranger(&self, standby: &str) -> bool {
        let controller = self.controller();
        let Some(topology) = controller.topology() else { return false };
        let is_of = |region: &RegionId| {
            let rest = standby.strip_prefix(region.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("-reader"))
        };
        !topology.members.keys().any(is_of)
    }
}
