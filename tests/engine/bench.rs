//! What the engine's tests share.

use std::sync::Arc;
use std::time::Duration;

use idem::conformance::faults::FaultyStore;
use idem::stores::memory::MemoryStore;
use idem::{Engine, Error, Fingerprint, Operation};

pub(crate) const LEASE: Duration = Duration::from_secs(30);
pub(crate) const STORE_TIMEOUT: Duration = Duration::from_secs(5);

/// A store whose faults a test writes. Its records judge time by tokio's clock.
pub(crate) fn faulty() -> FaultyStore {
    FaultyStore::new(Arc::new(MemoryStore::new()))
}

pub(crate) fn operation(store: &FaultyStore) -> Operation {
    operation_of(&Engine::new(store.clone()))
}

pub(crate) fn operation_of(engine: &Engine) -> Operation {
    engine.operation("tests.engine").lease(LEASE)
}

pub(crate) fn request() -> Fingerprint {
    Fingerprint::of("the request").unwrap()
}

pub(crate) fn other_request() -> Fingerprint {
    Fingerprint::of("another request").unwrap()
}

pub(crate) type Answer = Result<u32, Error>;

/// Runs a body that must not run.
pub(crate) async fn must_not_run(operation: &Operation, key: &str, request: Fingerprint) -> Answer {
    let body = async { panic!("this body must not run") };
    operation.run(key, request, body).await
}

/// Runs a body that returns its attempt's number.
pub(crate) async fn attempt_number(operation: &Operation, key: &str) -> Answer {
    let body = async { Ok(idem::attempt().number()) };
    operation.run(key, request(), body).await
}
