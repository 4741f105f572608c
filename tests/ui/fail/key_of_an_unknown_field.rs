use idem::{Error, idempotent};

struct Transfer {
    id: u64,
}

#[idempotent(key = transfer.idd, ttl = "24h", fingerprint(transfer.id))]
async fn settle(transfer: Transfer) -> Result<u64, Error> {
    Ok(transfer.id)
}

fn main() {
    // The function is still there: no second error.
    drop(settle(Transfer { id: 1 }));
}
