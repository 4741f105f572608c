//! Extractors of every kind, in the last place and before it.

use std::collections::HashMap;
use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::extract::rejection::JsonRejection;
use axum::extract::{
    Form, FromRequest, FromRequestParts, Multipart, OriginalUri, Path, Query, RawForm, RawQuery,
    Request, State,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::routing::post;
use axum::{Extension, Json, Router};
use http_body_util::BodyExt as _;
use idem::axum::idempotent;
use serde::Deserialize;

use crate::{assert_runs_once, post_json, run, send, with_engine};

#[derive(Clone)]
struct Bank(&'static str);

#[derive(Clone)]
struct User(&'static str);

#[derive(Deserialize)]
struct Order {
    cents: u32,
}

/// An extractor of the user's own that reads the head.
struct Tenant(String);

impl<S: Send + Sync> FromRequestParts<S> for Tenant {
    type Rejection = (StatusCode, &'static str);

    async fn from_request_parts(head: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let tenant = head.headers.get("x-tenant").and_then(|it| it.to_str().ok());
        let tenant = tenant.ok_or((StatusCode::UNAUTHORIZED, "no tenant"))?;
        Ok(Self(tenant.to_owned()))
    }
}

/// An extractor of the user's own that reads the body.
struct Upper(String);

impl<S: Send + Sync> FromRequest<S> for Upper {
    type Rejection = (StatusCode, String);

    async fn from_request(request: Request, state: &S) -> Result<Self, Self::Rejection> {
        let text = String::from_request(request, state)
            .await
            .map_err(|rejection| (StatusCode::IM_A_TEAPOT, rejection.to_string()))?;
        Ok(Self(text.to_uppercase()))
    }
}

fn request() -> axum::http::Request<Body> {
    let mut request = post_json("/x/7?page=3&page=4", "k", r#"{"cents":5}"#);
    request
        .headers_mut()
        .insert("x-tenant", "t".parse().unwrap());
    request
}

/// The body of the answer, without the number of the run, of a handler that runs once.
async fn answer(handler: axum::routing::MethodRouter<Bank>) -> String {
    let router = Router::new()
        .route("/x/{id}", handler)
        .with_state(Bank("b"));
    let router = with_engine(router.layer(Extension(User("u"))));
    let body = assert_runs_once(&router, request).await;
    body.split(" #").next().unwrap_or_default().to_owned()
}

macro_rules! handlers {
    ($($name:ident: ($($argument:tt)*) => $said:expr, $expected:expr;)*) => {$(
        mod $name {
            use super::*;

            #[allow(clippy::too_many_arguments)]
            #[idempotent(key = header("Idempotency-Key"), ttl = "1h")]
            async fn handler($($argument)*) -> String {
                run(&format!("{:?}", $said))
            }

            #[tokio::test]
            async fn runs_once_and_replays() {
                assert_eq!(answer(post(handler)).await, format!("{:?}", $expected));
            }
        }
    )*};
}

handlers! {
    no_argument_at_all: () => "nothing", "nothing";

    state_in_the_last_place: (State(bank): State<Bank>) => bank.0, "b";
    path_in_the_last_place: (Path(id): Path<u32>) => id, 7;
    query_in_the_last_place: (Query(query): Query<Vec<(String, u32)>>) => query.len(), 2;
    raw_query_in_the_last_place: (RawQuery(query): RawQuery) => query, Some("page=3&page=4");
    headers_in_the_last_place: (headers: HeaderMap) => headers.len(), 3;
    method_in_the_last_place: (method: Method) => method, Method::POST;
    extension_in_the_last_place: (Extension(user): Extension<User>) => user.0, "u";
    own_head_extractor_in_the_last_place: (Tenant(tenant): Tenant) => tenant, "t";
    optional_head_extractor_in_the_last_place: (user: Option<Extension<u8>>) => user.is_none(), true;
    fallible_head_extractor_in_the_last_place: (tenant: Result<Tenant, (StatusCode, &'static str)>) => tenant.is_ok(), true;
    tuple_of_head_extractors_in_the_last_place: ((State(bank), method): (State<Bank>, Method)) => (bank.0, method), ("b", Method::POST);

    json_in_the_last_place: (Json(order): Json<Order>) => order.cents, 5;
    optional_json_in_the_last_place: (order: Option<Json<Order>>) => order.map(|order| order.cents), Some(5);
    fallible_json_in_the_last_place: (order: Result<Json<Order>, JsonRejection>) => order.is_ok(), true;
    bytes_in_the_last_place: (bytes: Bytes) => bytes.len(), 11;
    string_in_the_last_place: (text: String) => text, r#"{"cents":5}"#;
    own_body_extractor_in_the_last_place: (Upper(text): Upper) => text, r#"{"CENTS":5}"#;
    tuple_with_a_body_extractor_in_the_last_place: ((State(bank), text): (State<Bank>, String)) => (bank.0, text.len()), ("b", 11);
    body_in_the_last_place: (body: Body) => body.collect().await.unwrap().to_bytes().len(), 11;
    ignored_argument_in_the_last_place: (_: Json<Order>) => "ignored", "ignored";
    mutable_argument_in_the_last_place: (mut text: String) => { text.push('!'); text.len() }, 12;

    every_head_extractor_before_a_body_extractor: (
        State(bank): State<Bank>,
        Path(id): Path<u32>,
        Query(query): Query<HashMap<String, u32>>,
        headers: HeaderMap,
        Extension(user): Extension<User>,
        nobody: Option<Extension<u8>>,
        Tenant(tenant): Tenant,
        method: Method,
        OriginalUri(uri): OriginalUri,
        mut longer: Uri,
        Json(order): Json<Order>,
    ) => {
        longer = format!("{longer}&more").parse().unwrap();
        assert_eq!(uri.path(), "/x/7");
        assert!(headers.contains_key("idempotency-key") && nobody.is_none());
        (bank.0, id, query["page"], user.0, tenant, method, longer.query(), order.cents)
    }, ("b", 7, 4, "u", "t", Method::POST, Some("page=3&page=4&more"), 5);

    sixteen_arguments: (
        _: Method, _: Method, _: Method, _: Method, _: Method, _: Method, _: Method, _: Method,
        _: Method, _: Method, _: Method, _: Method, _: Method, _: Method, _: Method, text: String,
    ) => text.len(), 11;
}

#[tokio::test]
async fn the_request_itself_in_the_last_place() {
    #[idempotent(key = header("Idempotency-Key"), ttl = "1h", name = "request")]
    async fn handler(State(bank): State<Bank>, request: Request) -> String {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        assert_eq!(head.uri.path(), "/x/7");
        assert!(head.extensions.get::<User>().is_some());
        run(&format!("{} {} {}", bank.0, head.headers.len(), body.len()))
    }
    assert_eq!(answer(post(handler)).await, "b 3 11");
}

#[tokio::test]
async fn forms_in_the_last_place() {
    #[idempotent(key = header("Idempotency-Key"), ttl = "1h")]
    async fn form(Form(order): Form<Order>) -> String {
        run(&format!("form {}", order.cents))
    }
    #[idempotent(key = header("Idempotency-Key"), ttl = "1h")]
    async fn raw(RawForm(form): RawForm) -> String {
        run(&format!("raw {}", form.len()))
    }
    let router = Router::new()
        .route("/form", post(form))
        .route("/raw", post(raw));
    let router = with_engine(router);
    for (uri, expected) in [("/form", "form 5 #"), ("/raw", "raw 7 #")] {
        let request = || {
            axum::http::Request::post(uri)
                .header("idempotency-key", "k")
                .header("content-type", "application/x-www-form-urlencoded")
                .body(Body::from("cents=5"))
                .unwrap()
        };
        let body = assert_runs_once(&router, request).await;
        assert!(body.starts_with(expected), "{body}");
    }
}

#[tokio::test]
async fn multipart_in_the_last_place() {
    #[idempotent(key = header("Idempotency-Key"), ttl = "1h")]
    async fn upload(State(bank): State<Bank>, mut parts: Multipart) -> String {
        let part = parts.next_field().await.unwrap().unwrap();
        let name = part.name().unwrap().to_owned();
        let text = part.text().await.unwrap();
        run(&format!("{} {name}={text}", bank.0))
    }
    let router = Router::new().route("/", post(upload)).with_state(Bank("b"));
    let router = with_engine(router);
    let request = || {
        axum::http::Request::post("/")
            .header("idempotency-key", "k")
            .header("content-type", "multipart/form-data; boundary=edge")
            .body(Body::from(
                "--edge\r\ncontent-disposition: form-data; name=\"a\"\r\n\r\nvalue\r\n--edge--\r\n",
            ))
            .unwrap()
    };
    let body = assert_runs_once(&router, request).await;
    assert!(body.starts_with("b a=value #"), "{body}");
}

#[derive(Debug, Default)]
struct Never;

impl<S: Send + Sync> FromRequestParts<S> for Never {
    type Rejection = Infallible;

    async fn from_request_parts(_: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self)
    }
}

#[tokio::test]
async fn rejections_of_head_extractors_are_the_frameworks_answer() {
    #[idempotent(key = header("Idempotency-Key"), ttl = "1h")]
    async fn last(_: Never, Tenant(tenant): Tenant) -> String {
        run(&tenant)
    }
    #[idempotent(key = header("Idempotency-Key"), ttl = "1h")]
    async fn first(Tenant(tenant): Tenant, _: Never, _: Bytes) -> String {
        run(&tenant)
    }
    let router = Router::new()
        .route("/last", post(last))
        .route("/first", post(first));
    let router = with_engine(router);
    for uri in ["/last", "/first"] {
        let refused = send(&router, post_json(uri, "k", "{}")).await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
        assert_eq!(refused.body, "no tenant");
        // Nothing is claimed: another body under the same key runs.
        let body = assert_runs_once(&router, || {
            let mut request = post_json(uri, "k", "{\"other\":1}");
            request
                .headers_mut()
                .insert("x-tenant", "t".parse().unwrap());
            request
        })
        .await;
        assert!(body.starts_with("t #"));
    }
}

#[deny(unused_variables)]
#[idempotent(key = header("Idempotency-Key"), ttl = "1h")]
async fn conditional(
    #[cfg(any())] absent: Absent,
    #[cfg(panic = "unwind")] Path(id): Path<u8>,
    #[cfg(not(panic = "unwind"))] Absent(id): Absent,
    #[allow(unused_variables)] text: String,
    #[cfg(any())] absent: Absent,
) -> String {
    run(&id.to_string())
}

#[deny(unused_variables)]
#[idempotent(key = order.len().to_string(), ttl = "1h")]
async fn conditional_early(
    #[cfg(any())] order: Absent,
    #[cfg(panic = "unwind")]
    #[allow(unused_mut)]
    mut order: String,
) -> String {
    run(&order)
}

#[tokio::test]
async fn an_argument_that_is_not_compiled_is_none() {
    let router = Router::new()
        .route("/{id}", post(conditional))
        .route("/early", post(conditional_early));
    let router = with_engine(router);
    assert_runs_once(&router, || post_json("/7", "k", "5")).await;
    assert_runs_once(&router, || post_json("/early", "k", "5")).await;
}
