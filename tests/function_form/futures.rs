//! The futures of annotated functions: their size, and that they are `Send` when the body is.

use std::ops::RangeInclusive;
use std::sync::Mutex;

use idem::{Error, idempotent};

use crate::Desk;

const BODY: usize = 4 * 1024;

async fn touch(buffer: &mut [u8]) {
    tokio::task::yield_now().await;
    buffer[0] = buffer[0].wrapping_add(1);
}

#[idempotent(key = id, ttl = "1h", skip(desk), engine = desk.engine)]
async fn large(desk: &Desk, id: u8) -> Result<u8, Error> {
    desk.run();
    let mut buffer = [id; BODY];
    touch(&mut buffer).await;
    Ok(buffer[0])
}

#[idempotent(key = id, ttl = "1h", skip(desk), engine = desk.engine)]
async fn small(desk: &Desk, id: u8) -> Result<u8, Error> {
    desk.run();
    touch(&mut [id]).await;
    Ok(id)
}

/// The body is boxed where it is made, so that its locals are no part of the caller's future:
/// what is left is the engine's own work.
#[tokio::test]
async fn the_future_does_not_grow_with_its_body() {
    let desk = Desk::new();
    let (large, small) = (large(&desk, 1), small(&desk, 1));
    assert_eq!(size_of_val(&large), size_of_val(&small));
    assert!(size_of_val(&large) < BODY, "{} bytes", size_of_val(&large));
    assert_eq!(large.await.unwrap(), 2);
}

fn assert_send<T: Send>(value: T) -> T {
    value
}

#[idempotent(key = ids.lock().unwrap().next(), ttl = "1h", scope = *ids.lock().unwrap().end(), fingerprint(ids.lock().unwrap().end()), engine = desk.engine)]
async fn locking(desk: &Desk, ids: &Mutex<RangeInclusive<u32>>) -> Result<u32, Error> {
    desk.run();
    tokio::task::yield_now().await;
    Ok(*ids.lock().unwrap().start())
}

#[tokio::test]
async fn what_the_key_locks_is_free_when_the_body_runs() {
    let desk = Desk::new();
    let ids = Mutex::new(1..=3);
    assert_eq!(assert_send(locking(&desk, &ids)).await.unwrap(), 2);
}

#[tokio::test]
async fn the_future_is_send_when_the_body_is() {
    let desk = Desk::new();
    assert_eq!(assert_send(large(&desk, 1)).await.unwrap(), 2);
}

#[idempotent(key = id, ttl = "1h", skip(desk), engine = desk.engine)]
async fn local(desk: &Desk, id: u8) -> Result<u8, Error> {
    desk.run();
    let shared = std::rc::Rc::new(id);
    tokio::task::yield_now().await;
    Ok(*shared)
}

#[tokio::test]
async fn a_body_need_not_be_send() {
    let desk = Desk::new();
    assert_eq!(local(&desk, 1).await.unwrap(), 1);
    assert_eq!(local(&desk, 1).await.unwrap(), 1);
    assert_eq!(desk.runs(), 1);
}
