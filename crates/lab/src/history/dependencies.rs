//! What must be visible wherever a write is.
//!
//! When a session writes, it has written and read other things before. Monotonic writes and writes follow reads say
//! that every server that has the new write has those as well. They are collected per write, as the lowest version
//! of each register that must be visible beside it, and over the versions of a register: who sees version 7 also has
//! versions 1 to 6 underneath.

use std::collections::HashMap;

use super::operation::{Key, Version};
use super::order::Order;
use super::report::Guarantee;

/// A register that must be at least so new beside a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dependency {
    /// The register.
    pub(super) key: Key,
    /// The version that must be visible.
    pub(super) version: Version,
    /// [`Guarantee::MonotonicWrites`] or [`Guarantee::WritesFollowReads`].
    pub(super) guarantee: Guarantee,
    /// The operation of the writing session that wrote or saw it.
    pub(super) cause: usize,
    /// The write that depends on it.
    pub(super) write: usize,
}

/// The highest version of each register and guarantee.
pub(super) type Needs = HashMap<(Key, Guarantee), Dependency>;

/// The dependencies of all writes.
#[derive(Default)]
pub(super) struct Dependencies {
    /// Of each write alone.
    own: HashMap<usize, Vec<Dependency>>,
    /// Per register: up to which version it was summed up, and the sums, oldest first.
    sums: HashMap<Key, Vec<(Version, Needs)>>,
}

impl Dependencies {
    /// What a write depends on by itself; known when it begins.
    pub(super) fn put(&mut self, write: usize, dependencies: Vec<Dependency>) {
        self.own.insert(write, dependencies);
    }

    /// What must be visible beside a version of a register. All writes up to it must have begun.
    pub(super) fn of(&mut self, order: &Order, key: Key, version: Version) -> Option<&Needs> {
        let sums = self.sums.entry(key).or_default();
        let summed_up = sums.last().map_or(Version(0), |(version, _)| *version);
        for (version, write) in order.writes_between(key, summed_up, version) {
            let mut sum = sums.last().map_or_else(Needs::new, |(_, sum)| sum.clone());
            for dependency in self.own.get(&write).into_iter().flatten() {
                raise(&mut sum, *dependency);
            }
            sums.push((version, sum));
        }
        let found = sums.partition_point(|(summed, _)| *summed <= version);
        Some(&sums.get(found.checked_sub(1)?)?.1)
    }
}

/// Takes a dependency over if it asks for more than what is there.
pub(super) fn raise(needs: &mut Needs, dependency: Dependency) {
    let slot = needs.entry((dependency.key, dependency.guarantee)).or_insert(dependency);
    if slot.version < dependency.version {
        *slot = dependency;
    }
}
