//! Functions where every warning is forbidden: an expansion allows nothing, which would be a
//! warning of its own.
#![deny(forbidden_lint_groups)]
#![forbid(warnings, clippy::all)]

use std::sync::Arc;
use std::time::Duration;

use idem::{Error, idempotent};

use crate::Desk;

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
pub(crate) async fn everything(desk: &Desk, tenant: &str, id: u64) -> Result<u32, Error> {
    if tenant.is_empty() {
        return Err(Error::NoEngine);
    }
    Ok(desk.run() + u32::from(id > 1))
}

#[idempotent(key = id, ttl = "1h", skip(desk), engine = desk.engine)]
pub(crate) async fn unit(desk: &Desk, id: u64) -> Result<(), Error> {
    assert!(id > 0, "a key");
    desk.run();
    Ok(())
}

#[idempotent(key = id, ttl = "1h", skip(desk), engine = desk.engine)]
pub(crate) async fn never(desk: &Desk, id: u64) -> Result<u32, Error> {
    desk.run();
    panic!("{id}")
}

#[idempotent(key = id, ttl = "1h", name = "forbidding.generic", skip(desk, value), engine = desk.engine)]
pub(crate) async fn generic<T>(desk: &Desk, (id, _): (u64, u8), value: T) -> Result<u64, Error>
where
    T: Into<u64>,
{
    desk.run();
    Ok(id + value.into())
}

pub(crate) struct Shop(pub(crate) Desk);

impl Shop {
    #[idempotent(key = id, ttl = "1h", name = "forbidding.method", engine = self.0.engine)]
    pub(crate) async fn method(self: Arc<Self>, id: u64) -> Result<impl Into<u64>, Error> {
        Ok(id + u64::from(self.0.run()))
    }
}
