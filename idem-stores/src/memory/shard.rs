//! A part of the records, behind one lock, and when to look whether they have expired.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use idem_core::{RecordHasher, RecordId};

use super::looks::Looks;
use super::records::Record;

pub(super) struct Shard {
    /// Boxed: a map that grows moves them all, and is half empty.
    records: HashMap<RecordId, Box<Placed>, RecordHasher>,
    /// One look for each record, at the first time at which it may have expired. If it has not, it gets
    /// another look: so a completion, which decides when a record expires, changes nothing here.
    looks: Looks,
    /// No look is due before this time.
    next_look: Duration,
}

struct Placed {
    record: Record,
    look_at: Duration,
}

impl Default for Shard {
    fn default() -> Self {
        Self {
            records: HashMap::default(),
            looks: Looks::default(),
            next_look: Duration::MAX,
        }
    }
}

impl Shard {
    /// The record of this id, unless it has expired.
    pub(super) fn get(&self, id: &RecordId, now: Duration) -> Option<&Record> {
        let record = &self.records.get(id)?.record;
        (now < record.expires_at).then_some(record)
    }

    /// The record of this id, unless it has expired.
    pub(super) fn get_mut(&mut self, id: &RecordId, now: Duration) -> Option<&mut Record> {
        let record = &mut self.records.get_mut(id)?.record;
        (now < record.expires_at).then_some(record)
    }

    /// Puts a record where none is, or an expired one, whose bytes are returned.
    pub(super) fn insert(&mut self, id: RecordId, record: Record, look_at: Duration) -> u64 {
        let placed = Box::new(Placed { record, look_at });
        let expired = self.records.insert(id, placed);
        let freed = expired.map_or(0, |expired| {
            self.take_back(expired.look_at, id);
            expired.record.bytes()
        });
        self.looks.plan(look_at, id);
        self.next_look = self.next_look.min(look_at);
        freed
    }

    /// Removes a record, and returns its bytes.
    pub(super) fn remove(&mut self, id: &RecordId) -> u64 {
        let Some(removed) = self.records.remove(id) else {
            return 0;
        };
        self.take_back(removed.look_at, *id);
        removed.record.bytes()
    }

    fn take_back(&mut self, look_at: Duration, id: RecordId) {
        self.looks.take_back(look_at, id);
        if self.looks.are_mostly_taken_back() {
            let records = &self.records;
            let finds = |at: Duration, id: &RecordId| {
                records.get(id).is_some_and(|placed| placed.look_at == at)
            };
            self.looks.retain(finds);
        }
    }

    /// The records that have not expired.
    pub(super) fn iter(&self, now: Duration) -> impl Iterator<Item = (&RecordId, &Record)> {
        let records = self.records.iter().map(|(id, placed)| (id, &placed.record));
        records.filter(move |(_, record)| now < record.expires_at)
    }

    /// Removes expired records, after `most` looks, and returns their bytes.
    pub(super) fn remove_expired(&mut self, now: Duration, most: usize) -> u64 {
        let mut freed = 0;
        if now < self.next_look {
            return freed;
        }
        for _ in 0..most {
            let Some((look_at, id)) = self.looks.due(now) else {
                break;
            };
            let mut placed = match self.records.entry(id) {
                Entry::Occupied(placed) if placed.get().look_at == look_at => placed,
                _ => {
                    self.looks.found_nothing();
                    continue;
                }
            };
            let expires_at = placed.get().record.expires_at;
            if expires_at <= now {
                freed += placed.remove().record.bytes();
            } else {
                placed.get_mut().look_at = expires_at;
                self.looks.plan(expires_at, id);
            }
        }
        self.next_look = self.looks.next().unwrap_or(Duration::MAX);
        // What a flood has left behind.
        if self.records.len() < self.records.capacity() / 8 {
            self.records.shrink_to(self.records.len() * 2);
            self.looks.shrink();
        }
        freed
    }
}
