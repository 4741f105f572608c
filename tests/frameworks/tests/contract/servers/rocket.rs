//! Rocket 0.5.

use std::io::Cursor;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::StreamExt;
use idem::idempotent;
use idem::rocket::{IdempotencyKey, Reply};
use rocket::fairing::AdHoc;
use rocket::http::Status;
use rocket::request::{FromRequest, Outcome, Request};
use rocket::response::stream::ByteStream;
use rocket::response::{self, Responder, Response};
use rocket::serde::json::Json;
use rocket::{State, post, put, routes};
use tokio::sync::{Notify, oneshot};

use crate::app::{self, App, Content, Order};
use crate::{Framework, Running};

pub(crate) struct Rocket;

const HANDLER_FORM: &str = "An argument of the handler form; this is the function form.";

const STREAMS: &str =
    "A function's value is there when it returns: what flows after that leaves a tombstone.";

impl Framework for Rocket {
    const NAME: &'static str = "Rocket 0.5";
    const REFUSING: &'static str = "rocket.refusing";

    const LACKS: &'static [(&'static str, &'static str)] = &[
        (
            "an_upload_is_recognised_whatever_its_boundary",
            "A function counts its arguments: a form that is parsed, or here the body's bytes.",
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
            "who_hangs_up_while_waiting_never_runs",
            "Rocket tells nobody that a client has gone: its request waits for as long as `in_flight` says, and may run.",
        ),
        (
            "a_missing_malformed_or_doubled_key_runs_nothing_and_claims_nothing",
            "Rocket drops header lines that are not UTF-8: such a key is missing, not malformed. All else of this holds.",
        ),
        (
            "a_body_over_the_limit_is_413_and_claims_nothing",
            "The framework reads the body, by its own limits and with its own answer.",
        ),
        (
            "an_early_refusal_reaches_a_client_that_writes_on",
            "The framework reads the body, by its own limits and with its own answer.",
        ),
        (
            "location_repeated_headers_and_foreign_bytes_survive",
            "Rocket's header values are UTF-8.",
        ),
    ];

    /// Rocket goes on with a request whose client has gone, and tells nobody.
    const DROPS_REQUESTS: bool = false;

    async fn start(app: App) -> Running {
        let engine = app.engine.clone();
        let figment = rocket::Config::figment()
            .merge(("port", 0))
            .merge(("log_level", "off"))
            .merge(("shutdown.ctrlc", false));
        let all = routes![
            charge,
            post_echo,
            put_echo,
            post_echo_other,
            post_counted,
            put_counted,
            post_counted_other,
            refund,
            guarded,
            post_slow,
            put_slow,
            post_slow_other,
            waiting,
            hanging,
            panics_once,
            panics_and_refuses,
            status,
            nothing_happened,
            scoped,
            respond,
        ];
        let (send, port) = oneshot::channel();
        let rocket = rocket::custom(figment)
            .manage(app.engine.clone())
            .manage(app)
            .mount("/", all)
            .mount("/v1", routes![post_echo])
            .mount("/v2", routes![post_echo])
            .attach(AdHoc::on_liftoff("port", |rocket| {
                Box::pin(async move { send.send(rocket.config().port).unwrap() })
            }));
        let rocket = rocket.ignite().await.unwrap();
        let shutdown = rocket.shutdown();
        let told = Arc::<Notify>::default();
        let signal = Arc::clone(&told);
        tokio::spawn(async move {
            signal.notified().await;
            shutdown.notify();
        });
        let ended = tokio::spawn(async move {
            rocket.launch().await.unwrap();
        });
        let address = SocketAddr::from(([127, 0, 0, 1], port.await.unwrap()));
        Running::until(told, address, ended, engine)
    }
}

impl<'r> Responder<'r, 'r> for app::Reply {
    fn respond_to(self, request: &'r Request<'_>) -> response::Result<'r> {
        let mut response = match self.body {
            Content::Whole(bytes) => Response::build()
                .sized_body(bytes.len(), Cursor::new(bytes))
                .finalize(),
            Content::Streamed(chunks) => {
                let chunks = chunks.map(|chunk| chunk.unwrap());
                ByteStream(chunks).respond_to(request)?
            }
        };
        response.set_status(Status::new(self.status));
        for (name, value) in self.headers {
            response.adjoin_raw_header(name, String::from_utf8_lossy(&value).into_owned());
        }
        Ok(response)
    }
}

struct Login;

#[rocket::async_trait]
impl<'r> FromRequest<'r> for Login {
    type Error = ();

    async fn from_request(request: &'r Request<'_>) -> Outcome<Self, ()> {
        match request.headers().get_one("authorization") {
            Some(_) => Outcome::Success(Self),
            None => Outcome::Error((Status::Unauthorized, ())),
        }
    }
}

struct Tenant(String);

#[rocket::async_trait]
impl<'r> FromRequest<'r> for Tenant {
    type Error = ();

    async fn from_request(request: &'r Request<'_>) -> Outcome<Self, ()> {
        match request.headers().get_one("x-tenant") {
            Some(tenant) => Outcome::Success(Self(tenant.to_owned())),
            None => Outcome::Error((Status::Unauthorized, ())),
        }
    }
}

