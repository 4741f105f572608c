//! Nothing of a request leaks into logs or refusals.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::routing::post as route;
use axum::{Extension, Router};
use idem::axum::idempotent;
use idem::conformance::faults::{Fault, FaultyStore, Method};
use idem::stores::memory::MemoryStore;
use idem::{Engine, Error, Fingerprint};
use idem_frameworks::{Server, Works, post};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

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

#[derive(Serialize, Deserialize)]
struct Skipped {
    #[serde(skip_serializing)]
    id: u32,
}

/// Written as one type, read as another.
struct Unreadable(&'static str);

impl Serialize for Unreadable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Unreadable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u32::deserialize(deserializer).map(|_| Self(""))
    }
}

/// Each twice: the first call's log says that there will be no replay, and the second's does not.
async fn values_that_do_not_come_back() {
    let engine = Engine::new(MemoryStore::new());
    let request = Fingerprint::of("secret-request").unwrap();
    for key in ["first", "second"] {
        let tuple_keys =
            async { Ok::<_, Error>(HashMap::from([((1, 2), "secret-value".to_owned())])) };
        let operation = engine.operation("tuple keys");
        assert!(operation.run(key, request, tuple_keys).await.is_ok());
        let skipped = async { Ok::<_, Error>(Skipped { id: 7 }) };
        let operation = engine.operation("skipped");
        assert_eq!(operation.run(key, request, skipped).await.unwrap().id, 7);
        let unreadable = async { Ok::<_, Error>(Unreadable("secret-value")) };
        let operation = engine.operation("unreadable");
        assert!(operation.run(key, request, unreadable).await.is_ok());
    }
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
        values_that_do_not_come_back().await;
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
        "an earlier attempt ended without an outcome",
        "store call failed",
    ] {
        assert!(log.contains(event), "{event}: {log}");
    }
    // At the first call, once, and with the cause.
    for (operation, cause) in [
        ("tuple keys", "key must be a string"),
        ("skipped", "missing field `id`"),
        ("unreadable", "what is there is not what the type expects"),
    ] {
        let lines: Vec<_> = log
            .lines()
            .filter(|line| line.contains("WARN") && line.contains("retries of this operation"))
            .filter(|line| line.contains(operation))
            .collect();
        assert!(
            matches!(lines[..], [line] if line.contains(cause)),
            "{operation}: {lines:?}"
        );
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
