//! The generated code raises no lint that the user's code does not raise itself.
#![deny(warnings, clippy::all, clippy::pedantic, clippy::nursery)]
#![deny(
    clippy::as_conversions,
    clippy::panic,
    clippy::shadow_reuse,
    clippy::shadow_same,
    clippy::shadow_unrelated,
    clippy::unwrap_used,
    let_underscore_drop,
    single_use_lifetimes,
    unreachable_pub,
    unused_lifetimes,
    unused_qualifications
)]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use idem::{Error, idempotent};
use serde::Serialize;

use crate::{Desk, assert_runs_once, forbidding};

#[idempotent(
    key = (tenant, id),
    scope = tenant,
    ttl = Duration::from_secs(90),
    lease = "10s",
    in_flight = "wait 1s",
    on_crash = "rerun",
    errors = "release",
    fingerprint(id, tenant.len()),
    engine = desk.engine,
)]
async fn everything(desk: &Desk, tenant: &str, id: u64) -> Result<u32, Error> {
    if tenant.is_empty() {
        return Err(Error::NoEngine);
    }
    Ok(desk.run() + u32::from(id > 1))
}

#[idempotent(key = id, ttl = "1h", skip(desk), engine = desk.engine)]
async fn unit(desk: &Desk, id: u64) -> Result<(), Error> {
    assert!(id > 0, "a key");
    desk.run();
    Ok(())
}

#[idempotent(key = id, ttl = "1h", name = "lints.generic", skip(desk), engine = desk.engine)]
async fn generic<T>(desk: &Desk, id: u64, value: T) -> Result<u64, Error>
where
    T: Serialize + Into<u64>,
{
    desk.run();
    Ok(id + value.into())
}

#[async_trait]
trait Settle {
    async fn settle(&self, pair: (u64, u64), note: &str) -> Result<u64, Error>;
}

#[async_trait]
impl Settle for Desk {
    #[idempotent(key = id, ttl = "1h", name = "lints.settle", skip(cents), engine = self.engine)]
    async fn settle(&self, (id, mut cents): (u64, u64), note: &str) -> Result<u64, Error> {
        self.run();
        cents += u64::from(note.is_empty());
        Ok(id + cents)
    }
}

#[tokio::test]
async fn generated_code_raises_no_lint() {
    let desk = Desk::new();
    assert_runs_once!(desk, everything(&desk, "t", 1));
    assert_runs_once!(desk, unit(&desk, 1));
    assert_runs_once!(desk, generic(&desk, 1, 2_u32));
    assert_runs_once!(desk, desk.settle((1, 2), "note"));
}

#[tokio::test]
async fn where_every_warning_is_forbidden_generated_code_raises_none() {
    let desk = Desk::new();
    assert_runs_once!(desk, forbidding::everything(&desk, "t", 1));
    assert_runs_once!(desk, forbidding::unit(&desk, 1));
    assert_runs_once!(desk, forbidding::generic(&desk, (1, 2), 3_u32));
    let shop = Arc::new(forbidding::Shop(desk.clone()));
    let first: u64 = Arc::clone(&shop).method(1).await.unwrap().into();
    let again: u64 = shop.method(1).await.unwrap().into();
    assert_eq!(first, again);
    let panics = tokio::spawn(async move { forbidding::never(&desk, 1).await });
    assert!(panics.await.unwrap_err().is_panic());
}
