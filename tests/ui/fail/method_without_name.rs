use std::sync::Arc;

use async_trait::async_trait;
use idem::{Error, idempotent};

struct Bank;

impl Bank {
    #[idempotent(key = id, ttl = "1h")]
    async fn by_reference(&self, id: u64) -> Result<u64, Error> {
        Ok(id)
    }

    #[idempotent(key = id, ttl = "1h")]
    async fn behind_arc(self: Arc<Self>, id: u64) -> Result<u64, Error> {
        Ok(id)
    }
}

trait Settle {
    #[idempotent(key = id, ttl = "1h")]
    async fn by_default(&mut self, id: u64) -> Result<u64, Error> {
        Ok(id)
    }
}

#[async_trait]
trait Boxed {
    async fn boxed(&self, id: u64) -> Result<u64, Error>;
}

#[async_trait]
impl Boxed for Bank {
    #[idempotent(key = id, ttl = "1h")]
    async fn boxed(&self, id: u64) -> Result<u64, Error> {
        Ok(id)
    }
}

fn main() {}
