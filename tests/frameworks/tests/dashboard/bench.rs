//! A dashboard over records in every state, and a page's requests to it.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use futures_util::FutureExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use idem::axum::dashboard::Dashboard;
use idem::conformance::faults::FaultyStore;
use idem::stores::memory::MemoryStore;
use idem::{Engine, Error, Fingerprint, OnCrash, Operation, RecordId};
use serde_json::{Value, json};
use tower::ServiceExt;

pub(crate) const HOST: &str = "localhost:3000";
pub(crate) const ORIGIN: &str = "http://localhost:3000";
pub(crate) const LEASE: Duration = Duration::from_secs(30);

pub(crate) struct Bench {
    pub(crate) store: FaultyStore,
    pub(crate) engine: Engine,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let store = FaultyStore::new(Arc::new(MemoryStore::new()));
        let engine = Engine::new(store.clone());
        Self { store, engine }
    }

    pub(crate) fn dashboard(&self) -> Dashboard {
        idem::axum::dashboard(self.engine.clone())
    }

    pub(crate) async fn page(&self, settings: impl FnOnce(Dashboard) -> Dashboard) -> Page {
        Page::open(settings(self.dashboard()).into_router()).await
    }

    pub(crate) fn charges(&self) -> Operation {
        let charges = self.engine.operation("charges.create");
        charges.lease(LEASE).on_crash(OnCrash::Refuse)
    }

    /// An attempt that crashes after so many steps.
    pub(crate) async fn crash(&self, key: &str, steps: usize) -> RecordId {
        let charges = self.charges();
        let body = async {
            finish_steps(steps).await?;
            panic!("half-way");
        };
        let run = charges.run::<_, _, Result<u32, Error>>(key, request(), body);
        let crashed = std::panic::AssertUnwindSafe(run).catch_unwind().await;
        crashed.unwrap_err();
        charges.record_id(key).unwrap()
    }

    /// An attempt that fails after so many steps.
    pub(crate) async fn suspend(&self, key: &str, steps: usize) -> RecordId {
        let charges = self.charges();
        let body = async {
            finish_steps(steps).await?;
            Err(Error::NoEngine)
        };
        let failed: Result<u32, Error> = charges.run(key, request(), body).await;
        failed.unwrap_err();
        charges.record_id(key).unwrap()
    }

    pub(crate) async fn finish(&self, key: &str) -> RecordId {
        let charges = self.charges();
        let run: Result<String, Error> = charges
            .run(key, request(), async { Ok("planted-body".to_owned()) })
            .await;
        run.unwrap();
        charges.record_id(key).unwrap()
    }

    /// What a client's retry gets.
    pub(crate) async fn retry(&self, key: &str) -> Result<String, Error> {
        let again = async { Ok("executed again".to_owned()) };
        self.charges().run(key, request(), again).await
    }
}

async fn finish_steps(steps: usize) -> Result<(), Error> {
    for number in 1..=steps {
        let value = async { Ok::<_, Error>(format!("planted-step-{number}")) };
        idem::step(&format!("step {number}"), value).await?;
    }
    Ok(())
}

pub(crate) fn request() -> Fingerprint {
    Fingerprint::of("the request").unwrap()
}

/// The page as a browser has it open.
#[derive(Clone)]
pub(crate) struct Page {
    pub(crate) router: Router,
    pub(crate) token: String,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: Response<()>,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn status(&self) -> StatusCode {
        self.head.status()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    /// The word of a refusal.
    pub(crate) fn error(&self) -> String {
        self.json()["error"].as_str().unwrap().to_owned()
    }
}

impl Page {
    async fn open(router: Router) -> Self {
        let page = Self {
            router,
            token: String::new(),
        };
        let session = page.get("/api/session").await.json();
        let token = session["token"].as_str().unwrap().to_owned();
        assert_eq!(token.len(), 32);
        Self { token, ..page }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let answer = self.router.clone().oneshot(request).await.unwrap();
        let (head, body) = answer.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Answer {
            head: Response::from_parts(head, ()),
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        let request = Request::get(path).header("host", HOST);
        self.send(request.body(Body::empty()).unwrap()).await
    }

    pub(crate) fn posting(&self, path: &str, body: &Value) -> Request<Body> {
        Request::builder()
            .method(Method::POST)
            .uri(path)
            .header("host", HOST)
            .header("origin", ORIGIN)
            .header("sec-fetch-site", "same-origin")
            .header("x-idem-token", &self.token)
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()))
            .unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.posting(path, body)).await
    }

    /// What the page sends when an operator has seen this attempt crashed, and has confirmed.
    pub(crate) async fn change(&self, id: &RecordId, action: &str, attempt: u32) -> Answer {
        let body = asked("crashed", attempt);
        self.post(&path(id, action), &body).await
    }
}

pub(crate) fn path(id: &RecordId, action: &str) -> String {
    format!("/api/records/{id}/{action}")
}

pub(crate) fn asked(state: &str, attempt: u32) -> Value {
    json!({
        "attempt": attempt,
        "state": state,
        "reason": "ticket 7",
        "answer": { "kind": "value", "json": "\"charged by hand\"" },
    })
}
