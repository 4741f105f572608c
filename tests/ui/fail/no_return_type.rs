use idem::idempotent;

#[idempotent(key = id, ttl = "24h")]
async fn settle(id: u64) {
    drop(id);
}

fn main() {
    // The function is still there: no second error.
    drop(settle(1));
}
