//! The crate `http` alone, served by hyper 1.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use idem::http::{CapturedBody, idempotent};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::app::{App, Content, Order, Reply};
use crate::works::Works;
use crate::{Framework, Running};

pub(crate) struct Hyper;

impl Framework for Hyper {
    const NAME: &'static str = "hyper 1";
    const REFUSING: &'static str = "hyper.refusing";

    async fn start(app: App) -> Running {
        let engine = app.engine.clone();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let told = Arc::<Notify>::default();
        let signal = Arc::clone(&told);
        let ended = tokio::spawn(async move {
            loop {
                let (stream, _) = tokio::select! {
                    () = signal.notified() => return,
                    accepted = listener.accept() => accepted.unwrap(),
                };
                let app = app.clone();
                let service = service_fn(move |mut request: Request<hyper::body::Incoming>| {
                    let App { engine, works } = app.clone();
                    request.extensions_mut().insert(engine);
                    let leaving = works.leaving();
                    async move {
                        let _leaving = leaving;
                        route(works, request).await
                    }
                });
                let connection =
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        Running::until(told, address, ended, engine)
    }
}

type Answer = Response<BoxBody<Bytes, std::io::Error>>;

async fn route(
    works: Works,
    request: Request<hyper::body::Incoming>,
) -> Result<Response<CapturedBody<BoxBody<Bytes, std::io::Error>>>, Infallible> {
    let headers = request.headers();
    if request.method() != Method::POST && request.method() != Method::PUT {
        return Ok(plain(StatusCode::METHOD_NOT_ALLOWED));
    }
    Ok(match request.uri().path() {
        "/charges" => charge(works, request).await,
        "/echo" | "/echo/other" | "/v1/echo" | "/v2/echo" => echo(works, request).await,
        "/counted" | "/counted/other" => counted(works, request).await,
        "/refunds" => refund(works, request).await,
        "/optional" => optional(works, request).await,
        // Authentication is a matter of whoever calls the function.
        "/guarded" if !headers.contains_key("authorization") => plain(StatusCode::UNAUTHORIZED),
        "/guarded" => guarded(works, request).await,
        "/slow" | "/slow/other" => slow(works, request).await,
        "/slow-optional" => slow_optional(works, request).await,
        "/waiting" => waiting(works, request).await,
        "/attaching" => attaching(works, request).await,
        "/hanging" => hanging(works, request).await,
        "/panics-once" => panics_once(works, request).await,
        "/panics-and-refuses" => panics_and_refuses(works, request).await,
        "/status" => status(works, request).await,
        "/releases-500" => releases_500(works, request).await,
        "/nothing-happened" => nothing_happened(works, request).await,
        "/scoped" => {
            let tenant = headers.get("x-tenant").and_then(|it| it.to_str().ok());
            match tenant.map(str::to_owned) {
                Some(tenant) => scoped(tenant, works, request).await,
                None => plain(StatusCode::UNAUTHORIZED),
            }
        }
        "/respond" => respond(works, request).await,
        _ => plain(StatusCode::NOT_FOUND),
    })
}

fn plain(status: StatusCode) -> Response<CapturedBody<BoxBody<Bytes, std::io::Error>>> {
    let mut response = Response::new(CapturedBody::buffered(Bytes::new()));
    *response.status_mut() = status;
    response
}

fn answer(reply: Reply) -> Answer {
    let body = match reply.body {
        Content::Whole(bytes) => Full::new(bytes).map_err(|never| match never {}).boxed(),
        Content::Streamed(chunks) => {
            BodyExt::boxed(StreamBody::new(Box::pin(chunks.map_ok(Frame::data))))
        }
    };
    let mut response = Response::builder().status(reply.status);
    for (name, value) in reply.headers {
        response = response.header(name, value);
    }
    response.body(body).unwrap()
}

fn text(request: Request<Bytes>) -> String {
    String::from_utf8_lossy(request.body()).into_owned()
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn charge(works: Works, request: Request<Bytes>) -> Answer {
    match serde_json::from_slice::<Order>(request.body()) {
        Ok(order) => answer(works.charge(order)),
        Err(_) => {
            // A function of a request is its own extractor: it says that nothing happened.
            idem::attempt().release();
            answer(Reply::text(400, "no order"))
        }
    }
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn echo(works: Works, request: Request<Bytes>) -> Answer {
    answer(works.echo(&text(request)))
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", fingerprint(request.body().len()))]
async fn counted(works: Works, request: Request<Bytes>) -> Answer {
    answer(works.echo(&text(request)))
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn refund(works: Works, request: Request<Bytes>) -> Answer {
    answer(works.echo(&text(request)))
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", required = false)]
async fn optional(works: Works, request: Request<Bytes>) -> Answer {
    answer(works.echo(&text(request)))
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn guarded(works: Works, request: Request<Bytes>) -> Answer {
    answer(works.echo(&text(request)))
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn slow(works: Works, request: Request<Bytes>) -> Answer {
    answer(works.slow(&text(request)).await)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", required = false)]
async fn slow_optional(works: Works, request: Request<Bytes>) -> Answer {
    answer(works.slow(&text(request)).await)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", in_flight = "wait 5s")]
async fn waiting(works: Works, request: Request<Bytes>) -> Answer {
    answer(works.slow(&text(request)).await)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", in_flight = "attach 5s")]
async fn attaching(works: Works, request: Request<Bytes>) -> Answer {
    answer(works.respond(&text(request)))
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", deadline = "100ms")]
async fn hanging(works: Works, request: Request<Bytes>) -> Answer {
    answer(works.hang(&text(request)).await)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", in_flight = "wait 5s")]
async fn panics_once(works: Works, _: Request<Bytes>) -> Answer {
    answer(works.panic_once().await)
}

#[idempotent(name = "hyper.refusing", key = header("Idempotency-Key"), ttl = "24h", on_crash = "refuse")]
async fn panics_and_refuses(works: Works, _: Request<Bytes>) -> Answer {
    answer(works.panic_always())
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn status(works: Works, request: Request<Bytes>) -> Answer {
    answer(works.status(&text(request)))
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", release(500))]
async fn releases_500(works: Works, request: Request<Bytes>) -> Answer {
    answer(works.status(&text(request)))
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn nothing_happened(works: Works, _: Request<Bytes>) -> Answer {
    answer(works.release())
}

#[idempotent(key = header("Idempotency-Key"), scope = tenant, ttl = "24h")]
async fn scoped(tenant: String, works: Works, request: Request<Bytes>) -> Answer {
    answer(works.tenant(&tenant, &text(request)))
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn respond(works: Works, request: Request<Bytes>) -> Answer {
    answer(works.respond(&text(request)))
}
