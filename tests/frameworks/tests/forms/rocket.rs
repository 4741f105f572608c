//! The HTTP contract through Rocket.

use crate::replies::{Answer, LIMIT, Order, Shop};
use idem::idempotent;
use idem::rocket::{IdempotencyKey, Reply};
use idem_frameworks::{Server, is_replay, post as request};
use rocket::fairing::AdHoc;
use rocket::http::{Header, Status};
use rocket::response::stream::TextStream;
use rocket::serde::json::{Json, Value, json};
use rocket::{Request, Responder, State, catch, catchers, post, routes};
use tokio::sync::oneshot;

#[derive(Responder)]
#[response(status = 201)]
struct Created(Json<Value>, Header<'static>);

#[post("/charges", data = "<order>")]
#[idempotent(key = key, ttl = "24h", skip(shop), engine = shop.engine)]
async fn charge<'r>(key: IdempotencyKey<'r>, shop: &State<Shop>, order: Json<Order>) -> Reply<'r> {
    let number = shop.works.execute();
    match order.answer {
        Answer::Created => {}
        Answer::Stopped => shop.works.stop_here().await,
        Answer::Refused => return key.reply((Status::BadRequest, "no")).await,
        Answer::Overloaded => return key.reply(Status::ServiceUnavailable).await,
        Answer::Large => return key.reply("x".repeat(2 * LIMIT)).await,
        Answer::Streamed => {
            let stream = TextStream! {
                for _ in 0..2 {
                    yield "x".repeat(LIMIT);
                }
            };
            return key.reply(stream).await;
        }
        Answer::Panic => panic!("as asked"),
    }
    let location = Header::new("Location", format!("/charges/{number}"));
    key.reply(Created(Json(json!({ "charge": number })), location))
        .await
}

/// Its error is an error of Rocket: a status for a catcher.
#[post("/teapot")]
#[idempotent(key = key, ttl = "24h", skip(shop), engine = shop.engine)]
async fn teapot<'r>(key: IdempotencyKey<'r>, shop: &State<Shop>) -> Reply<'r> {
    shop.works.execute();
    key.reply(Err::<&str, _>(Status::ImATeapot)).await
}

/// Such as a file that someone cuts while it is read.
#[post("/half")]
#[idempotent(key = key, ttl = "24h", skip(shop), engine = shop.engine)]
async fn half<'r>(key: IdempotencyKey<'r>, shop: &State<Shop>) -> Reply<'r> {
    shop.works.execute();
    key.reply(Half).await
}

struct Half;

impl<'r> rocket::response::Responder<'r, 'static> for Half {
    fn respond_to(self, _: &'r Request<'_>) -> rocket::response::Result<'static> {
        let half = std::io::Cursor::new("half");
        Ok(rocket::Response::build().sized_body(8, half).finalize())
    }
}

#[tokio::test]
async fn a_response_that_ends_early_is_never_given_back_as_a_whole_one() {
    let shop = Shop::open();
    let server = start(&shop).await;
    let first = server.send(request("/half", "a", "")).await;
    assert_eq!(first.status(), 500);
    let retry = server.send(request("/half", "a", "")).await;
    assert_eq!(idem_frameworks::problem(&retry), "not-replayable");
    assert_eq!(shop.works.executed(), 1);
}

#[post("/conflict")]
#[idempotent(key = key, ttl = "24h", skip(shop), engine = shop.engine)]
async fn conflict<'r>(key: IdempotencyKey<'r>, shop: &State<Shop>) -> Reply<'r> {
    shop.works.execute();
    key.reply(Err::<&str, _>(Status::Conflict)).await
}

/// The scope says who asks, so that a new token on a retry is no other request.
#[post("/scoped", data = "<body>")]
#[idempotent(
    key = key, ttl = "24h", scope = "tenant", fingerprint(body),
    engine = shop.engine
)]
async fn scoped<'r>(key: IdempotencyKey<'r>, shop: &State<Shop>, body: String) -> Reply<'r> {
    key.reply(format!("{}: {body}", shop.works.execute())).await
}

#[catch(418)]
fn brew(request: &Request<'_>) -> String {
    format!("no coffee at {}\n", request.uri())
}

#[catch(default)]
fn other() -> &'static str {
    "elsewhere"
}

