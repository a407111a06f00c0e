//! Who is primary now, and whether anything may begin there.
//!
//! The control plane sets the gate. Sessions ask for leave before they begin something on the primary, so that "no
//! session uses it any more" is exact: after the gate is closed none can begin, and those that had leave are counted.

use std::cmp::Ordering::{Equal, Greater, Less};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pangea_base::{Epoch, RegionId};
use pangea_control::{Durability, Gate, Hold, Scope};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

/// Set while nothing may begin; the rest is the number of sessions that use the primary.
const CLOSED: u64 = 1 << 63;

/// Longest wait of a new session for a primary that is being moved.
pub(crate) const MOVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest wait for the news that this region is to be the next primary: others may hear of it a moment earlier.
const SUCCESSOR_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest wait of a connection that was made ahead for its epoch: what `--timeout` usually allows, a shutdown and an offer.
const SWITCHOVER_TIMEOUT: Duration = Duration::from_secs(30);

/// The same from there on, until the server is promoted. The client may have been told of the epoch, and its statement waits.
const OPENING_TIMEOUT: Duration = Duration::from_secs(1);

/// The gate of a gateway.
#[derive(Debug)]
pub(crate) struct GateWatch {
    region: RegionId,
    gate: watch::Sender<Gate>,
    /// Whether this region is primary: asked often, and so kept without a lock.
    primary_here: AtomicBool,
    /// Whether commits are to be on other regions before they are acknowledged.
    commits_elsewhere: AtomicBool,
    users: AtomicU64,
    /// Sessions with a transaction block open on the primary.
    blocks: AtomicU64,
    /// Told when the last user has left a closed gate, or the last block has ended. It has one reader, who may be busy when
    /// he is told.
    emptied: Arc<Notify>,
}

impl GateWatch {
    /// Before anything is known: `primary` is where the cluster began.
    pub(crate) fn new(region: RegionId, primary: RegionId) -> Self {
        let here = primary == region;
        let durability = Durability::Async;
        let gate = Gate { epoch: Epoch(0), primary, open: !here, hold: None, successor: None, durability };
        let users = AtomicU64::new(if here { CLOSED } else { 0 });
        let (gate, primary_here) = (watch::channel(gate).0, AtomicBool::new(here));
        let commits_elsewhere = AtomicBool::new(false);
        let blocks = AtomicU64::new(0);
        Self { region, gate, primary_here, commits_elsewhere, users, blocks, emptied: Arc::default() }
    }

    /// Changes it; nothing happens when it is so already.
    pub(crate) fn set(&self, gate: Gate) {
        if *self.gate.borrow() == gate {
            return;
        }
        let elsewhere = matches!(gate.durability, Durability::Sync { .. });
        // All at once for those who look at the gate, and before sessions are told.
        self.gate.send_modify(|now| {
            if gate.holds() == Some(Scope::All) {
                self.users.fetch_or(CLOSED, Ordering::SeqCst);
            } else {
                self.users.fetch_and(!CLOSED, Ordering::SeqCst);
            }
            self.primary_here.store(gate.primary == self.region, Ordering::SeqCst);
            self.commits_elsewhere.store(elsewhere, Ordering::SeqCst);
            *now = gate;
        });
        self.emptied.notify_one();
    }

    pub(crate) fn now(&self) -> Gate {
        self.gate.borrow().clone()
    }

    pub(crate) fn is_primary(&self) -> bool {
        self.primary_here.load(Ordering::SeqCst)
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.gate.borrow().epoch
    }

    /// The epoch, while its primary takes writes.
    pub(crate) fn epoch_if_open(&self) -> Option<Epoch> {
        let gate = self.gate.borrow();
        gate.open.then_some(gate.epoch)
    }

    pub(crate) fn commits_elsewhere(&self) -> bool {
        self.commits_elsewhere.load(Ordering::Relaxed)
    }

    pub(crate) fn changes(&self) -> watch::Receiver<Gate> {
        self.gate.subscribe()
    }

    /// What is held, once nothing of that is under way; and how many sessions keep it from that.
    pub(crate) fn held(&self) -> (Option<Hold>, u32) {
        // In this order: once a hold of all is seen nobody enters any more.
        let hold = self.gate.borrow().hold;
        let busy = match hold.map(|hold| hold.scope) {
            Some(Scope::Blocks) => self.blocks.load(Ordering::SeqCst),
            Some(Scope::All) | None => self.users.load(Ordering::SeqCst) & !CLOSED,
        };
        (hold.filter(|_| busy == 0), u32::try_from(busy).unwrap_or(u32::MAX))
    }

    /// Told when [`Self::held`] may have changed.
    pub(crate) fn emptied(&self) -> Arc<Notify> {
        self.emptied.clone()
    }

    /// Leave to use the primary, unless it is being moved. [`Self::leave`] gives it back.
    pub(crate) fn enter(&self) -> bool {
        if self.users.fetch_add(1, Ordering::SeqCst) & CLOSED == 0 {
            return true;
        }
        self.leave();
        false
    }

    /// Leave to ask the primary of this epoch something, while it takes writes: though it is being moved.
    pub(crate) fn enter_to_ask(&self, epoch: Epoch) -> bool {
        self.users.fetch_add(1, Ordering::SeqCst);
        let open = self.epoch_if_open() == Some(epoch);
        if !open {
            self.leave();
        }
        open
    }

    /// Whether nothing may begin on the primary.
    pub(crate) fn is_closed(&self) -> bool {
        self.users.load(Ordering::SeqCst) & CLOSED != 0
    }

    /// A session has a transaction block open on the primary. Counted from when it was sent, so that a session that has
    /// not heard of a hold yet may begin one after none was counted: the hold of all that follows is what is exact.
    pub(crate) fn block_begins(&self) {
        self.blocks.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn block_ends(&self) {
        if self.blocks.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.emptied.notify_one();
        }
    }

