//! An operation whose body calls another and passes on its refusal has given no answer of its own:
//! none is kept, in any form. Here the one within misses a key that comes with the retry.

use std::convert::Infallible;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use http_body_util::Full;
use idem::Engine;
use idem::stores::memory::MemoryStore;

static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::new(MemoryStore::new()));

/// How often an operation ran.
struct Runs(AtomicU32);

impl Runs {
    const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    fn note(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn are(&self, expected: u32) {
        assert_eq!(self.0.load(Ordering::SeqCst), expected);
    }
}

const INNER_KEY: &str = "inner-key";

/// The request and its retry, which has what the operation within has missed.
fn requests() -> impl Iterator<Item = http::Request<Full<Bytes>>> {
    [false, true, true].into_iter().map(|has_inner_key| {
        let mut request = http::Request::post("/").header("idempotency-key", "a");
        if has_inner_key {
            request = request.header(INNER_KEY, "b");
        }
        request.body(Full::from("x")).unwrap()
    })
}

const STATUSES: [u16; 3] = [400, 200, 200];

fn is_replay(headers: &http::HeaderMap) -> bool {
    headers.contains_key("idempotent-replayed")
}

mod axum {
    use super::*;
    use ::axum::extract::Request;
    use ::axum::response::{IntoResponse, Response};
    use ::axum::routing::{Router, post};
    use tower::ServiceExt;

    static RUNS: Runs = Runs::new();

    #[idem::axum::idempotent(key = header("Inner-Key"), ttl = "1h", engine = ENGINE)]
    async fn inner() -> &'static str {
        "done"
    }

    #[idem::axum::idempotent(key = header("Idempotency-Key"), ttl = "1h", engine = ENGINE)]
    async fn outer(request: Request) -> Response {
        RUNS.note();
        let within: Router = Router::new().route("/", post(inner));
        let Ok(answer) = within.oneshot(request).await;
        answer.into_response()
    }

    #[tokio::test]
    async fn a_refusal_that_is_passed_on_is_not_kept() {
        let router: Router = Router::new().route("/", post(outer));
        for (request, status) in requests().zip(STATUSES) {
            let Ok(answer) = router.clone().oneshot(request).await;
            assert_eq!(answer.status(), status);
        }
        RUNS.are(2);
    }
}

mod functions_of_a_request {
    use super::*;
    use http::{Request, Response};
    use idem::http::CapturedBody;

    static RUNS: Runs = Runs::new();

    #[idem::http::idempotent(key = header("Inner-Key"), ttl = "1h", engine = ENGINE)]
    async fn inner(_: Request<Bytes>) -> Result<Response<Full<Bytes>>, Infallible> {
        Ok(Response::new("done".into()))
    }

    #[idem::http::idempotent(key = header("Idempotency-Key"), ttl = "1h", engine = ENGINE)]
    async fn outer(request: Request<Bytes>) -> Response<CapturedBody<Full<Bytes>>> {
        RUNS.note();
        let Ok(answer) = inner(request.map(Full::from)).await;
        answer
    }

    #[tokio::test]
    async fn a_refusal_that_is_passed_on_is_not_kept() {
        for (request, status) in requests().zip(STATUSES) {
            assert_eq!(outer(request).await.status(), status);
        }
        RUNS.are(2);
    }
}

mod actix {
    use super::*;
    use actix_web::test::{TestRequest, call_service, init_service};
    use actix_web::{App, HttpRequest, HttpResponse, web};

    static RUNS: Runs = Runs::new();

    #[idem::actix::idempotent(key = header("Inner-Key"), ttl = "1h", engine = ENGINE)]
    async fn inner() -> &'static str {
        "done"
    }

    fn to_within(request: &HttpRequest) -> TestRequest {
        let key = request.headers().get(INNER_KEY);
        let request = TestRequest::post();
        key.into_iter().fold(request, |request, key| {
            request.insert_header((INNER_KEY, key.clone()))
        })
    }

    #[idem::actix::idempotent(key = header("Idempotency-Key"), ttl = "1h", engine = ENGINE)]
    async fn outer(request: HttpRequest, _: String) -> HttpResponse {
        RUNS.note();
        let within = init_service(App::new().route("/", web::post().to(inner))).await;
        let request = to_within(&request).to_request();
        call_service(&within, request).await.into_parts().1
    }

    #[actix_web::test]
    async fn a_refusal_that_is_passed_on_is_not_kept() {
        let app = init_service(App::new().route("/", web::post().to(outer))).await;
        for (request, status) in requests().zip(STATUSES) {
            let sent = TestRequest::post().set_payload("x");
            let sent = request.headers().iter().fold(sent, |sent, (name, value)| {
                sent.insert_header((name.as_str(), value.as_bytes()))
            });
            let answer = call_service(&app, sent.to_request()).await;
            assert_eq!(answer.status().as_u16(), status);
        }
        RUNS.are(2);
    }
}

