use idem::{Error, idempotent};

#[idempotent]
async fn settle(id: u64) -> Result<u64, Error> {
    Ok(id)
}

fn main() {
    drop(settle(1));
}
