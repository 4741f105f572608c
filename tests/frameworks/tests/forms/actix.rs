//! What is actix-web's own: which argument reads the body, and futures that cannot be sent.

use std::rc::Rc;

use actix_web::dev::{Payload, Service, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::test::{TestRequest, call_service, init_service, read_body};
use actix_web::{App, FromRequest, HttpRequest, HttpResponse, Responder, web};
use idem::Engine;
use idem::actix::idempotent;
use idem::stores::memory::MemoryStore;
use std::future::{Ready, ready};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

type Count = web::Data<AtomicU32>;

fn count(count: &Count) -> u32 {
    count.fetch_add(1, Ordering::SeqCst) + 1
}

/// Reads the body, and is not known to.
struct Whole(web::Bytes);

impl FromRequest for Whole {
    type Error = actix_web::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self, actix_web::Error>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let bytes = web::Bytes::from_request(request, payload);
        Box::pin(async move { bytes.await.map(Self) })
    }
}

/// Reads the head, and is not known to.
struct Login;

impl FromRequest for Login {
    type Error = actix_web::Error;
    type Future = Ready<Result<Self, actix_web::Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let login = request.headers().contains_key("authorization");
        let refused = actix_web::error::ErrorUnauthorized("log in");
        ready(if login { Ok(Self) } else { Err(refused) })
    }
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn unknown_last(executed: Count, body: Whole) -> String {
    format!("{}: {}", count(&executed), body.0.len())
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn unknown_first(_: Whole, executed: Count) -> String {
    count(&executed).to_string()
}

#[idempotent(key = header("Idempotency-Key"), scope = "all", ttl = "24h")]
async fn login_last(executed: Count, _: Login) -> String {
    count(&executed).to_string()
}

#[idempotent(key = order.as_str(), ttl = "24h")]
async fn key_in_the_body(executed: Count, order: web::Json<String>) -> String {
    format!("{}: {}", count(&executed), order.0)
}

#[idempotent(key = header("Idempotency-Key"), ttl = Duration::from_secs(hours.0 * 3600))]
async fn kept_as_its_body_says(executed: Count, hours: web::Json<u64>) -> String {
    format!("{}: {}", count(&executed), hours.0)
}

#[deny(unused_variables)]
#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn conditional(
    executed: Count,
    #[allow(unused_variables)] order: web::Json<u64>,
    #[cfg(any())] absent: Absent,
) -> String {
    format!("{}: order", count(&executed))
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn not_send(executed: Count, body: String) -> impl Responder {
    let local = Rc::new(body);
    tokio::task::yield_now().await;
    HttpResponse::Accepted().body(format!("{}: {local}", count(&executed)))
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn fails(executed: Count) -> Result<String, actix_web::Error> {
    count(&executed);
    Err(actix_web::error::ErrorPaymentRequired("no money"))
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn json(executed: Count, order: Option<web::Json<u32>>) -> web::Json<u32> {
    count(&executed);
    web::Json(order.map_or(0, |order| *order))
}

async fn answers(count: &Count, requests: Vec<TestRequest>) -> Vec<(StatusCode, bool, String)> {
    let app = App::new()
        .app_data(count.clone())
        .app_data(Engine::new(MemoryStore::new()))
        .route("/unknown-last", web::post().to(unknown_last))
        .route("/unknown-first", web::post().to(unknown_first))
        .route("/login-last", web::post().to(login_last))
        .route("/key-in-the-body", web::post().to(key_in_the_body))
        .route(
            "/kept-as-its-body-says",
            web::post().to(kept_as_its_body_says),
        )
        .route("/conditional", web::post().to(conditional))
        .route("/not-send", web::post().to(not_send))
        .route("/fails", web::post().to(fails))
        .route("/json", web::post().to(json));
    let app = init_service(app).await;
    let mut answers = Vec::new();
    for request in requests {
        let response: ServiceResponse = call_service(&app, request.to_request()).await;
        let status = response.status();
        let is_replay = response.headers().contains_key("idempotent-replayed");
        let body = read_body(response).await;
        answers.push((
            status,
            is_replay,
            String::from_utf8_lossy(&body).into_owned(),
        ));
    }
    answers
}

fn post(path: &str) -> TestRequest {
    let request = TestRequest::post().uri(path);
    request.insert_header(("Idempotency-Key", "a"))
}

/// The answers to two equal requests: the second is the first, given back.
async fn twice(path: &str, body: &'static str) -> (StatusCode, String) {
    let executed = Count::default();
    let request = || {
        let request = post(path).set_payload(body);
        request.insert_header(("content-type", "application/json"))
    };
    let answers = answers(&executed, vec![request(), request()]).await;
    let [(status, false, first), (again, true, replay)] = &answers[..] else {
        panic!("{answers:?}");
    };
    assert_eq!((status, first), (again, replay));
    assert_eq!(executed.load(Ordering::SeqCst), 1);
    (*status, first.clone())
}

#[actix_web::test]
async fn a_last_argument_of_an_unknown_type_may_read_the_body() {
    let (status, body) = twice("/unknown-last", "12345").await;
    assert_eq!((status, &*body), (StatusCode::OK, "1: 5"));
}

#[actix_web::test]
async fn an_unknown_argument_that_reads_the_body_too_early_is_refused_loudly() {
    let executed = Count::default();
    let requests = vec![
        post("/unknown-first")
            .set_payload("12345")
            .insert_header(("content-length", "5")),
        // Without a body there is nothing to miss.
        post("/unknown-first"),
    ];
    let answers = answers(&executed, requests).await;
    assert_eq!(answers[0].0, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(answers[1].0, StatusCode::OK);
    assert_eq!(executed.load(Ordering::SeqCst), 1);
}

/// HTTP/2 announces no length, where a client does not know it.
#[actix_web::test]
async fn neither_is_one_of_http_2_taken_for_a_request_without_a_body() {
    let executed = Count::default();
    let app = App::new()
        .app_data(executed.clone())
        .app_data(Engine::new(MemoryStore::new()))
        .route("/", web::post().to(unknown_first));
    let app = init_service(app).await;
    for body in ["12345", "another"] {
        let request = post("/")
            .version(actix_web::http::Version::HTTP_2)
            .insert_header(("content-type", "text/plain"))
            .set_payload(body);
        let mut request = request.to_request();
        request.headers_mut().remove("content-length");
        let response = call_service(&app, request).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
    assert_eq!(executed.load(Ordering::SeqCst), 0);
}

#[actix_web::test]
async fn a_last_argument_that_authenticates_comes_before_a_replay() {
    let executed = Count::default();
    let with_login = || post("/login-last").insert_header(("authorization", "alice"));
    let requests = vec![with_login(), with_login(), post("/login-last")];
    let answers = answers(&executed, requests).await;
    assert_eq!((answers[0].0, answers[0].1), (StatusCode::OK, false));
    assert_eq!((answers[1].0, answers[1].1), (StatusCode::OK, true));
    assert_eq!(answers[2].0, StatusCode::UNAUTHORIZED);
    assert_eq!(executed.load(Ordering::SeqCst), 1);
}

#[actix_web::test]
async fn a_key_may_come_from_the_body() {
    let (status, body) = twice("/kept-as-its-body-says", "24").await;
    assert_eq!((status, &*body), (StatusCode::OK, "1: 24"));
    let (status, body) = twice("/key-in-the-body", "\"order-7\"").await;
    assert_eq!((status, &*body), (StatusCode::OK, "1: order-7"));
}

#[actix_web::test]
async fn an_argument_that_is_not_compiled_is_none() {
    let (status, body) = twice("/conditional", "1").await;
    assert_eq!((status, &*body), (StatusCode::OK, "1: order"));
}

#[actix_web::test]
async fn a_handler_need_not_be_sent_to_another_thread() {
    let (status, body) = twice("/not-send", "x").await;
    assert_eq!((status, &*body), (StatusCode::ACCEPTED, "1: x"));
}

#[actix_web::test]
async fn an_error_is_the_response_that_actix_makes_of_it() {
    let (status, body) = twice("/fails", "").await;
    assert_eq!((status, &*body), (StatusCode::PAYMENT_REQUIRED, "no money"));
}

#[actix_web::test]
async fn an_optional_body_reads_the_body() {
    let (status, body) = twice("/json", "7").await;
    assert_eq!((status, &*body), (StatusCode::OK, "7"));
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn breaks_off(executed: Count) -> HttpResponse {
    count(&executed);
    let chunk = ready(Ok::<_, std::convert::Infallible>(web::Bytes::from_static(
        b"half",
    )));
    let half = futures_util::stream::once(chunk);
    HttpResponse::Ok().body(actix_web::body::SizedStream::new(8, half))
}

/// Such as a file that someone cuts while it is read.
#[actix_web::test]
async fn a_response_that_ends_early_is_never_given_back_as_a_whole_one() {
    use actix_web::body::{BodySize, MessageBody};

    let executed = Count::new(AtomicU32::new(0));
    let app = App::new()
        .app_data(executed.clone())
        .app_data(Engine::new(MemoryStore::new()))
        .route("/", web::post().to(breaks_off));
    let app = init_service(app).await;
    let request = || TestRequest::post().insert_header(("idempotency-key", "a"));
    let first = call_service(&app, request().to_request()).await;
    assert_eq!(first.response().body().size(), BodySize::Sized(8));
    let retry = call_service(&app, request().to_request()).await;
    assert_eq!(retry.status(), StatusCode::CONFLICT);
    assert_eq!(executed.load(Ordering::SeqCst), 1);
}

const MANY: usize = 25_000;

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn many_lines(executed: Count, names: String) -> HttpResponse {
    count(&executed);
    let mut response = HttpResponse::Ok();
    for number in 0..MANY {
        let name = if names == "one" { 0 } else { number };
        response.append_header((format!("x-{name}"), "1"));
    }
    response.body("whole")
}

#[actix_web::test]
async fn many_header_lines_are_neither_a_panic_nor_an_error() {
    let executed = Count::default();
    let app = App::new()
        .app_data(executed.clone())
        .app_data(Engine::new(MemoryStore::new()))
        .route("/", web::post().to(many_lines));
    let app = init_service(app).await;
    let send = async |names: &'static str| {
        // As HTTP/2 may bring them.
        let request = (0..MANY).fold(post("/"), |request, _| {
            request.append_header(("x-line", "1"))
        });
        let request = request.insert_header(("idempotency-key", names));
        let response = call_service(&app, request.set_payload(names).to_request()).await;
        let lines = response.headers().len();
        (response.status(), lines)
    };
    let (status, lines) = send("one").await;
    assert_eq!((status, lines >= MANY), (StatusCode::OK, true));
    assert_eq!(send("one").await, (StatusCode::OK, lines + 1));
    // More names than can be stored: whole for the first caller, and never run again.
    let (status, lines) = send("many").await;
    assert_eq!((status, lines >= MANY), (StatusCode::OK, true));
    assert_eq!(send("many").await.0, StatusCode::CONFLICT);
    assert_eq!(executed.load(Ordering::SeqCst), 2);
}

#[actix_web::test]
async fn a_body_over_another_limit_is_413() {
    let executed = Count::default();
    let app = App::new()
        .wrap_fn(|mut request, service| {
            let error = actix_web::error::PayloadError::Overflow;
            let chunks = [Ok(web::Bytes::from("12345")), Err(error)];
            request.set_payload(Payload::Stream {
                payload: Box::pin(futures_util::stream::iter(chunks)),
            });
            service.call(request)
        })
        .app_data(executed.clone())
        .app_data(Engine::new(MemoryStore::new()))
        .route("/", web::post().to(not_send));
    let app = init_service(app).await;
    let request = post("/").to_request();
    assert_eq!(call_service(&app, request).await.status().as_u16(), 413);
    assert_eq!(executed.load(Ordering::SeqCst), 0);
}
