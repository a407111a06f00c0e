//! A cache of answers by statement text or by its shape, bounded in bytes.
//!
//! An answer that does not depend on the literals of its text is kept by [`crate::shape`], once
//! for all texts that differ in literals alone. Where its statement stands is not kept: it is the
//! only one, and its end is where that text ends.
//!
//! Two generations: what is used moves to the young one; when the young one holds half of the
//! budget it becomes the old one and the old one is dropped whole. That is LRU at the grain of
//! half a cache, with no list to keep and no scan to evict, and it never holds more than the
//! budget.
//!
//! What is seen for the first time is not kept yet. Texts that never come again (a `SET` with the value of one request, a
//! comment with the number of a trace) would push out those that do, and fill the budget whatever it is.

use std::collections::HashMap;
use std::mem::size_of;
use std::sync::Arc;

use crate::shape::{Places, write_shape};
use crate::statement::{Batch, Effect, Statement};

/// Longest text, or shape of a text, that is cached: longer ones are mostly bulk statements with their values inside,
/// which do not come twice.
pub const CACHED_TEXT_LEN_MAX: usize = 16 * 1024;

/// What an entry costs beside its text and its batch: the key's and the value's headers, the
/// reference counts, the free slots of the table, and what the allocator adds to four pieces.
const ENTRY_OVERHEAD: usize = 160;

/// How many of the keys seen last are remembered until they come again, about.
const SEEN_MAX: u16 = 16_384;

/// Answers by statement text. Valid for one [`crate::Catalog`]: clear it when that changes.
#[derive(Debug)]
pub struct Cache {
    young: Generation,
    old: Generation,
    generation_bytes_max: usize,
    seen: Seen,
    /// Where shapes are written, kept so that a look-up allocates nothing. It is no part of the
    /// budget, and never longer than [`CACHED_TEXT_LEN_MAX`].
    shape: String,
}

/// Hashed by what clients choose: quickly, and with keys that they do not know.
type Entries = HashMap<Box<str>, Arc<Batch>, ahash::RandomState>;

#[derive(Debug, Default)]
struct Generation {
    texts: Entries,
    /// Apart from the texts, because a text may hold the bytes of a shape.
    shapes: Entries,
    /// The sum of `entry_bytes` over both.
    bytes: usize,
}

/// Which keys have been seen: in the place that a key's hash chooses, the hash of the last one there. What it forgets costs a
/// parse, whom it mistakes for another an entry.
#[derive(Debug)]
struct Seen {
    hasher: ahash::RandomState,
    places: Box<[u64]>,
}

impl Seen {
    fn new() -> Self {
        Self { hasher: ahash::RandomState::new(), places: vec![0; usize::from(SEEN_MAX)].into() }
    }

    /// Notes a key; whether it was there.
    fn note(&mut self, kind: Key, key: &str) -> bool {
        let hash = self.hasher.hash_one((kind, key));
        let place = hash % u64::from(SEEN_MAX);
        let last = usize::try_from(place).ok().and_then(|place| self.places.get_mut(place));
        last.is_some_and(|last| std::mem::replace(last, hash) == hash)
    }
}

/// What the key of an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Text,
    Shape,
}

impl Generation {
    fn entries(&mut self, kind: Key) -> &mut Entries {
        match kind {
            Key::Text => &mut self.texts,
            Key::Shape => &mut self.shapes,
        }
    }

    fn remove(&mut self, kind: Key, key: &str) -> Option<(Box<str>, Arc<Batch>)> {
        let entries = self.entries(kind);
        // Asked with every text that is new: without one there is nothing to hash.
        if entries.is_empty() {
            return None;
        }
        let (key, batch) = entries.remove_entry(key)?;
        self.bytes -= entry_bytes(&key, &batch);
        Some((key, batch))
    }
}

