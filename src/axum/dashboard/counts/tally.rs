//! One pass through a store, as numbers: bounded, however many records and operations there are.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::Deserialize;

use crate::store::{Listed, RecordState};

/// The order in which states are counted: what needs somebody first.
pub(super) const STATES: [RecordState; 4] = [
    RecordState::Crashed,
    RecordState::Suspended,
    RecordState::Running,
    RecordState::Finished,
];

/// Further ones are counted together.
const MAX_OPERATIONS: usize = 200;

/// So many records that need somebody are kept, the newest.
const MAX_ATTENTION: usize = 20;

pub(super) type PerState = [u64; STATES.len()];

/// How far back records are shown by when they were claimed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Range {
    Hour,
    #[default]
    Day,
    Week,
}

const RANGES: [Range; 3] = [Range::Hour, Range::Day, Range::Week];

impl Range {
    /// How long one bar is.
    pub(super) const fn bucket(self) -> Duration {
        Duration::from_secs(match self {
            Self::Hour => 60,
            Self::Day => 30 * 60,
            Self::Week => 3 * 60 * 60,
        })
    }

    const fn length(self) -> usize {
        match self {
            Self::Hour => 60,
            Self::Day => 48,
            Self::Week => 56,
        }
    }

    /// Which bar a record of this age is in, the oldest first.
    fn place(self, age: Duration) -> Option<usize> {
        let buckets = age.as_nanos() / self.bucket().as_nanos();
        let back = usize::try_from(buckets).ok()?;
        (self.length() - 1).checked_sub(back)
    }
}

pub(super) struct Operation {
    pub(super) counts: PerState,
    pub(super) bytes: u64,
    pub(super) last_claimed: Option<SystemTime>,
    /// For each range.
    buckets: [Vec<PerState>; RANGES.len()],
}

impl Operation {
    fn new() -> Self {
        Self {
            counts: PerState::default(),
            bytes: 0,
            last_claimed: None,
            buckets: RANGES.map(|range| vec![PerState::default(); range.length()]),
        }
    }

    /// All states together, one bar after the other.
    pub(super) fn totals(&self, range: Range) -> Vec<u64> {
        let buckets = &self.buckets[range as usize];
        buckets.iter().map(|bucket| bucket.iter().sum()).collect()
    }
}

pub(super) struct Tally {
    pub(super) began_at: SystemTime,
    pub(super) counted_at: SystemTime,
    operations: BTreeMap<String, Operation>,
    others: Operation,
    left_out: u64,
    attention: Vec<Listed>,
}

