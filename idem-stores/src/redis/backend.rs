//! What every transition needs: the connections, the scripts and the names of keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::command::Word;
use super::lanes::Lanes;
use super::own_claims::OwnClaims;
use super::record::EncodedId;
use super::scripts::Scripts;
use super::target::Target;

pub(super) struct Backend {
    pub(super) target: Arc<Target>,
    pub(super) lanes: Lanes,
    pub(super) scripts: Scripts,
    /// The beginning of every key.
    pub(super) prefix: Vec<u8>,
    pub(super) own_claims: OwnClaims,
    may_have_v1_records: AtomicBool,
}

impl Backend {
    pub(super) fn new(target: Arc<Target>, lanes: Lanes, prefix: Vec<u8>) -> Self {
        Self {
            target,
            lanes,
            scripts: Scripts::new(),
            prefix,
            own_claims: OwnClaims::default(),
            may_have_v1_records: AtomicBool::new(false),
        }
    }

    /// The key of the record with this encoded id.
    pub(super) fn key<'a>(&'a self, id: &'a EncodedId) -> Word<'a> {
        Word::joined([&self.prefix, id, b""])
    }

    /// Whether claims must look for records of version 1, too.
    pub(super) fn may_have_v1_records(&self) -> bool {
        self.may_have_v1_records.load(Ordering::Relaxed)
    }

    pub(super) fn set_may_have_v1_records(&self, may: bool) {
        self.may_have_v1_records.store(may, Ordering::Relaxed);
    }
}