impl Cache {
    /// A cache that holds at most `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            young: Generation::default(),
            old: Generation::default(),
            generation_bytes_max: bytes_max / 2,
            seen: Seen::new(),
            shape: String::new(),
        }
    }

    /// The answer for this text, if it is known.
    pub fn get(&mut self, text: &str) -> Option<Arc<Batch>> {
        if text.len() <= CACHED_TEXT_LEN_MAX
            && let Some(batch) = self.find(Key::Text, text)
        {
            return Some(batch);
        }
        let mut shape = std::mem::take(&mut self.shape);
        let found = write_shape(text, &mut shape).and_then(|_| self.find(Key::Shape, &shape));
        self.shape = shape;
        found
    }

    /// Keeps an answer from the second time on, unless it is too big. Unparsable text is not kept: it may be our own
    /// passing trouble (no free file descriptor), and a syntax error does not come often.
    pub fn insert(&mut self, text: &str, batch: Arc<Batch>) {
        if batch.unparsable {
            return;
        }
        if batch.any_literals {
            let mut shape = std::mem::take(&mut self.shape);
            let fits = write_shape(text, &mut shape).is_some_and(|places| has_shape(&batch, places));
            if fits {
                let kept = batch.statements.iter().map(|it| Statement { range: 0..0, ..it.clone() });
                let kept = Batch { statements: kept.collect(), ..*batch };
                self.keep(Key::Shape, &shape, Arc::new(kept));
            }
            self.shape = shape;
            if fits {
                return;
            }
        }
        if text.len() <= CACHED_TEXT_LEN_MAX {
            self.keep(Key::Text, text, batch);
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.young = Generation::default();
        self.old = Generation::default();
    }

    /// How many bytes the entries take, by estimate.
    pub fn bytes(&self) -> usize {
        self.young.bytes + self.old.bytes
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        [&self.young, &self.old].iter().map(|part| part.texts.len() + part.shapes.len()).sum()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn find(&mut self, kind: Key, key: &str) -> Option<Arc<Batch>> {
        if let Some(batch) = self.young.entries(kind).get(key) {
            return Some(Arc::clone(batch));
        }
        let (key, batch) = self.old.remove(kind, key)?;
        self.insert_young(kind, key, Arc::clone(&batch));
        Some(batch)
    }

    fn keep(&mut self, kind: Key, key: &str, batch: Arc<Batch>) {
        if !self.seen.note(kind, key) {
            return;
        }
        self.old.remove(kind, key);
        self.young.remove(kind, key);
        self.insert_young(kind, key.into(), batch);
    }

    fn insert_young(&mut self, kind: Key, key: Box<str>, batch: Arc<Batch>) {
        let bytes = entry_bytes(&key, &batch);
        if bytes > self.generation_bytes_max {
            return;
        }
        if self.young.bytes + bytes > self.generation_bytes_max {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.bytes += bytes;
        self.young.entries(kind).insert(key, batch);
    }
}

/// Whether the parser found the statement where the scanner did: one statement that begins no
/// later than the first literal, so at the same place in every text of the shape.
fn has_shape(batch: &Batch, places: Places) -> bool {
    let [statement] = batch.statements.as_slice() else { return false };
    statement.effect == Effect::None
        && statement.range.start <= places.first_literal
        && statement.range.end == places.end
}

fn entry_bytes(text: &str, batch: &Batch) -> usize {
    let statements: usize = batch.statements.iter().map(statement_bytes).sum();
    ENTRY_OVERHEAD + text.len() + size_of::<Batch>() + statements
}

fn statement_bytes(statement: &Statement) -> usize {
    let owned = match &statement.effect {
        Effect::Savepoint { name }
        | Effect::Release { name }
        | Effect::RollbackTo { name }
        | Effect::Show { name }
        | Effect::Execute { name }
        | Effect::DeclareCursor { name, .. }
        | Effect::Fetch { name }
        | Effect::Listen { channel: name } => name.len(),
        Effect::Set { name, value, .. } => name.len() + value.as_ref().map_or(0, String::len),
        Effect::Deallocate { name } | Effect::CloseCursor { name } | Effect::Unlisten { channel: name } => {
            name.as_ref().map_or(0, String::len)
        }
        Effect::Prepare { name, inner } => name.len() + statement_bytes(inner),
        Effect::None
        | Effect::Begin { .. }
        | Effect::Commit { .. }
        | Effect::Rollback { .. }
        | Effect::SetTransaction { .. }
        | Effect::PrepareTransaction
        | Effect::ResetAll
        | Effect::Discard(_)
        | Effect::CopyFromStdin
        | Effect::CopyToStdout
        | Effect::Load
        | Effect::Ddl => 0,
    };
    size_of::<Statement>() + owned
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> Arc<Batch> {
        Arc::new(Batch { statements: vec![Statement::harmless(Effect::None)], ..Batch::default() })
    }

    fn twice(cache: &mut Cache, text: &str, batch: Arc<Batch>) {
        cache.insert(text, batch.clone());
        cache.insert(text, batch);
    }

    #[test]
    fn what_never_comes_again_takes_no_place() {
        let mut cache = Cache::new(1 << 20);
        for number in 0..100_000 {
            cache.insert(&format!("set app.request = '{number}'"), batch());
            cache.insert("hot", batch());
        }
        assert!(cache.get("hot").is_some());
        assert_eq!(cache.len(), 1);
        assert!(cache.get("set app.request = '99999'").is_none());
    }

    #[test]
    fn never_exceeds_its_budget_and_keeps_what_is_used() {
        let mut cache = Cache::new(24 * 1024);
        twice(&mut cache, "hot", batch());
        for number in 0..10_000 {
            twice(&mut cache, &format!("select {number}"), batch());
            assert!(cache.bytes() <= 24 * 1024);
            assert!(cache.get("hot").is_some(), "lost after {number}");
        }
        assert!(cache.get("select 1").is_none());
        assert!(cache.get("select 9999").is_some());
        assert!(cache.len() > 40);
    }

    #[test]
    fn bytes_return_to_zero() {
        let mut cache = Cache::new(1 << 20);
        twice(&mut cache, "a", batch());
        let one = cache.bytes();
        twice(&mut cache, "a", batch());
        assert_eq!(cache.bytes(), one);
        cache.clear();
        assert_eq!((cache.bytes(), cache.len()), (0, 0));
        assert!(cache.is_empty());
    }

    #[test]
    fn too_long_or_unparsable_is_not_kept() {
        let mut cache = Cache::new(1 << 20);
        twice(&mut cache, &"x".repeat(CACHED_TEXT_LEN_MAX + 1), batch());
        twice(&mut cache, "?", Arc::new(Batch { unparsable: true, ..Batch::default() }));
        let mut small = Cache::new(100);
        twice(&mut small, "select 1", batch());
        assert!(cache.is_empty() && small.is_empty());
    }

    #[test]
    fn a_use_moves_an_entry_to_the_young_generation() {
        let mut cache = Cache::new(1 << 20);
        twice(&mut cache, "a", batch());
        cache.old = std::mem::take(&mut cache.young);
        let batch = cache.get("a").unwrap();
        assert_eq!(batch.statements.len(), 1);
        assert!(cache.old.texts.is_empty() && cache.old.bytes == 0);
    }
}