impl Tally {
    pub(super) fn begun(at: SystemTime) -> Self {
        Self {
            began_at: at,
            counted_at: at,
            operations: BTreeMap::new(),
            others: Operation::new(),
            left_out: 0,
            attention: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, record: &Listed) {
        let Some(state) = STATES.iter().position(|state| *state == record.state) else {
            return;
        };
        let name = record.operation.as_str();
        let has_room = self.operations.len() < MAX_OPERATIONS;
        let operation = if has_room && !self.operations.contains_key(name) {
            let new = self.operations.entry(name.to_owned());
            new.or_insert_with(Operation::new)
        } else if let Some(known) = self.operations.get_mut(name) {
            known
        } else {
            self.left_out += 1;
            &mut self.others
        };
        operation.counts[state] += 1;
        operation.bytes = operation.bytes.saturating_add(record.bytes as u64);
        operation.last_claimed = operation.last_claimed.max(record.claimed_at);
        if let Some(claimed_at) = record.claimed_at {
            // The store's clock may be ahead of this process's.
            let age = self.began_at.duration_since(claimed_at).unwrap_or_default();
            for (range, buckets) in RANGES.into_iter().zip(&mut operation.buckets) {
                if let Some(bucket) = range.place(age) {
                    buckets[bucket][state] += 1;
                }
            }
        }
        if matches!(record.state, RecordState::Crashed | RecordState::Suspended) {
            self.attend_to(record);
        }
    }

    fn attend_to(&mut self, record: &Listed) {
        let newer = |kept: &Listed| kept.claimed_at >= record.claimed_at;
        let at = self.attention.partition_point(newer);
        if at < MAX_ATTENTION {
            self.attention.insert(at, record.clone());
            self.attention.truncate(MAX_ATTENTION);
        }
    }

    /// The newest records that need somebody, or a retry.
    pub(super) fn attention(&self) -> impl Iterator<Item = &Listed> {
        self.attention.iter()
    }

    pub(super) fn operations(&self) -> impl Iterator<Item = (&str, &Operation)> {
        let named = self.operations.iter();
        named.map(|(name, operation)| (name.as_str(), operation))
    }

    /// Records of operations that are not named.
    pub(super) const fn operations_left_out(&self) -> u64 {
        self.left_out
    }

    fn all(&self) -> impl Iterator<Item = &Operation> {
        self.operations.values().chain([&self.others])
    }

    pub(super) fn counts(&self) -> PerState {
        self.all().fold(PerState::default(), |sum, operation| {
            added(sum, operation.counts)
        })
    }

    pub(super) fn records(&self) -> u64 {
        self.counts().iter().sum()
    }

    /// Records by when they were claimed, the oldest bar first: of one operation, or of all.
    pub(super) fn buckets(&self, range: Range, operation: Option<&str>) -> Vec<PerState> {
        let mut sums = vec![PerState::default(); range.length()];
        let chosen: Vec<_> = match operation {
            Some(name) => self.operations.get(name).into_iter().collect(),
            None => self.all().collect(),
        };
        for operation in chosen {
            for (sum, bucket) in sums.iter_mut().zip(&operation.buckets[range as usize]) {
                *sum = added(*sum, *bucket);
            }
        }
        sums
    }
}

fn added(mut sum: PerState, more: PerState) -> PerState {
    sum.iter_mut()
        .zip(more)
        .for_each(|(sum, more)| *sum += more);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RecordId;

    fn record(state: RecordState, operation: &str, claimed_at: SystemTime) -> Listed {
        let id = RecordId::from_bytes([7; 32]);
        let mut record = Listed::new(id, state, 1, Duration::from_secs(60));
        record.operation = crate::store::OperationName::new(operation);
        record.claimed_at = Some(claimed_at);
        record.bytes = 10;
        record
    }

    #[test]
    fn records_are_counted_by_when_they_were_claimed() {
        let now = SystemTime::now();
        let ago = |seconds| now - Duration::from_secs(seconds);
        let mut tally = Tally::begun(now);
        tally.add(&record(RecordState::Finished, "a", ago(59)));
        tally.add(&record(RecordState::Finished, "a", ago(60)));
        tally.add(&record(RecordState::Crashed, "b", ago(3599)));
        tally.add(&record(RecordState::Running, "b", ago(3600)));
        tally.add(&record(
            RecordState::Running,
            "b",
            now + Duration::from_secs(5),
        ));
        let hour = tally.buckets(Range::Hour, None);
        assert_eq!(hour.len(), 60);
        assert_eq!(hour[59], [0, 0, 1, 1]);
        assert_eq!(hour[58], [0, 0, 0, 1]);
        assert_eq!(hour[0], [1, 0, 0, 0]);
        assert_eq!(tally.buckets(Range::Hour, Some("a"))[0], [0; 4]);
        let day: PerState = tally
            .buckets(Range::Day, None)
            .into_iter()
            .fold(PerState::default(), added);
        assert_eq!(day, [1, 0, 2, 2]);
        assert_eq!((tally.records(), tally.counts()), (5, [1, 0, 2, 2]));
    }

    #[test]
    fn neither_operations_nor_what_needs_somebody_grow_without_a_bound() {
        let now = SystemTime::now();
        let mut tally = Tally::begun(now);
        for n in 0..1000 {
            let at = now - Duration::from_secs(n);
            tally.add(&record(RecordState::Crashed, &format!("operation {n}"), at));
        }
        assert_eq!(tally.operations().count(), MAX_OPERATIONS);
        assert_eq!(tally.operations_left_out(), 800);
        assert_eq!(tally.counts(), [1000, 0, 0, 0]);
        let newest: Vec<_> = tally.attention().map(|it| it.operation).collect();
        assert_eq!(newest.len(), MAX_ATTENTION);
        assert_eq!(newest[0].as_str(), "operation 0");
        assert_eq!(newest[19].as_str(), "operation 19");
    }
}
