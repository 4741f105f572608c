use idem::{Error, idempotent};
use serde::Serialize;

#[idempotent(key = id, ttl = "1h")]
async fn pay<T: Serialize>(id: u64, means: T) -> Result<u64, Error> {
    drop(means);
    Ok(id)
}

#[idempotent(key = id, ttl = "1h")]
async fn batch<'a, const N: usize>(id: &'a str, amounts: [u64; N]) -> Result<usize, Error> {
    Ok(id.len() + amounts.len())
}

#[idempotent(key = id, ttl = "1h", skip(note))]
async fn note(id: u64, note: Option<&(impl ToString + Sync)>) -> Result<u64, Error> {
    drop(note.map(ToString::to_string));
    Ok(id)
}

#[idem::axum::idempotent(key = header("Idempotency-Key"), ttl = "1h")]
async fn handler<T: Send + Sync + Clone + 'static>(state: axum::Extension<T>, body: String) -> String {
    drop(state);
    body
}

fn main() {}
