//! The function form, `idem::idempotent`: every shape of function runs once per key and gives
//! its stored value back, whatever its signature, its body and the attributes around it.
//!
//! No engine is installed: each test has one of its own and names it with `engine = …`.

mod arguments;
mod attributes;
mod bodies;
mod forbidding;
mod futures;
mod keys;
mod lints;
mod patterns;
mod policies;
mod receivers;
mod signatures;
mod steps;
mod traits;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use idem::Engine;
use idem::stores::memory::{ManualClock, MemoryStore};

/// Where a test's functions run: an engine over a store of its own, and how often a body ran.
///
/// It is not `Serialize`: where it is an argument it has to be skipped, as a pool would.
#[derive(Clone)]
struct Desk {
    engine: Engine,
    clock: ManualClock,
    runs: Arc<AtomicU32>,
}

impl Desk {
    fn new() -> Self {
        let clock = ManualClock::new();
        let store = MemoryStore::builder().manual_clock(clock.clone()).build();
        Self {
            engine: Engine::new(store),
            clock,
            runs: Arc::default(),
        }
    }

    /// Counts a run of a body, and gives its number: 1 for the first.
    fn run(&self) -> u32 {
        self.runs.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn runs(&self) -> u32 {
        self.runs.load(Ordering::SeqCst)
    }
}

/// Makes the same call twice: its body runs once, and both calls give the value of that run.
macro_rules! assert_runs_once {
    ($desk:expr, $call:expr) => {{
        let before = $desk.runs();
        let first = $call.await.unwrap();
        let second = $call.await.unwrap();
        assert_eq!(first, second, "the second call gives the stored value");
        assert_eq!($desk.runs(), before + 1, "the body runs once");
        first
    }};
}
use assert_runs_once;
