//! Keys, scopes, bodies, values, logins and credentials are in nothing that a process says, whatever
//! happens to it: no log and no span of any crate at the finest level, no panic, no label, no error.

#[path = "../../../support/works.rs"]
mod works;

mod heard;
mod places;

use std::process::Command;
use std::time::Duration;

use axum::extract::State;
use axum::routing::post as route;
use axum::{Extension, Router};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use futures_util::FutureExt;
use heard::Heard;
use http::{Request, Response};
use idem::conformance::faults::{Fault, FaultyStore, Method};
use idem::store::Listing;
use idem::{Engine, Error, Fingerprint};
use idem_frameworks::Server;
use places::{Place, places};
use works::Works;

/// A part of everything that nobody may read.
const SECRET: &str = "s3cr3t";
/// A part of a password that does not fit.
const WRONG: &str = "wr0ng";
const USERS_PANIC: &str = "s3cr3t of a user's body";

const KEY: &str = "\"s3cr3t-key\"";
const BODY: &str = "{\"card\":\"s3cr3t-card\"}";

#[idem::axum::idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn charge(State(works): State<Works>, body: String) -> ([(&'static str, String); 1], String) {
    match &*body {
        "stop" => works.stop_here().await,
        "panic" => std::panic::panic_any(USERS_PANIC.to_owned()),
        _ => {}
    }
    let secret = format!("{SECRET}-header");
    ([("x-secret", secret)], format!("{SECRET}-answer {body}"))
}

/// Of the function form, in a scope, with a step.
#[idem::idempotent(key = key, scope = scope, ttl = "24h", skip(engine), engine = engine)]
async fn settle(
    engine: Engine,
    key: &'static str,
    scope: &'static str,
    card: &'static str,
) -> Result<String, Error> {
    let held = idem::step("hold", async { Ok::<_, Error>(format!("{SECRET}-step")) }).await?;
    match card {
        "panic" => std::panic::panic_any(USERS_PANIC.to_owned()),
        "release" => Err(Error::LeaseLost),
        _ => Ok(format!("{held} {card}")),
    }
}

async fn send(server: Server, keys: &[&str], body: &'static str) -> Response<bytes::Bytes> {
    let mut request = Request::post("/charges?card=s3cr3t-query")
        .header("authorization", "Bearer s3cr3t-token")
        .header("content-type", "text/plain")
        .header("x-api-key", "s3cr3t-api-key");
    for key in keys {
        request = request.header("idempotency-key", *key);
    }
    server.send(request.body(body).unwrap()).await
}

/// Requests of every kind, to a store that is there or is not.
async fn requests(heard: &Heard, server: Server, engine: &Engine) {
    for (keys, body) in [
        (&[KEY][..], BODY),
        (&[KEY], BODY),
        (&[KEY], "another s3cr3t-card"),
        (&["\"s3cr3t-unterminated"], BODY),
        (&["s3cr3t key"], BODY),
        (&[KEY, "\"s3cr3t-key-2\""], BODY),
        (&[], BODY),
        (&["\"s3cr3t-panic\""], "panic"),
    ] {
        let answer = send(server, keys, body).await;
        // What is no refusal is the operation's own answer.
        if !answer.status().is_success() {
            heard.note(&format!("refusal {answer:?}"));
        }
    }
    let long = "s3cr3t".repeat(1000);
    for (key, card) in [
        ("s3cr3t-key", "s3cr3t-card"),
        ("s3cr3t-key", "s3cr3t-card"),
        ("s3cr3t-key", "another s3cr3t-card"),
        ("s3cr3t-panic", "panic"),
        ("s3cr3t-panic", "panic"),
        ("s3cr3t-release", "release"),
        ("", "s3cr3t-card"),
        (&*long.leak(), "s3cr3t-card"),
    ] {
        let call = settle(engine.clone(), key, "s3cr3t-scope", card);
        // A panic goes on to the caller.
        if let Ok(Err(error)) = std::panic::AssertUnwindSafe(call).catch_unwind().await {
            heard.note_error(&error);
        }
    }
    // An answer that cannot be read as what the function returns.
    let operation = engine.operation("unreadable");
    let request = Fingerprint::of("s3cr3t-request").unwrap();
    let text = async { Ok::<_, Error>("s3cr3t-value".to_owned()) };
    let _ = operation.run("s3cr3t-key", request, text).await;
    let number = async { Ok::<u64, Error>(1) };
    if let Err(error) = operation.run("s3cr3t-key", request, number).await {
        heard.note_error(&error);
    }
    let inspected = operation.inspect("s3cr3t-key").await;
    heard.note(&format!("{operation:?} {inspected:?} {engine:?}"));
    let listed = engine.list(&Listing::default()).await;
    heard.note(&format!("{listed:?}"));
}

