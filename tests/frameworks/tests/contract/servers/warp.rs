//! warp 0.4.

use std::sync::Arc;

use http::{Response, StatusCode};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use idem::idempotent;
use idem::warp::{IdempotencyKey, Reply, detached, key};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tower::ServiceExt;
use warp::filters::BoxedFilter;
use warp::{Filter, Rejection, post};

use crate::app::{self, App, Content, Order};
use crate::{Framework, Running};

pub(crate) struct Warp;

const HANDLER_FORM: &str = "An argument of the handler form; this is the function form.";

const STREAMS: &str =
    "A function's value is there when it returns: what flows after that leaves a tombstone.";

impl Framework for Warp {
    const NAME: &'static str = "warp 0.4";
    const REFUSING: &'static str = "warp.refusing";

    const LACKS: &'static [(&'static str, &'static str)] = &[
        (
            "an_upload_is_recognised_whatever_its_boundary",
            "A function counts its arguments: a form that is parsed, or here the body's bytes.",
        ),
        (
            "what_shapes_refusals_is_given_the_requests_head",
            "A function sees what the filters have made of a request, not the request.",
        ),
        ("what_is_streamed_is_given_back_whole", STREAMS),
        (
            "who_attaches_is_given_what_has_been_sent_and_the_rest_as_it_comes",
            STREAMS,
        ),
        ("who_attaches_outlives_the_first_client", STREAMS),
        ("a_stream_that_hangs_is_cut_off_at_the_deadline", STREAMS),
        ("another_request_does_not_attach", STREAMS),
        ("who_is_attached_to_what_breaks_off_is_cut_off", STREAMS),
        (
            "a_stream_is_passed_on_as_it_comes_and_in_flight_until_it_has_ended",
            STREAMS,
        ),
        (
            "a_stream_whose_client_has_gone_is_recorded_to_its_end",
            STREAMS,
        ),
        (
            "without_a_key_an_optional_operation_runs_unprotected_but_a_bad_key_is_refused",
            HANDLER_FORM,
        ),
        (
            "a_client_that_hangs_up_does_not_stop_an_unprotected_body_either",
            HANDLER_FORM,
        ),
        ("a_shutdown_waits_for_unprotected_bodies_too", HANDLER_FORM),
        ("an_operation_lists_its_own_released_statuses", HANDLER_FORM),
        (
            "a_body_over_the_limit_is_413_and_claims_nothing",
            "The framework reads the body, by its own limits and with its own answer.",
        ),
        (
            "an_early_refusal_reaches_a_client_that_writes_on",
            "The framework reads the body, by its own limits and with its own answer.",
        ),
    ];

    async fn start(app: App) -> Running {
        let engine = app.engine.clone();
        let routes = warp::service(routes(app.clone()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // By hyper, and not by warp's own server, for the engine among the extensions.
        let told = Arc::<Notify>::default();
        let signal = Arc::clone(&told);
        let ended = tokio::spawn(async move {
            loop {
                let (stream, _) = tokio::select! {
                    () = signal.notified() => return,
                    accepted = listener.accept() => accepted.unwrap(),
                };
                let (app, routes) = (app.clone(), routes.clone());
                let service =
                    service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
                        request.extensions_mut().insert(app.engine.clone());
                        let leaving = app.works.leaving();
                        let routes = routes.clone();
                        async move {
                            let _leaving = leaving;
                            routes.oneshot(request).await
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

/// A route of a function that takes text.
macro_rules! text {
    ($app:expr, $path:expr, $function:ident) => {
        warp::path::path($path)
            .and(warp::path::end())
            .and(post().or(warp::put()).unify())
            .and(key())
            .and($app)
            .and(body())
            .then(|key, app, body| detached($function(key, app, body)))
            .boxed()
    };
}

fn routes(app: App) -> BoxedFilter<(impl warp::Reply,)> {
    let shared = app;
    let app = || {
        let app = shared.clone();
        warp::any().map(move || app.clone())
    };
    let charges = warp::path!("charges")
        .and(post())
        .and(key())
        .and(app())
        .and(warp::body::json())
        .then(|key, app, order| detached(charge(key, app, order)))
        .boxed();
    let nested = |first: &'static str| {
        warp::path::path(first)
            .and(text!(app(), "echo", echo))
            .boxed()
    };
    let other = |first: &'static str| warp::path::path(first);
    let guarded = warp::path!("guarded")
        .and(header("authorization"))
        .and(key())
        .and(app())
        .and(body())
        .then(|login: Option<String>, key, app, body| async move {
            match login {
                Some(_) => detached(guarded(key, app, body)).await,
                None => warp::Reply::into_response(StatusCode::UNAUTHORIZED),
            }
        })
        .boxed();
    let scoped = warp::path!("scoped")
        .and(header("x-tenant"))
        .and(key())
        .and(app())
        .and(body())
        .then(|tenant: Option<String>, key, app, body| async move {
            match tenant {
                Some(tenant) => detached(scoped(tenant, key, app, body)).await,
                None => warp::Reply::into_response(StatusCode::UNAUTHORIZED),
            }
        })
        .boxed();
    [
        text!(app(), "echo", echo),
        other("echo").and(text!(app(), "other", echo)).boxed(),
        text!(app(), "counted", counted),
        other("counted").and(text!(app(), "other", counted)).boxed(),
        text!(app(), "refunds", refund),
        guarded,
        text!(app(), "slow", slow),
        other("slow").and(text!(app(), "other", slow)).boxed(),
        text!(app(), "waiting", waiting),
        text!(app(), "hanging", hanging),
        text!(app(), "panics-once", panics_once),
        text!(app(), "panics-and-refuses", panics_and_refuses),
        text!(app(), "status", status),
        text!(app(), "nothing-happened", nothing_happened),
        scoped,
        text!(app(), "respond", respond),
        nested("v1"),
        nested("v2"),
    ]
    .into_iter()
    .fold(charges, |all, one| all.or(one).unify().boxed())
}

fn body() -> impl Filter<Extract = (String,), Error = Rejection> + Clone {
    warp::body::bytes().map(|body: bytes::Bytes| String::from_utf8_lossy(&body).into_owned())
}

fn header(
    name: &'static str,
) -> impl Filter<Extract = (Option<String>,), Error = Rejection> + Clone {
    warp::header::optional(name)
}

impl warp::Reply for app::Reply {
    fn into_response(self) -> warp::reply::Response {
        let mut response = match self.body {
            Content::Whole(bytes) => Response::new(bytes.into()),
            Content::Streamed(chunks) => warp::reply::stream(chunks).into_response(),
        };
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap();
        for (name, value) in self.headers {
            let value = http::HeaderValue::from_bytes(&value).unwrap();
            response.headers_mut().append(name, value);
        }
        response
    }
}

#[idempotent(key = key, ttl = "24h", skip(app), engine = app.engine)]
async fn charge(key: IdempotencyKey, app: App, order: Order) -> Reply {
    Reply::of(app.works.charge(order))
}

#[idempotent(key = key, ttl = "24h", skip(app), engine = app.engine)]
async fn echo(key: IdempotencyKey, app: App, body: String) -> Reply {
    Reply::of(app.works.echo(&body))
}

#[idempotent(key = key, ttl = "24h", fingerprint(body.len()), engine = app.engine)]
async fn counted(key: IdempotencyKey, app: App, body: String) -> Reply {
    Reply::of(app.works.echo(&body))
}

#[idempotent(key = key, ttl = "24h", skip(app), engine = app.engine)]
async fn refund(key: IdempotencyKey, app: App, body: String) -> Reply {
    Reply::of(app.works.echo(&body))
}

#[idempotent(key = key, ttl = "24h", skip(app), engine = app.engine)]
async fn guarded(key: IdempotencyKey, app: App, body: String) -> Reply {
    Reply::of(app.works.echo(&body))
}

#[idempotent(key = key, ttl = "24h", skip(app), engine = app.engine)]
async fn slow(key: IdempotencyKey, app: App, body: String) -> Reply {
    Reply::of(app.works.slow(&body).await)
}

#[idempotent(key = key, ttl = "24h", in_flight = "wait 5s", skip(app), engine = app.engine)]
async fn waiting(key: IdempotencyKey, app: App, body: String) -> Reply {
    Reply::of(app.works.slow(&body).await)
}

#[idempotent(key = key, ttl = "24h", deadline = "100ms", skip(app), engine = app.engine)]
async fn hanging(key: IdempotencyKey, app: App, body: String) -> Reply {
    Reply::of(app.works.hang(&body).await)
}

#[idempotent(key = key, ttl = "24h", in_flight = "wait 5s", skip(app), engine = app.engine)]
async fn panics_once(key: IdempotencyKey, app: App, _body: String) -> Reply {
    Reply::of(app.works.panic_once().await)
}

#[idempotent(
    name = "warp.refusing", key = key, ttl = "24h", on_crash = "refuse",
    skip(app), engine = app.engine
)]
async fn panics_and_refuses(key: IdempotencyKey, app: App, _body: String) -> Reply {
    Reply::of(app.works.panic_always())
}

#[idempotent(key = key, ttl = "24h", skip(app), engine = app.engine)]
async fn status(key: IdempotencyKey, app: App, body: String) -> Reply {
    Reply::of(app.works.status(&body))
}

#[idempotent(key = key, ttl = "24h", skip(app), engine = app.engine)]
async fn nothing_happened(key: IdempotencyKey, app: App, _body: String) -> Reply {
    Reply::of(app.works.release())
}

#[idempotent(key = key, scope = tenant, ttl = "24h", skip(app), engine = app.engine)]
async fn scoped(tenant: String, key: IdempotencyKey, app: App, body: String) -> Reply {
    Reply::of(app.works.tenant(&tenant, &body))
}

#[idempotent(key = key, ttl = "24h", skip(app), engine = app.engine)]
async fn respond(key: IdempotencyKey, app: App, body: String) -> Reply {
    Reply::of(app.works.respond(&body))
}