mod poem {
    use super::*;
    use ::poem::{Endpoint, Request, Response, Route, handler, post};

    static RUNS: Runs = Runs::new();

    #[idem::poem::idempotent(key = header("Inner-Key"), ttl = "1h", engine = ENGINE)]
    #[handler]
    async fn inner() -> &'static str {
        "done"
    }

    #[idem::poem::idempotent(key = header("Idempotency-Key"), ttl = "1h", engine = ENGINE)]
    #[handler]
    async fn outer(request: &Request) -> Response {
        RUNS.note();
        let mut within = Request::builder().method(request.method().clone());
        for (name, value) in request.headers() {
            within = within.header(name, value);
        }
        inner.get_response(within.finish()).await
    }

    #[tokio::test]
    async fn a_refusal_that_is_passed_on_is_not_kept() {
        let route = Route::new().at("/", post(outer));
        for (request, status) in requests().zip(STATUSES) {
            let mut sent = Request::builder().method(request.method().clone());
            for (name, value) in request.headers() {
                sent = sent.header(name, value);
            }
            assert_eq!(route.get_response(sent.body("x")).await.status(), status);
        }
        RUNS.are(2);
    }
}

mod in_salvo {
    use super::*;
    use ::salvo::prelude::*;
    use ::salvo::test::TestClient;

    static RUNS: Runs = Runs::new();

    #[idem::salvo::idempotent(key = header("Inner-Key"), ttl = "1h", engine = ENGINE)]
    #[handler]
    async fn inner() -> &'static str {
        "done"
    }

    #[idem::salvo::idempotent(key = header("Idempotency-Key"), ttl = "1h", engine = ENGINE)]
    #[handler]
    async fn outer(req: &mut Request, depot: &mut Depot, res: &mut Response) {
        RUNS.note();
        inner
            .handle(req, depot, res, &mut FlowCtrl::default())
            .await;
    }

    #[tokio::test]
    async fn a_refusal_that_is_passed_on_is_not_kept() {
        let service = Service::new(Router::new().post(outer));
        for (request, status) in requests().zip(STATUSES) {
            let mut sent = TestClient::post("http://localhost/");
            for (name, value) in request.headers() {
                sent = sent.add_header(name, value, true);
            }
            let answer = sent.body("x").send(&service).await;
            assert_eq!(answer.status_code.unwrap(), status);
        }
        RUNS.are(2);
    }
}

mod rocket {
    use super::*;
    use ::rocket::http::Header;
    use ::rocket::local::asynchronous::Client;
    use ::rocket::request::{FromRequest, Outcome, Request};
    use ::rocket::{post, routes};
    use idem::rocket::{IdempotencyKey, Reply};

    static RUNS: Runs = Runs::new();

    #[derive(serde::Serialize)]
    struct InnerKey<'r>(IdempotencyKey<'r>);

    #[::rocket::async_trait]
    impl<'r> FromRequest<'r> for InnerKey<'r> {
        type Error = Infallible;

        async fn from_request(request: &'r Request<'_>) -> Outcome<Self, Infallible> {
            Outcome::Success(Self(IdempotencyKey::in_header(INNER_KEY, request)))
        }
    }

    #[idem::idempotent(key = key.0, ttl = "1h", engine = ENGINE)]
    async fn inner<'r>(key: InnerKey<'r>) -> Reply<'r> {
        key.0.reply("done").await
    }

    #[post("/", data = "<_body>")]
    #[idem::idempotent(key = key, ttl = "1h", skip(within), engine = ENGINE)]
    async fn outer<'r>(key: IdempotencyKey<'r>, within: InnerKey<'r>, _body: String) -> Reply<'r> {
        RUNS.note();
        let answer = inner(within).await;
        // As a responder among others, too.
        key.reply(Some(answer)).await
    }

    #[tokio::test]
    async fn a_refusal_that_is_passed_on_is_not_kept() {
        let figment = ::rocket::Config::figment().merge(("log_level", "off"));
        let rocket = ::rocket::custom(figment).mount("/", routes![outer]);
        let client = Client::untracked(rocket).await.unwrap();
        for (request, status) in requests().zip(STATUSES) {
            let mut sent = client.post("/");
            for (name, value) in request.headers() {
                let value = value.to_str().unwrap().to_owned();
                sent = sent.header(Header::new(name.to_string(), value));
            }
            assert_eq!(sent.body("x").dispatch().await.status().code, status);
        }
        RUNS.are(2);
    }
}

mod warp {
    use super::*;
    use ::warp::Filter;
    use idem::warp::{IdempotencyKey, Reply};

