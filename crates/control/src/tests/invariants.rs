//! What must hold, by name, and what is remembered to check it.

use crate::Cause;

use super::server::{Mode, Postgres, write_in};

/// What was violated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Invariant {
    /// Two servers take writes at one time, or two regions are primary in one epoch.
    OneWriter,
    /// A lease passed on while the former holder's server still took writes.
    LeaseBeforeWrite,
    /// A planned change of primary lost an acknowledged write.
    NoLossSwitchover,
    /// An acknowledged write is missing and in no report of divergence, or reported and not missing.
    LossIsReported,
    /// A failover lost an acknowledged write while synchronous durability was in force.
    ZeroLossWhenSync,
    /// A failover that was asked for without leave to lose anything lost an acknowledged write.
    NoLossUnlessAllowed,
    /// An epoch went back, or grew by more than one.
    EpochGrows,
    /// Some time after the last fault the cluster is still not as it should be.
    Liveness,
}

/// What was violated, and how.
#[derive(Debug)]
pub(super) struct Violation {
    pub(super) invariant: Invariant,
    pub(super) what: String,
}

pub(super) fn violated<T>(invariant: Invariant, what: impl Into<String>) -> Result<T, Violation> {
    Err(Violation { invariant, what: what.into() })
}

/// How an epoch began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claimed {
    pub(super) by: usize,
    pub(super) cause: Cause,
    /// Synchronous durability was in force.
    pub(super) sync: bool,
    /// The operator allowed no loss.
    pub(super) careful: bool,
}

/// What became of a write.
#[derive(Debug, Clone, Copy, Default)]
struct Fate {
    acknowledged: bool,
    /// Missing on a primary that was promoted later.
    lost: bool,
    /// In a report of divergence.
    reported: bool,
}

/// What is remembered.
#[derive(Debug, Default)]
pub(super) struct Witness {
    writes: Vec<Fate>,
    /// By epoch, from 0.
    pub(super) epochs: Vec<Claimed>,
    pub(super) acknowledged: u32,
    pub(super) lost: u32,
    pub(super) promotions: u32,
}

impl Witness {
    pub(super) fn new_write(&mut self) -> u32 {
        self.writes.push(Fate::default());
        u32::try_from(self.writes.len() - 1).unwrap()
    }

    pub(super) fn acknowledge(&mut self, write: u32) {
        self.acknowledged += 1;
        self.writes[write as usize].acknowledged = true;
    }

    /// A server came out of recovery.
    pub(super) fn writable<'a>(
        &mut self,
        region: usize,
        epoch: u64,
        mut servers: impl Iterator<Item = (usize, &'a Postgres)>,
        wal: &[u32],
    ) -> Result<(), Violation> {
        if let Some((other, _)) =
            servers.find(|(other, server)| *other != region && server.mode == Mode::Primary)
        {
            let what = format!("r{other} still takes writes when r{region} begins to in epoch {epoch}");
            return violated(Invariant::OneWriter, what);
        }
        let claimed = self.epochs[usize::try_from(epoch).unwrap()];
        if claimed.by != region {
            let what = format!("r{region} takes writes in epoch {epoch} of r{}", claimed.by);
            return violated(Invariant::OneWriter, what);
        }
        self.promotions += 1;
        self.judge_losses(claimed, epoch, wal)
    }

    fn judge_losses(&mut self, claimed: Claimed, epoch: u64, wal: &[u32]) -> Result<(), Violation> {
        let mut here = vec![false; self.writes.len()];
        for write in wal.iter().filter_map(|entry| write_in(*entry)) {
            here[write as usize] = true;
        }
        for (number, (fate, here)) in self.writes.iter_mut().zip(here).enumerate() {
            if !fate.acknowledged || fate.lost || here {
                continue;
            }
            fate.lost = true;
            self.lost += 1;
            let what = || format!("write {number} is missing in epoch {epoch}: {claimed:?}");
            match claimed.cause {
                Cause::Bootstrap | Cause::Switchover => {
                    return violated(Invariant::NoLossSwitchover, what());
                }
                Cause::Failover if claimed.sync => return violated(Invariant::ZeroLossWhenSync, what()),
                Cause::Failover | Cause::Forced if claimed.careful => {
                    return violated(Invariant::NoLossUnlessAllowed, what());
                }
                Cause::Failover | Cause::Forced => {}
            }
        }
        Ok(())
    }

    /// A server is about to be rewound.
    pub(super) fn diverged(&mut self, lost: &[u32]) {
        for write in lost.iter().filter_map(|entry| write_in(*entry)) {
            self.writes[write as usize].reported = true;
        }
    }

    /// All is over and `wal` is what survived. A region that never came back has reported nothing.
    pub(super) fn judge_reports(&self, wal: &[u32], all_back: bool) -> Result<(), Violation> {
        let mut here = vec![false; self.writes.len()];
        for write in wal.iter().filter_map(|entry| write_in(*entry)) {
            here[write as usize] = true;
        }
        for (number, (fate, here)) in self.writes.iter().zip(here).enumerate() {
            if fate.acknowledged && !here && !fate.reported && all_back {
                let what = format!("write {number} was acknowledged, is gone and in no report");
                return violated(Invariant::LossIsReported, what);
            }
            // By force a region may be made primary that has what another one was rewound for.
            let forced = self.epochs.iter().any(|claimed| claimed.cause == Cause::Forced);
            if fate.reported && here && !forced {
                let what = format!("write {number} was reported lost and is there");
                return violated(Invariant::LossIsReported, what);
            }
        }
        Ok(())
    }
}
