//! Nothing of a request leaks into logs or refusals.

mod support;

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::routing::post as route;
use axum::{Extension, Router};
use idem::Engine;
use idem::axum::idempotent;
use idem::conformance::faults::{Fault, FaultyStore, Method};
use idem::stores::memory::MemoryStore;
use support::{Server, Works, post};

/// Collects all that is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn charge(State(works): State<Works>, body: String) -> String {
    assert_ne!(works.execute(), 1, "hunter2");
    body
}

#[test]
fn no_key_body_or_credential_is_ever_logged_or_answered_by_a_refusal() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    // The only test of its process: tracing decides once for all threads what is worth recording.
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let answers = runtime.block_on(async {
        let store = FaultyStore::new(Arc::new(MemoryStore::new()));
        let engine = Engine::new(store.clone());
        let router = Router::new()
            .route("/", route(charge))
            .layer(Extension(engine))
            .with_state(Works::default());
        let server = Server::start(router).await;
        let send = async |key: &str, body: &'static str| {
            let mut request = post("/", key, body);
            let bearer = "Bearer secret-token".parse().unwrap();
            request.headers_mut().insert("authorization", bearer);
            server.send(request).await
        };
        let mut refusals = vec![send("secret-key", "secret-body").await];
        send("secret-key", "secret-body").await;
        refusals.push(send("secret-key", "other secret-body").await);
        refusals.push(send("secret key", "secret-body").await);
        store.fail(Method::Claim, 2, Fault::LoseAnswer);
        refusals.push(send("secret-key-2", "secret-body").await);
        store.fail(Method::Complete, 1, Fault::LoseAnswer);
        send("secret-key-3", "secret-body").await;
        store.called(Method::Complete, 3).await;
        refusals
    });
    let statuses: Vec<_> = answers
        .iter()
        .map(|answer| answer.status().as_u16())
        .collect();
    assert_eq!(statuses, [500, 422, 400, 503]);
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    // It is the log of these calls.
    for event in [
        "idempotency decision",
        "an earlier attempt crashed",
        "store call failed",
    ] {
        assert!(log.contains(event), "{event}: {log}");
    }
    for said in answers
        .iter()
        .map(|answer| String::from_utf8_lossy(answer.body()))
        .chain([log.as_str().into()])
    {
        assert!(
            !said.contains("secret") && !said.contains("hunter2"),
            "{said}"
        );
    }
}
