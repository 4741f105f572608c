use idem::{Error, idempotent};

#[idempotent(key = id, ttl = "1h")]
async fn settle(#[cfg(any())] id: u64, note: &str) -> Result<usize, Error> {
    Ok(note.len())
}

fn main() {
    drop(settle("note"));
}
