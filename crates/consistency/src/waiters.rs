//! Who waits for a replay position.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use pangea_base::Lsn;

/// Waiters for a replay position, each with a value that is handed back when its position is reached.
///
/// One poller serves any number of waiters: reaching a position costs only those who waited for it.
#[derive(Debug)]
pub struct Waiters<T> {
    heap: BinaryHeap<Reverse<Entry<T>>>,
    replayed: Option<Lsn>,
}

#[derive(Debug)]
struct Entry<T> {
    lsn: Lsn,
    waiter: T,
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.lsn == other.lsn
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.lsn.cmp(&other.lsn)
    }
}

impl<T> Default for Waiters<T> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), replayed: None }
    }
}

impl<T> Waiters<T> {
    /// How far the server has replayed; `None` when that is not known.
    #[must_use]
    pub fn replayed(&self) -> Option<Lsn> {
        self.replayed
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Adds a waiter; gives it back when its position has been reached already.
    ///
    /// # Errors
    /// Never in the sense of a failure: `Err` holds the waiter that need not wait.
    pub fn wait(&mut self, lsn: Lsn, waiter: T) -> Result<(), T> {
        if self.replayed.is_some_and(|replayed| replayed >= lsn) {
            return Err(waiter);
        }
        self.heap.push(Reverse(Entry { lsn, waiter }));
        Ok(())
    }

    /// Takes what the server says now; returns those whose position is reached.
    pub fn advance(&mut self, replayed: Option<Lsn>) -> Vec<T> {
        self.replayed = replayed;
        let mut reached = Vec::new();
        while let Some(replayed) = replayed
            && self.heap.peek().is_some_and(|Reverse(entry)| entry.lsn <= replayed)
            && let Some(Reverse(entry)) = self.heap.pop()
        {
            reached.push(entry.waiter);
        }
        reached
    }

    /// Drops waiters that nobody listens for any more.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.heap.retain(|Reverse(entry)| keep(&entry.waiter));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn unknown_satisfies_nobody() {
        let mut waiters = Waiters::default();
        assert_eq!(waiters.wait(Lsn(0), 'a'), Ok(()));
        assert!(waiters.advance(None).is_empty());
        assert_eq!(waiters.advance(Some(Lsn(0))), vec!['a']);
        assert_eq!(waiters.wait(Lsn(0), 'b'), Err('b'));
        waiters.advance(None);
        assert_eq!(waiters.wait(Lsn(0), 'c'), Ok(()));
    }

    proptest! {
        #[test]
        fn a_waiter_is_released_when_and_only_when_its_position_is_reached(
            waits in prop::collection::vec(0_u64..100, 0..40),
            steps in prop::collection::vec(prop::option::of(0_u64..120), 1..20),
        ) {
            let mut waiters = Waiters::default();
            let mut waiting: Vec<u64> = Vec::new();
            for &lsn in &waits {
                prop_assert_eq!(waiters.wait(Lsn(lsn), lsn), Ok(()));
                waiting.push(lsn);
            }
            for step in steps {
                let mut released = waiters.advance(step.map(Lsn));
                released.sort_unstable();
                let (mut expected, rest): (Vec<u64>, Vec<u64>) =
                    waiting.iter().partition(|&&lsn| step.is_some_and(|replayed| lsn <= replayed));
                expected.sort_unstable();
                prop_assert_eq!(released, expected);
                waiting = rest;
                prop_assert_eq!(waiters.is_empty(), waiting.is_empty());
            }
        }
    }
}
