use idem::{Error, idempotent};

struct Bank;

impl Bank {
    #[idempotent(key = id, ttl = "24h", name = "bank.settle", skip(self))]
    async fn settle(&self, id: u64) -> Result<u64, Error> {
        Ok(id)
    }
}

fn main() {
    drop(Bank.settle(1));
}
