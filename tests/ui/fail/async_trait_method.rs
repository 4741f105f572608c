use async_trait::async_trait;
use idem::idempotent;

struct SettleError;

struct Receipt;

#[async_trait]
trait Bank {
    async fn settle(&self, id: u64) -> Result<u64, SettleError>;
    async fn receipt(&self, id: u64) -> Result<Receipt, idem::Error>;
    async fn order(&self, order: (u64, Receipt)) -> Result<u64, idem::Error>;
}

struct Test;

#[async_trait]
impl Bank for Test {
    #[idempotent(key = id, ttl = "24h", name = "bank.settle")]
    async fn settle(&self, id: u64) -> Result<u64, SettleError> {
        Ok(id)
    }

    #[idempotent(key = id, ttl = "24h", name = "bank.receipt")]
    async fn receipt(&self, id: u64) -> Result<Receipt, idem::Error> {
        drop(id);
        Ok(Receipt)
    }

    #[idempotent(key = id, ttl = "24h", name = "bank.order")]
    async fn order(&self, (id, receipt): (u64, Receipt)) -> Result<u64, idem::Error> {
        drop(receipt);
        Ok(id)
    }
}

fn main() {
    drop((Test.settle(1), Test.receipt(1), Test.order((1, Receipt))));
}
