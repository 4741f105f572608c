//! No two annotated functions share an operation name: nothing runs under a name that two have,
//! whichever is called first, also when the other is never called in this process.

mod engines;
mod refused;
mod shapes;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use idem::stores::memory::MemoryStore;
use idem::{Engine, Error};
use idem_tests as _;

/// Where a test's functions run: an engine of its own, and how often a body ran.
#[derive(Clone)]
struct Desk {
    engine: Engine,
    runs: Arc<AtomicU32>,
}

impl Desk {
    fn new() -> Self {
        Self {
            engine: Engine::new(MemoryStore::new()),
            runs: Arc::default(),
        }
    }

    fn run(&self) -> u32 {
        self.runs.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn runs(&self) -> u32 {
        self.runs.load(Ordering::SeqCst)
    }
}

/// What a call says whose operation name another function has, too.
fn assert_name_taken(desk: &Desk, answer: Result<u32, Error>) {
    let error = answer.unwrap_err();
    assert!(matches!(error, Error::NameTaken { .. }), "{error}");
    assert_eq!(desk.runs(), 0, "no body ran");
}
