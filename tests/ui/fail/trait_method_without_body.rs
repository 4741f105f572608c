use idem::{Error, idempotent};

trait Bank {
    #[idempotent(key = id, ttl = "24h")]
    async fn settle(&self, id: u64) -> Result<u64, Error>;
}

struct Test;

impl Bank for Test {
    async fn settle(&self, id: u64) -> Result<u64, Error> {
        Ok(id)
    }
}

fn main() {
    drop(Test.settle(1));
}
