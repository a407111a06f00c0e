//! A PostgreSQL server as far as control cares: a log, a timeline, a mode, and actions that take time.

use pangea_base::{Lsn, Position, Timeline};

use crate::{Promotion, Server};

/// Entries of the log that begin a timeline carry this bit and the timeline.
const TIMELINE: u32 = 1 << 31;
/// Entries that are checkpoints carry this bit.
const CHECKPOINT: u32 = 1 << 30;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Down,
    Standby,
    Primary,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    StartStandby,
    StartPrimary,
    Promote,
    /// In order: a checkpoint, and all of the log is shipped to whoever is connected.
    Stop,
    /// At once.
    Kill,
    /// Back to so many entries, then started as a standby.
    Rewind(usize),
}

/// A server and its disk.
#[derive(Debug)]
pub(super) struct Postgres {
    /// Numbers of writes, timelines and checkpoints; a position is a number of entries.
    pub(super) wal: Vec<u32>,
    pub(super) timeline: u32,
    pub(super) replayed: usize,
    pub(super) mode: Mode,
    pub(super) action: Option<Action>,
    /// Tells what was begun from what goes on: grows with each beginning and each end.
    pub(super) generation: u32,
    /// The epoch in which it was primary last, when it has not been a standby since.
    pub(super) primary_in: Option<u64>,
    /// Where the shutdown checkpoint begins, when it was shut down in order as primary.
    pub(super) checkpoint: Option<usize>,
    pub(super) promotion: Option<Promotion>,
    /// Whom it streams from, and the number of that connection.
    pub(super) upstream: Option<(usize, u32)>,
    pub(super) shipping: bool,
    /// As primary: what the others have on disk.
    pub(super) flushed: [usize; 8],
    /// As primary: commits wait for so many of these regions (a bit each).
    pub(super) sync: (u8, u8),
    /// The length of the log when that came in force.
    pub(super) sync_since: usize,
    /// Writes that wait for that: position, number, region of the client.
    pub(super) pending: Vec<(usize, u32, usize)>,
}

pub(super) fn lsn(entries: usize) -> Lsn {
    Lsn(entries as u64 * 8 + 0x1000)
}

impl Postgres {
    pub(super) fn new() -> Self {
        Self {
            wal: Vec::with_capacity(128),
            timeline: 1,
            replayed: 0,
            mode: Mode::Down,
            action: None,
            generation: 0,
            primary_in: None,
            checkpoint: None,
            promotion: None,
            upstream: None,
            shipping: false,
            flushed: [0; 8],
            sync: (0, 0),
            sync_since: 0,
            pending: Vec::new(),
        }
    }

    fn at(&self, entries: usize) -> Position {
        Position { timeline: Timeline(self.timeline), lsn: lsn(entries) }
    }

    /// What its agent reports.
    pub(super) fn report(&self) -> Server {
        match (self.mode, self.checkpoint) {
            (Mode::Down, Some(checkpoint)) if self.action.is_none() => {
                Server::Stopped { checkpoint: self.at(checkpoint) }
            }
            (Mode::Down, _) => Server::Down,
            (Mode::Standby, _) => Server::Standby {
                timeline: Some(Timeline(self.timeline)),
                received: Some(lsn(self.wal.len())),
                replayed: Some(lsn(self.replayed)),
                streaming: self.upstream.is_some(),
            },
            (Mode::Primary, _) => {
                Server::Primary { position: Some(self.at(self.wal.len())), promotion: self.promotion }
            }
        }
    }

    pub(super) fn idle_primary(&self) -> bool {
        self.mode == Mode::Primary && self.action.is_none()
    }

    /// It is gone, at once: what is on disk stays. The regions whose clients waited are given back.
    pub(super) fn die(&mut self) -> Vec<(usize, u32, usize)> {
        self.mode = Mode::Down;
        self.action = None;
        self.generation += 1;
        self.promotion = None;
        self.upstream = None;
        self.shipping = false;
        std::mem::take(&mut self.pending)
    }

    pub(super) fn begin(&mut self, action: Action) -> u32 {
        self.action = Some(action);
        self.generation += 1;
        self.generation
    }

    /// Takes over what another has, up to there.
    pub(super) fn receive(&mut self, from: &[u32]) {
        self.replayed = self.wal.len();
        for entry in &from[self.wal.len()..] {
            self.wal.push(*entry);
            if entry & TIMELINE != 0 {
                self.timeline = entry & !TIMELINE;
            }
        }
    }

    /// Entries that both have.
    pub(super) fn common(&self, other: &[u32]) -> usize {
        self.wal.iter().zip(other).take_while(|(mine, theirs)| mine == theirs).count()
    }

    pub(super) fn rewind(&mut self, to: usize) {
        self.wal.truncate(to);
        self.replayed = self.replayed.min(to);
        let begins = self.wal.iter().rev().find(|entry| **entry & TIMELINE != 0);
        self.timeline = begins.map_or(1, |entry| entry & !TIMELINE);
        self.as_standby();
    }

    pub(super) fn as_standby(&mut self) {
        (self.primary_in, self.checkpoint, self.promotion) = (None, None, None);
    }

    pub(super) fn become_primary(&mut self, epoch: u64, timeline: Option<u32>) {
        if let Some(timeline) = timeline {
            let fork = lsn(self.wal.len());
            self.timeline = timeline;
            self.wal.push(TIMELINE | timeline);
            let timeline = Timeline(timeline);
            self.promotion = Some(Promotion { timeline, fork });
        }
        self.mode = Mode::Primary;
        self.replayed = self.wal.len();
        self.flushed = [0; 8];
        self.primary_in = Some(epoch);
        self.checkpoint = None;
    }

    pub(super) fn shut_down(&mut self, number: u32) {
        self.checkpoint = Some(self.wal.len());
        self.wal.push(CHECKPOINT | number);
    }

    /// Whether a position is on as many disks as commits wait for.
    pub(super) fn safe(&self, entries: usize) -> bool {
        let (needed, eligible) = self.sync;
        let have = (0..8).filter(|region| eligible >> region & 1 == 1 && self.flushed[*region] >= entries);
        have.count() >= usize::from(needed)
    }
}

/// The number of a client's write, if the entry is one.
pub(super) fn write_in(entry: u32) -> Option<u32> {
    (entry & (TIMELINE | CHECKPOINT) == 0).then_some(entry)
}
