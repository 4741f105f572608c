use idem::{Error, idempotent};

struct Bank;

impl Bank {
    const PREFIX: &'static str = "bank";

    #[idempotent(key = id, ttl = "1h", skip(bank))]
    async fn in_the_signature(bank: &Self, id: u64) -> Result<u64, Error> {
        let _ = bank;
        Ok(id)
    }

    #[idempotent(key = (Self::PREFIX, id), ttl = "1h")]
    async fn in_the_attribute(id: u64) -> Result<u64, Error> {
        Ok(id)
    }

    #[idem::axum::idempotent(key = header("Idempotency-Key"), ttl = "1h")]
    async fn in_the_body(text: String) -> String {
        format!("{} {text}", Self::PREFIX)
    }
}

fn main() {}