    static RUNS: Runs = Runs::new();

    #[idem::idempotent(key = key, ttl = "1h", engine = ENGINE)]
    async fn inner(key: IdempotencyKey) -> Reply {
        Reply::of("done")
    }

    #[idem::idempotent(key = key, ttl = "1h", skip(within), engine = ENGINE)]
    async fn outer(key: IdempotencyKey, within: IdempotencyKey) -> Reply {
        RUNS.note();
        Reply::of(inner(within).await)
    }

    #[tokio::test]
    async fn a_refusal_that_is_passed_on_is_not_kept() {
        let route = idem::warp::key()
            .and(idem::warp::header(INNER_KEY))
            .then(outer);
        for (request, status) in requests().zip(STATUSES) {
            let mut sent = ::warp::test::request().method("POST");
            for (name, value) in request.headers() {
                sent = sent.header(name, value);
            }
            let answer = sent.reply(&route).await;
            assert_eq!(answer.status(), status);
        }
        RUNS.are(2);
    }
}

mod tonic {
    use super::*;
    use ::tonic::{Code, Request, Response, Status};

    static RUNS: Runs = Runs::new();

    #[idem::tonic::idempotent(key = metadata("inner-key"), ttl = "1h", engine = ENGINE)]
    async fn inner(_: Request<String>) -> Result<Response<String>, Status> {
        Ok(Response::new("done".to_owned()))
    }

    #[idem::tonic::idempotent(key = metadata("idempotency-key"), ttl = "1h", engine = ENGINE)]
    async fn outer(request: Request<String>) -> Result<Response<String>, Status> {
        RUNS.note();
        inner(request).await
    }

    #[tokio::test]
    async fn a_refusal_that_is_passed_on_is_not_kept() {
        let expected = [Code::InvalidArgument, Code::Ok, Code::Ok];
        for (request, code) in requests().zip(expected) {
            let mut sent = Request::new("x".to_owned());
            *sent.metadata_mut().as_mut() = request.headers().clone();
            let answer = outer(sent).await;
            assert_eq!(
                answer.map_or_else(|status| status.code(), |_| Code::Ok),
                code
            );
        }
        RUNS.are(2);
    }
}

mod layers {
    use super::*;
    use http::{Request, Response};
    use idem::tower::IdempotencyLayer;
    use tower::{Layer, ServiceExt, service_fn};

    static RUNS: Runs = Runs::new();

    #[idem::http::idempotent(key = header("Inner-Key"), ttl = "1h", engine = ENGINE)]
    async fn inner(_: Request<Bytes>) -> Result<Response<Full<Bytes>>, Infallible> {
        Ok(Response::new("done".into()))
    }

    #[tokio::test]
    async fn a_refusal_that_is_passed_on_is_not_kept() {
        let within = service_fn(|request: Request<Full<Bytes>>| {
            RUNS.note();
            inner(request)
        });
        let layer = IdempotencyLayer::new("refusals", std::time::Duration::from_secs(60));
        let service = layer.engine(ENGINE.clone()).layer(within);
        for ((request, status), again) in requests().zip(STATUSES).zip([false, false, true]) {
            let Ok(answer) = service.clone().oneshot(request).await;
            assert_eq!(answer.status(), status);
            assert_eq!(is_replay(answer.headers()), again);
        }
        RUNS.are(2);
    }
}

mod functions {
    use super::*;
    use idem::Error;
    use serde::{Deserialize, Serialize};

    static RUNS: Runs = Runs::new();

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Failed(String);

    impl From<Error> for Failed {
        fn from(error: Error) -> Self {
            Self(error.to_string())
        }
    }

    #[idem::idempotent(key = key, ttl = "1h", engine = ENGINE)]
    async fn inner(key: Option<u8>) -> Result<u8, Failed> {
        Ok(1)
    }

    #[idem::idempotent(key = key, ttl = "1h", errors = "store", skip(within), engine = ENGINE)]
    async fn outer(key: u8, within: Option<u8>) -> Result<u8, Failed> {
        RUNS.note();
        match key {
            // An error of its own is kept.
            0 => Err(Failed("no money".to_owned())),
            _ => inner(within).await.map_err(|_| Failed("within".to_owned())),
        }
    }

    #[tokio::test]
    async fn a_refusal_that_is_passed_on_is_not_kept() {
        for _ in 0..2 {
            let own = outer(0, None).await;
            assert_eq!(own, Err(Failed("no money".to_owned())));
        }
        RUNS.are(1);
        let refused = outer(1, None).await;
        assert_eq!(refused, Err(Failed("within".to_owned())));
        assert_eq!(outer(1, Some(7)).await, Ok(1));
        assert_eq!(outer(1, Some(7)).await, Ok(1));
        RUNS.are(3);
    }
}
