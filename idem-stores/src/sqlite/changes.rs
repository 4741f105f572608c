//! Changes of records that are more than a claim or a lease.

use bytes::Bytes;
use idem_core::{Lease, RecordId, Seen, Token};

/// The end of an attempt with an outcome.
#[derive(Debug)]
pub(super) struct Completion {
    pub(super) lease: Lease,
    pub(super) outcome: Bytes,
}

/// Finished steps.
#[derive(Debug)]
pub(super) struct Checkpoint {
    pub(super) lease: Lease,
    /// Where the bytes begin.
    pub(super) at: usize,
    pub(super) steps: Bytes,
}

/// The end of an attempt without an outcome.
#[derive(Debug)]
pub(super) struct End {
    pub(super) id: RecordId,
    pub(super) transition: Transition,
}

/// A record that is to be forgotten.
#[derive(Debug)]
pub(super) struct Removal {
    pub(super) id: RecordId,
    /// `None`: whatever it says.
    pub(super) seen: Option<Seen>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Transition {
    /// The record is deleted; if it has steps, it is suspended.
    Release(Token),
    /// The record is kept, and no attempt holds it.
    Abandon(Token),
    /// As [`Self::Abandon`], and the next attempt goes on with its steps.
    Suspend(Token),
    /// As [`Self::Abandon`], for who knows the attempt's number and not its token.
    Revoke(u32),
}
