//! The engine of `idem-rs`: framework-free, store-free.
//!
//! Applications depend on `idem-rs`, which re-exports what they need. This crate is for those
//! who write a [`Store`] or an adapter.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attempt;
mod call;
mod caller;
mod canonical;
mod current;
mod detached;
mod engine;
mod error;
mod fingerprint;
mod key;
mod listing;
mod maintenance;
mod observe;
mod observer;
mod outcome;
mod policy;
mod record;
mod registry;
mod replay;
mod settings;
mod step;
mod steps;
mod store;
pub mod transactional;

#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "http")]
pub mod http;

pub use attempt::Attempt;
#[doc(hidden)]
pub use caller::{Caller, Waiting};
pub use canonical::FingerprintError;
pub use current::attempt;
#[doc(hidden)]
pub use current::{EnclosingAttempt, has_failed_step};
pub use detached::detached;
pub use engine::{
    Begun, Engine, EngineBuilder, Execution, ExecutionError, InTransaction, InstallError, Keyed,
    Operation, Panic, Resolution, Revocation, Running, TransactionOf, Unprotected, phase,
};
#[doc(hidden)]
pub use engine::{Driven, Flow, Granted, LiveAnswer};
pub use error::Error;
#[doc(hidden)]
pub use fingerprint::FormerFingerprint;
pub use fingerprint::{Fingerprint, Fingerprinter};
#[doc(hidden)]
pub use key::KeyRequest;
pub use key::{Key, KeyError, KeyPart};
pub use listing::{Cursor, Forgotten, Listed, Listing, Page, RecordState, Seen};
pub use maintenance::{Finding, Severity, Swept};
pub use observer::{Decision, Event, EventKind, Observer};
pub use outcome::{NotReplayable, Outcome, Undecodable, Verdict};
pub use policy::{InFlight, Policy, PolicyError};
#[doc(hidden)]
pub use record::RecordHasher;
pub use record::{
    Change, Claim, Claimed, Inspection, Lease, NotARecordId, OnCrash, OperationName, Phase,
    RecordId, Token,
};
#[doc(hidden)]
pub use registry::DeclaredOperation;
pub use registry::{Location, NameTaken};
#[doc(hidden)]
pub use replay::AfterCrash;
pub use replay::{CarriesRefusal, ReleaseErrors, Replayable, StorableValue, StoreErrors};
#[doc(hidden)]
pub use settings::Settings;
pub use step::step;
pub use steps::StepError;
pub use store::{ImmediateStore, Maintenance, Store, StoreError, Watch};
pub use transactional::{
    BegunTransaction, CommitError, TransactionEnd, TransactionSource, Transactional, Writes,
};