type Key<'r> = IdempotencyKey<'r>;

#[post("/charges", data = "<order>")]
#[idempotent(key = key, ttl = "24h", skip(app), engine = app.engine)]
async fn charge<'r>(key: Key<'r>, app: &State<App>, order: Json<Order>) -> Reply<'r> {
    key.reply(app.works.charge(*order)).await
}

/// A function of several routes.
#[idempotent(key = key, ttl = "24h", skip(app), engine = app.engine)]
async fn echo<'r>(key: Key<'r>, app: &State<App>, body: String) -> Reply<'r> {
    key.reply(app.works.echo(&body)).await
}

#[idempotent(key = key, ttl = "24h", fingerprint(body.len()), engine = app.engine)]
async fn counted<'r>(key: Key<'r>, app: &State<App>, body: String) -> Reply<'r> {
    key.reply(app.works.echo(&body)).await
}

#[idempotent(key = key, ttl = "24h", skip(app), engine = app.engine)]
async fn slow<'r>(key: Key<'r>, app: &State<App>, body: String) -> Reply<'r> {
    let reply = app.works.slow(&body).await;
    key.reply(reply).await
}

macro_rules! routes_of {
    ($($name:ident: $method:ident $path:literal => $function:ident;)*) => {$(
        #[$method($path, data = "<body>")]
        async fn $name<'r>(key: Key<'r>, app: &State<App>, body: String) -> Reply<'r> {
            $function(key, app, body).await
        }
    )*};
}

routes_of! {
    post_echo: post "/echo" => echo;
    put_echo: put "/echo" => echo;
    post_echo_other: post "/echo/other" => echo;
    post_counted: post "/counted" => counted;
    put_counted: put "/counted" => counted;
    post_counted_other: post "/counted/other" => counted;
    post_slow: post "/slow" => slow;
    put_slow: put "/slow" => slow;
    post_slow_other: post "/slow/other" => slow;
}

#[post("/refunds", data = "<body>")]
#[idempotent(key = key, ttl = "24h", skip(app), engine = app.engine)]
async fn refund<'r>(key: Key<'r>, app: &State<App>, body: String) -> Reply<'r> {
    key.reply(app.works.echo(&body)).await
}

#[post("/guarded", data = "<body>")]
#[idempotent(key = key, ttl = "24h", skip(app, _login), engine = app.engine)]
async fn guarded<'r>(_login: Login, key: Key<'r>, app: &State<App>, body: String) -> Reply<'r> {
    key.reply(app.works.echo(&body)).await
}

#[post("/waiting", data = "<body>")]
#[idempotent(key = key, ttl = "24h", in_flight = "wait 5s", skip(app), engine = app.engine)]
async fn waiting<'r>(key: Key<'r>, app: &State<App>, body: String) -> Reply<'r> {
    let reply = app.works.slow(&body).await;
    key.reply(reply).await
}

#[post("/hanging", data = "<body>")]
#[idempotent(key = key, ttl = "24h", deadline = "100ms", skip(app), engine = app.engine)]
async fn hanging<'r>(key: Key<'r>, app: &State<App>, body: String) -> Reply<'r> {
    let reply = app.works.hang(&body).await;
    key.reply(reply).await
}

#[post("/panics-once")]
#[idempotent(key = key, ttl = "24h", in_flight = "wait 5s", skip(app), engine = app.engine)]
async fn panics_once<'r>(key: Key<'r>, app: &State<App>) -> Reply<'r> {
    let reply = app.works.panic_once().await;
    key.reply(reply).await
}

#[post("/panics-and-refuses")]
#[idempotent(
    name = "rocket.refusing", key = key, ttl = "24h", on_crash = "refuse",
    skip(app), engine = app.engine
)]
async fn panics_and_refuses<'r>(key: Key<'r>, app: &State<App>) -> Reply<'r> {
    key.reply(app.works.panic_always()).await
}

#[post("/status", data = "<body>")]
#[idempotent(key = key, ttl = "24h", skip(app), engine = app.engine)]
async fn status<'r>(key: Key<'r>, app: &State<App>, body: String) -> Reply<'r> {
    key.reply(app.works.status(&body)).await
}

#[post("/nothing-happened")]
#[idempotent(key = key, ttl = "24h", skip(app), engine = app.engine)]
async fn nothing_happened<'r>(key: Key<'r>, app: &State<App>) -> Reply<'r> {
    key.reply(app.works.release()).await
}

#[post("/scoped", data = "<body>")]
#[idempotent(key = key, scope = tenant.0, ttl = "24h", skip(app, tenant), engine = app.engine)]
async fn scoped<'r>(tenant: Tenant, key: Key<'r>, app: &State<App>, body: String) -> Reply<'r> {
    key.reply(app.works.tenant(&tenant.0, &body)).await
}

#[post("/respond", data = "<body>")]
#[idempotent(key = key, ttl = "24h", skip(app), engine = app.engine)]
async fn respond<'r>(key: Key<'r>, app: &State<App>, body: String) -> Reply<'r> {
    key.reply(app.works.respond(&body)).await
}
