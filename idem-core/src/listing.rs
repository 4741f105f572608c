//! What an operator asks a store for: which records there are.

use std::fmt;
use std::time::{Duration, SystemTime};

use crate::record::{Inspection, OperationName, Phase, RecordId};

/// Where a record is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RecordState {
    /// An attempt holds its lease.
    Running,
    /// The lease of its newest attempt is over, and the attempt left no outcome.
    Crashed,
    /// Its newest attempt ended without an outcome and left finished steps.
    Suspended,
    /// Its outcome is stored.
    Finished,
}

impl RecordState {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Running,
        Self::Crashed,
        Self::Suspended,
        Self::Finished,
    ];

    /// One word, as tools and stores write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Crashed => "crashed",
            Self::Suspended => "suspended",
            Self::Finished => "finished",
        }
    }
}

impl fmt::Display for RecordState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A question for one page of a store's records.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Listing {
    /// Only records in this state.
    pub state: Option<RecordState>,
    /// Only records of this operation. Records that do not say theirs are left out then.
    pub operation: Option<OperationName>,
    /// Where the page before it ended. `None`: from the beginning.
    pub after: Option<Cursor>,
    limit: usize,
}

impl Listing {
    /// The most records on one page.
    pub const MAX_LIMIT: usize = 1000;

    /// The first page of all records, with so many of them at most.
    pub fn new(limit: usize) -> Self {
        Self {
            limit: limit.clamp(1, Self::MAX_LIMIT),
            ..Self::default()
        }
    }

    /// Only records in this state.
    #[must_use]
    pub const fn in_state(mut self, state: RecordState) -> Self {
        self.state = Some(state);
        self
    }

    /// Only records of the operation with this name.
    #[must_use]
    pub fn of_operation(mut self, name: &str) -> Self {
        self.operation = Some(OperationName::new(name));
        self
    }

    /// The page after the one that ended there.
    #[must_use]
    pub fn after(mut self, cursor: Cursor) -> Self {
        self.after = Some(cursor);
        self
    }

    /// The most records to answer with.
    pub fn limit(&self) -> usize {
        self.limit.clamp(1, Self::MAX_LIMIT)
    }

    /// Whether a record with this state and operation is asked for.
    pub fn includes(&self, state: RecordState, operation: &OperationName) -> bool {
        self.state.is_none_or(|asked| asked == state)
            && self.operation.is_none_or(|asked| asked == *operation)
    }
}

/// Where a page ended. Only the store that made it can read it; it can be printed and read back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cursor(String);

impl Cursor {
    /// A cursor of a store's own making. It never holds what people sent.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// What the store wrote.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A part of a store's records.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Page {
    /// The records. A page may be short, or empty, and not be the last.
    pub records: Vec<Listed>,
    /// Where the next page begins. `None`: this was the last.
    pub next: Option<Cursor>,
}

impl Page {
    /// A page, and where the next one begins.
    pub const fn new(records: Vec<Listed>, next: Option<Cursor>) -> Self {
        Self { records, next }
    }
}

/// A record on a page. Its outcome and its steps are told by their size only.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listed {
    /// The record.
    pub id: RecordId,
    /// Where it is in its life.
    pub state: RecordState,
    /// The newest attempt's number, from 1.
    pub attempt: u32,
    /// The operation's name. Empty where a former version has written the record.
    pub operation: OperationName,
    /// When the newest attempt was claimed, by the store's clock. `None` where it is not known.
    pub claimed_at: Option<SystemTime>,
    /// What is left of the lease of a running record.
    pub lease_left: Option<Duration>,
    /// How long the record is still kept unless something changes it.
    pub kept_for: Duration,
    /// The size of its outcome, or else of its steps, in bytes.
    pub bytes: usize,
}

impl Listed {
    /// A record as a listing finds it.
    pub const fn new(id: RecordId, state: RecordState, attempt: u32, kept_for: Duration) -> Self {
        Self {
            id,
            state,
            attempt,
            operation: OperationName::UNKNOWN,
            claimed_at: None,
            lease_left: None,
            kept_for,
            bytes: 0,
        }
    }
}

/// What was seen of a record: its newest attempt, and where that was in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub struct Seen {
    /// The attempt's number, from 1.
    pub attempt: u32,
    /// Its state.
    pub state: RecordState,
}

impl Seen {
    /// This attempt, in this state.
    pub const fn new(attempt: u32, state: RecordState) -> Self {
        Self { attempt, state }
    }

    /// What an inspection has found.
    pub const fn of(found: &Inspection) -> Self {
        let state = match found.phase {
            Phase::Running {
                lease_left: Some(_),
            } => RecordState::Running,
            Phase::Running { lease_left: None } => RecordState::Crashed,
            Phase::Suspended => RecordState::Suspended,
            Phase::Finished { .. } => RecordState::Finished,
        };
        Self::new(found.attempt, state)
    }
}

/// What became of a record that was to be forgotten.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Forgotten {
    /// It is absent now.
    Removed,
    /// There was none.
    Absent,
    /// An attempt holds its lease, and it stays.
    Running {
        /// What is left of the lease.
        lease_left: Duration,
    },
    /// It is not as it was [seen](Seen) any more, and it stays: another attempt is the newest, or this
    /// one is in another state.
    NotAsSeen,
}
