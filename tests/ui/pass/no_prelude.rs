//! No name is taken from the prelude, nor from what the module calls its own.
#![no_implicit_prelude]
#![deny(warnings)]
#![allow(dead_code)]

struct Result;
struct Option;
struct Box;
struct Some;
struct None;
struct Ok;
struct Err;
struct String;
trait Into {}
trait From {}
trait Clone {}

#[::idem::idempotent(
    key = id,
    scope = tenant,
    ttl = "1h",
    lease = "10s",
    in_flight = "wait",
    on_crash = "refuse",
    errors = "release",
    fingerprint(id)
)]
async fn settle(tenant: &str, id: u64) -> ::core::result::Result<u64, ::idem::Error> {
    let _ = tenant;
    ::core::result::Result::Ok(id)
}

#[::idem::idempotent(key = id, ttl = "1h")]
async fn cancel(id: u64) -> ::core::result::Result<u64, ::idem::Error> {
    ::core::result::Result::Ok(id)
}

#[::idem::axum::idempotent(key = header("Idempotency-Key"), ttl = "1h")]
async fn create(text: ::std::string::String) -> ::std::string::String {
    text
}

#[::idem::axum::idempotent(key = text, scope = text, ttl = "1h", fingerprint(text), release(409))]
async fn keyed(text: ::std::string::String) -> ::std::string::String {
    text
}

#[::idem::axum::idempotent(key = header("Idempotency-Key"), ttl = "1h")]
async fn nothing() {}

fn main() {
    ::core::mem::drop((settle("t", 1), cancel(1)));
    let _: ::axum::Router = ::axum::Router::new()
        .route("/", ::axum::routing::post(create))
        .route("/keyed", ::axum::routing::post(keyed))
        .route("/nothing", ::axum::routing::post(nothing));
}