/// Everything that happens to one store.
async fn exercise(heard: &Heard, place: Place) {
    if let Some(wrong) = place.url_with_a_wrong_password() {
        heard.note_error(&idem::connect(&wrong).await.unwrap_err());
    }
    for unusable in [
        place.url.replace("://", ":/s3cr3t/"),
        place.url_with("s3cr3t-option=s3cr3t"),
        place.url_with("timeout=s3cr3t"),
    ] {
        match idem::connect(&unusable).await {
            Ok(builder) => heard.note(&format!("{builder:?}")),
            Err(error) => heard.note_error(&error),
        }
    }
    let store = idem::stores::connect(&place.url).await.unwrap();
    heard.note(&format!("{:?}", idem::connect(&place.url).await));
    let store = FaultyStore::new(store);
    let engine = Engine::builder(store.clone())
        .store_timeout(Duration::from_secs(1))
        .build();
    let works = Works::default();
    let router = Router::new()
        .route("/charges", route(charge))
        .layer(Extension(engine.clone()))
        .with_state(works.clone());
    let server = Server::start(router).await;

    requests(heard, server, &engine).await;
    // In flight, in this process and at the store.
    let first = tokio::spawn(async move { send(server, &["\"s3cr3t-slow\""], "stop").await });
    works.started().await;
    let refused = send(server, &["\"s3cr3t-slow\""], "stop").await;
    assert_eq!(refused.status(), 409);
    heard.note(&format!("refusal {refused:?}"));
    // Answers that get lost.
    for method in [Method::Claim, Method::Complete, Method::Abandon] {
        store.fail(method, 2, Fault::LoseAnswer);
    }
    requests(heard, server, &engine).await;
    store.heal_everything();

    let name = place.name;
    place.take_away();
    if name == "memory" {
        store.fail_everything(&Fault::Unavailable);
    }
    works.let_go();
    assert_eq!(first.await.unwrap().status(), 200);
    requests(heard, server, &engine).await;
}

#[test]
fn nothing_that_a_request_or_a_url_holds_is_ever_said() {
    let credentials = places::AWS_CREDENTIALS;
    if credentials
        .iter()
        .any(|(name, value)| std::env::var(name).as_deref() != Ok(value))
    {
        let again = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "nothing_that_a_request_or_a_url_holds_is_ever_said",
            ])
            .arg("--nocapture")
            .envs(credentials)
            .status();
        assert!(again.unwrap().success(), "see above");
        return;
    }
    let heard = Heard::listen();
    for place in places() {
        let name = place.name;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(exercise(&heard, place));
        // The end of what an outage left undone is cut off, and says so.
        runtime.shutdown_timeout(Duration::from_secs(5));
        let said = heard.take();
        for kind in [
            "idempotency decision",
            "an earlier attempt ended without an outcome",
            "store call failed",
            "the store did not take a change of an attempt",
            "store call{",
            "refusal ",
            "error ",
            "metric ",
            // Of a crate that knows nothing of this one.
            "log mio",
        ] {
            assert!(said.contains(kind), "{name} never said {kind:?}:\n{said}");
        }
        for (form, needle) in needles() {
            if let Some(at) = said.find(&needle) {
                let line = said[..at].rfind('\n').map_or(0, |end| end + 1);
                let end = said[at..].find('\n').map_or(said.len(), |end| at + end);
                panic!(
                    "{name} said {needle:?}, a secret {form}:\n{}",
                    &said[line..end]
                );
            }
        }
    }
}

/// A secret, as it is and as it may be written.
fn needles() -> Vec<(&'static str, String)> {
    let mut needles = Vec::new();
    for secret in [SECRET, WRONG] {
        let bytes: Vec<_> = secret.bytes().map(|byte| byte.to_string()).collect();
        let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
        needles.push(("as it is", secret.to_owned()));
        needles.push(("as bytes", bytes.join(", ")));
        needles.push(("in base 16", hex));
        // Whole groups of three bytes, at any place.
        for skipped in 0..3 {
            let whole = &secret[skipped..];
            let whole = &whole[..whole.len() / 3 * 3];
            if whole.len() > 3 {
                needles.push(("in base 64", BASE64_STANDARD_NO_PAD.encode(whole)));
            }
        }
    }
    needles
}
