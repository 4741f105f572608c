//! Proof that a [`Store`] keeps its promises, for stores written here and elsewhere.
//!
//! Implement [`Harness`] for the store, and write one test:
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use idem_core::Store;
//! use idem_core::conformance::{self, Harness, ReferenceStore};
//!
//! #[derive(Default)]
//! struct Reference(ReferenceStore);
//!
//! #[async_trait::async_trait]
//! impl Harness for Reference {
//!     async fn store(&self) -> Arc<dyn Store> {
//!         Arc::new(self.0.clone())
//!     }
//!
//!     // A store that runs on real time sleeps here.
//!     async fn advance(&self, by: Duration) {
//!         self.0.advance(by);
//!     }
//!
//!     // On real time, half a second is enough.
//!     fn lease(&self) -> Duration {
//!         Duration::from_secs(30)
//!     }
//!
//!     fn notifies(&self) -> bool {
//!         true
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! conformance::assert_conforms(&Reference::default()).await;
//! # }
//! ```
//!
//! On a multi-threaded runtime the races run in parallel: `#[tokio::test(flavor =
//! "multi_thread")]` finds more.
//!
//! The cases cover every row of the table at [`Store`], races, paused owners, lost answers,
//! expiry, steps and suspension, listings, and large and binary outcomes. Each works on fresh random records, so that a
//! database may be shared; what they leave behind expires twenty thousand leases later.
//!
//! [`faults`] holds a store that fails on demand, for tests of what stands above a store.
//!
//! [`Store`]: crate::Store

mod bench;
mod brief;
mod cases;
mod expiry;
mod forgetting;
mod forgotten;
mod harness;
mod identity;
mod listing;
mod outcomes;
mod owners;
mod races;
mod reference;
mod steps;
mod suspension;
mod transitions;
mod watching;

pub mod faults;

pub use harness::Harness;
pub use reference::ReferenceStore;
use std::fmt;

/// How a store did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    passed: Vec<&'static str>,
    failed: Vec<(&'static str, String)>,
}

impl Report {
    /// Whether the store keeps every promise.
    pub fn conforms(&self) -> bool {
        self.failed.is_empty()
    }

    /// The promises kept.
    pub fn passed(&self) -> &[&'static str] {
        &self.passed
    }

    /// The promises broken, each with what was seen.
    pub fn failed(&self) -> &[(&'static str, String)] {
        &self.failed
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kept, broken) = (self.passed.len(), self.failed.len());
        write!(f, "{kept} promises kept, {broken} broken")?;
        self.failed
            .iter()
            .try_for_each(|(case, message)| write!(f, "\n  {case}\n    {message}"))
    }
}

/// Runs every case, and says which promises the store keeps. A case that fails, panics or
/// hangs does not stop the others.
///
/// Wherever a case waits for time to pass, the others come first, and all wait together: the
/// store is asked by one case at a time, and the clock is moved only while no call is under
/// way. Each call is given half a minute of Tokio's time.
///
/// # Panics
/// When called outside of a Tokio runtime with time enabled, and when the harness panics.
pub async fn check(harness: &dyn Harness) -> Report {
    let mut report = Report::default();
    for (case, result) in cases::run_all(harness).await {
        match result {
            Ok(()) => report.passed.push(case),
            Err(failure) => report.failed.push((case, failure.to_string())),
        }
    }
    report
}

/// [`check`], for a test.
///
/// # Panics
/// When the store breaks a promise, with the list of those it breaks; and as [`check`] does.
pub async fn assert_conforms(harness: &dyn Harness) {
    let report = check(harness).await;
    assert!(report.conforms(), "the store does not conform: {report}\n");
}