async fn start(shop: &Shop) -> Server {
    let figment = rocket::Config::figment()
        .merge(("port", 0))
        .merge(("log_level", "off"))
        .merge(("shutdown.ctrlc", false));
    let (send, port) = oneshot::channel();
    let rocket = rocket::custom(figment)
        .manage(shop.clone())
        .manage(shop.engine.clone())
        .mount("/", routes![charge, teapot, conflict, half, scoped])
        .register("/", catchers![brew])
        .register("/elsewhere", catchers![other])
        .attach(AdHoc::on_liftoff("port", |rocket| {
            Box::pin(async move { send.send(rocket.config().port).unwrap() })
        }));
    tokio::spawn(rocket.launch());
    Server(([127, 0, 0, 1], port.await.unwrap()).into())
}

cases_of_replies!();

#[tokio::test]
async fn a_body_goes_on_when_its_client_has_gone() {
    let shop = Shop::open();
    let server = start(&shop).await;
    // Nobody says when Rocket has noticed; by then it has served others.
    let noticed = async {
        for _ in 0..20 {
            server.send(request("/nowhere", "k", "")).await;
        }
    };
    crate::replies::a_body_goes_on_when_its_client_has_gone(&shop, server, noticed).await;
}

#[tokio::test]
async fn what_a_catcher_answers_is_stored() {
    let shop = Shop::open();
    let server = start(&shop).await;
    for (path, status) in [("/teapot", 418), ("/conflict", 409)] {
        let first = server.send(request(path, "k", "")).await;
        assert_eq!(first.status(), status);
        assert!(!first.body().is_empty());
        let replay = server.send(request(path, "k", "")).await;
        assert!(is_replay(&replay));
        assert_eq!(replay.status(), status);
        assert_eq!(replay.body(), first.body());
        assert_eq!(
            replay.headers()["content-type"],
            first.headers()["content-type"]
        );
    }
    let first = server.send(request("/teapot", "other", "")).await;
    assert_eq!(first.body(), "no coffee at /teapot\n");
    assert_eq!(shop.works.executed(), 3);
}

#[tokio::test]
async fn within_a_scope_a_new_token_is_the_same_request() {
    let shop = Shop::open();
    let server = start(&shop).await;
    let with = |token: &str, body: &'static str| {
        let mut request = request("/scoped", "k", body);
        let token = token.parse().unwrap();
        request.headers_mut().insert("authorization", token);
        request
    };
    let first = server.send(with("Bearer 1", "a")).await;
    let replay = server.send(with("Bearer 2", "a")).await;
    assert!(is_replay(&replay));
    assert_eq!(replay.body(), first.body());
    assert_eq!(server.send(with("Bearer 2", "b")).await.status(), 422);
}

const MANY: usize = 25_000;

/// A response with many lines, of one name or of as many.
struct ManyLines(bool);

impl<'r> rocket::response::Responder<'r, 'static> for ManyLines {
    fn respond_to(self, _: &'r Request<'_>) -> rocket::response::Result<'static> {
        let mut response = rocket::Response::new();
        for number in 0..MANY {
            let name = if self.0 { 0 } else { number };
            response.adjoin_raw_header(format!("x-{name}"), "1");
        }
        Ok(response)
    }
}

#[post("/many", data = "<names>")]
#[idempotent(key = key, ttl = "24h", skip(shop), engine = shop.engine)]
async fn many_lines<'r>(key: IdempotencyKey<'r>, shop: &State<Shop>, names: String) -> Reply<'r> {
    shop.works.execute();
    key.reply(ManyLines(names == "one")).await
}

#[tokio::test]
async fn many_header_lines_are_neither_a_panic_nor_an_error() {
    let shop = Shop::with_room_for(1 << 20);
    let figment = rocket::Config::figment().merge(("log_level", "off"));
    let rocket = rocket::custom(figment)
        .manage(shop.engine.clone())
        .manage(shop.clone())
        .mount("/", routes![many_lines]);
    let client = rocket::local::asynchronous::Client::untracked(rocket);
    let client = client.await.unwrap();
    let send = async |names: &'static str| {
        let request = client
            .post("/many")
            .header(Header::new("Idempotency-Key", names));
        let response = request.body(names).dispatch().await;
        (response.status().code, response.headers().len())
    };
    let (status, lines) = send("one").await;
    assert_eq!((status, lines >= MANY), (200, true));
    let (status, replayed) = send("one").await;
    assert_eq!((status, replayed > lines), (200, true));
    let (status, lines) = send("many").await;
    assert_eq!((status, lines >= MANY), (200, true));
    assert_eq!(send("many").await.0, 409);
    assert_eq!(shop.works.executed(), 2);
}