    pub(crate) fn leave(&self) {
        if self.users.fetch_sub(1, Ordering::SeqCst) == CLOSED | 1 {
            self.emptied.notify_one();
        }
    }

    /// Waits, within bounds, until something may begin on the primary, and takes leave.
    pub(crate) async fn entered(&self) -> bool {
        let mut changes = self.changes();
        let work = async {
            while !self.enter() {
                let _ = changes.changed().await;
            }
        };
        timeout(MOVE_TIMEOUT, work).await.is_ok()
    }

    /// Whether this region is to be the primary of this epoch, as soon as that is known.
    pub(crate) async fn succeeds(&self, epoch: Epoch) -> bool {
        let mut changes = self.changes();
        let told = changes.wait_for(|gate| gate.epoch > epoch || succeeds(gate, &self.region, epoch));
        matches!(timeout(SUCCESSOR_TIMEOUT, told).await, Ok(Ok(gate)) if succeeds(&gate, &self.region, epoch))
    }

    /// Waits, within bounds, until this region is the primary of this epoch and takes writes; `false` when it is not going
    /// to be.
    pub(crate) async fn admits(&self, epoch: Epoch) -> bool {
        let mut changes = self.changes();
        let known = |gate: &Gate| admits(gate, &self.region, epoch);
        let begun = changes.wait_for(|gate| gate.epoch >= epoch || known(gate).is_some());
        let begun = timeout(SWITCHOVER_TIMEOUT, begun).await.is_ok_and(|begun| begun.is_ok());
        let open = changes.wait_for(|gate| known(gate).is_some());
        begun && matches!(timeout(OPENING_TIMEOUT, open).await, Ok(Ok(gate)) if known(&gate) == Some(true))
    }

    /// Returns when the epoch is no longer this one.
    pub(crate) async fn epoch_passed(&self, epoch: Epoch) {
        let _ = self.changes().wait_for(|gate| gate.epoch != epoch).await;
    }
}

/// Whether a region is primary of an epoch, or is to be.
fn succeeds(gate: &Gate, region: &RegionId, epoch: Epoch) -> bool {
    match gate.epoch.cmp(&epoch) {
        Less => gate.epoch.next() == epoch && gate.successor.as_ref() == Some(region),
        Equal => gate.primary == *region,
        Greater => false,
    }
}

/// Whether a region that succeeds is primary of the epoch and takes writes; `None` while it may become that.
fn admits(gate: &Gate, region: &RegionId, epoch: Epoch) -> Option<bool> {
    if !succeeds(gate, region, epoch) {
        return Some(false);
    }
    (gate.epoch == epoch && gate.open).then_some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(primary: &RegionId, open: bool, hold: Option<Hold>) -> Gate {
        let durability = Durability::Async;
        Gate { epoch: Epoch(1), primary: primary.clone(), open, hold, successor: None, durability }
    }

    #[test]
    fn none_enters_a_closed_gate_and_those_inside_are_counted() {
        let (a, b): (RegionId, RegionId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let watch = GateWatch::new(b, a.clone());
        watch.set(gate(&a, true, None));
        assert!(watch.enter());
        let hold = Hold { transition: 7, scope: Scope::All };
        watch.set(gate(&a, true, Some(hold)));
        assert!(!watch.enter());
        assert_eq!(watch.held(), (None, 1));
        watch.leave();
        assert_eq!(watch.held(), (Some(hold), 0));
        watch.set(gate(&a, true, None));
        assert!(watch.enter());
    }

    #[test]
    fn a_hold_of_blocks_lets_others_enter() {
        let (a, b): (RegionId, RegionId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let watch = GateWatch::new(b, a.clone());
        let hold = Hold { transition: 7, scope: Scope::Blocks };
        watch.block_begins();
        watch.set(gate(&a, true, Some(hold)));
        assert!(watch.enter());
        assert_eq!(watch.held(), (None, 1));
        watch.block_ends();
        assert_eq!(watch.held(), (Some(hold), 0));
    }

    #[test]
    fn a_primary_that_takes_no_writes_holds() {
        let a: RegionId = "a".parse().unwrap();
        let watch = GateWatch::new(a.clone(), a.clone());
        assert!(!watch.enter());
        watch.set(gate(&a, true, None));
        assert!(watch.enter());
        watch.set(gate(&a, false, None));
        assert!(!watch.enter());
        assert_eq!(watch.held(), (None, 1));
    }

    #[test]
    fn what_is_for_the_next_epoch_waits_for_it_in_the_region_that_is_to_be_its_primary() {
        let (a, b): (RegionId, RegionId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let next = Epoch(2);
        let refused = |gate: &Gate| !succeeds(gate, &b, next) && admits(gate, &b, next) == Some(false);
        let waits = |gate: &Gate| succeeds(gate, &b, next) && admits(gate, &b, next).is_none();
        let now = gate(&a, true, None);
        let to = |successor: &RegionId| Gate { successor: Some(successor.clone()), ..now.clone() };
        assert!(refused(&now), "none is to succeed");
        assert!(refused(&to(&a)), "another is to succeed");
        assert!(waits(&to(&b)));
        assert!(!succeeds(&to(&b), &b, Epoch(3)), "nor in the epoch after the next");
        let claimed = |primary, open| Gate { epoch: next, ..gate(primary, open, None) };
        assert!(waits(&claimed(&b, false)), "it takes no writes yet");
        assert_eq!(admits(&claimed(&b, true), &b, next), Some(true));
        assert!(refused(&claimed(&a, true)), "another took over");
        assert!(refused(&Gate { epoch: Epoch(3), ..claimed(&b, true) }), "it is over");
    }
}
