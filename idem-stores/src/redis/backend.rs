//! What every transition needs: the connections, the scripts and the names of keys.

use std::sync::atomic::{AtomicBool, Ordering};

use idem_core::RecordId;

use super::lanes::Lanes;
use super::record;
use super::scripts::Scripts;

pub(super) struct Backend {
    pub(super) lanes: Lanes,
    pub(super) scripts: Scripts,
    /// The beginning of every key.
    pub(super) prefix: Vec<u8>,
    may_have_v1_records: AtomicBool,
}

impl Backend {
    pub(super) fn new(lanes: Lanes, prefix: Vec<u8>) -> Self {
        Self {
            lanes,
            scripts: Scripts::new(),
            prefix,
            may_have_v1_records: AtomicBool::new(false),
        }
    }

    pub(super) fn key(&self, id: &RecordId) -> Vec<u8> {
        record::key(&self.prefix, id)
    }

    /// Whether claims must look for records of version 1, too.
    pub(super) fn may_have_v1_records(&self) -> bool {
        self.may_have_v1_records.load(Ordering::Relaxed)
    }

    pub(super) fn set_may_have_v1_records(&self, may: bool) {
        self.may_have_v1_records.store(may, Ordering::Relaxed);
    }
}
