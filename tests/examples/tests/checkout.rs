//! The example `checkout`, as a process of its own, driven by exactly the lines that it prints.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Response};
use idem_examples::Example;
use idem_frameworks::{Server, is_replay, post, problem};

struct Checkout {
    example: Example,
    /// What it printed after its address.
    lines: Vec<String>,
}

fn start() -> Checkout {
    start_over("memory://")
}

fn start_over(store: &str) -> Checkout {
    let mut example = Example::start("checkout", &["--store", store]);
    let lines = example.output.by_ref().map(Result::unwrap);
    let lines = lines.take_while(|line| !line.starts_with("What was really executed"));
    Checkout {
        lines: lines.collect(),
        example,
    }
}

/// One printed curl call.
struct Curl {
    request: Request<Bytes>,
    /// `-m`: when the client hangs up.
    patience: Option<Duration>,
}

impl Curl {
    fn parse(line: &str) -> Self {
        let mut request = Request::post("/charges");
        let mut body = Bytes::new();
        let mut patience = None;
        let mut words = words(line).into_iter();
        assert_eq!(words.next().as_deref(), Some("curl"));
        while let Some(word) = words.next() {
            match &*word {
                "-i" => {}
                "-H" => {
                    let header = words.next().unwrap();
                    let (name, value) = header.split_once(": ").unwrap();
                    request = request.header(name, value);
                }
                "-d" => body = words.next().unwrap().into(),
                "-m" => {
                    let seconds = words.next().unwrap().parse().unwrap();
                    patience = Some(Duration::from_secs_f64(seconds));
                }
                address => assert!(address.ends_with("/charges"), "{address}"),
            }
        }
        Self {
            request: request.body(body).unwrap(),
            patience,
        }
    }

    async fn run(self, server: Server) -> Option<Response<Bytes>> {
        let answer = server.send(self.request);
        match self.patience {
            None => Some(answer.await),
            // Who hangs up does not look for an answer any more, on a machine that was busy meanwhile either.
            Some(patience) => tokio::select! {
                biased;
                () = tokio::time::sleep(patience) => None,
                answer = answer => Some(answer),
            },
        }
    }
}

/// Splits a line as a shell would: by spaces, with single quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (at, part) in line.split('\'').enumerate() {
        if at % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

/// Of so many equal requests at once. One that comes after the half second that a charge takes gets the
/// replay, on a machine that slow.
#[track_caller]
fn one_charges<'a>(answers: impl IntoIterator<Item = &'a Response<Bytes>>, count: usize) {
    let (charged, others): (Vec<_>, Vec<_>) = answers
        .into_iter()
        .partition(|answer| answer.status() == 201 && !is_replay(answer));
    assert_eq!((charged.len(), others.len()), (1, count - 1));
    for other in others {
        if is_replay(other) {
            assert_eq!(other.status(), 201);
            assert_eq!(other.body(), charged[0].body());
        } else {
            assert_eq!(other.status(), 409);
            assert_eq!(problem(other), "in-flight");
            assert!(other.headers().contains_key("retry-after"));
        }
    }
}

async fn executed(server: Server) -> usize {
    let list = Request::get("/charges").body(Bytes::new()).unwrap();
    let list = server.send(list).await;
    let list: Vec<serde_json::Value> = serde_json::from_slice(list.body()).unwrap();
    list.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_printed_lines_do_what_they_say() {
    let checkout = start();
    let server = checkout.example.server;
    let printed: Vec<_> = checkout
        .lines
        .iter()
        .filter_map(|line| line.strip_prefix("  "))
        .filter(|line| line.starts_with("curl"))
        .collect();
    let [first, again, other, double, hang_up, retry] = printed[..] else {
        panic!("six lines to try: {printed:?}");
    };
    let run = async |line: &str| Curl::parse(line).run(server).await;

    let first = run(first).await.unwrap();
    assert_eq!(first.status(), 201);
    assert_eq!(first.headers()["location"], "/charges/1");
    assert!(!is_replay(&first));

    let replay = run(again).await.unwrap();
    assert!(is_replay(&replay));
    assert_eq!(replay.status(), 201);
    assert_eq!(replay.headers()["location"], "/charges/1");
    assert_eq!(replay.body(), first.body());

    let refused = run(other).await.unwrap();
    assert_eq!(
        (refused.status().as_u16(), problem(&refused).as_str()),
        (422, "mismatch")
    );

    let clicks = double.strip_suffix("; wait").unwrap().split(" & ");
    let clicks = join_all(clicks.map(run)).await;
    one_charges(clicks.iter().flatten(), 2);

    assert!(run(hang_up).await.is_none(), "the client hung up");
    let retried = loop {
        let retried = run(retry).await.unwrap();
        if retried.status() != 409 {
            break retried;
        }
        assert_eq!(problem(&retried), "in-flight");
    };
    assert_eq!(retried.status(), 201);
    assert!(is_replay(&retried));

    assert_eq!(executed(server).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_equal_requests_one_charges() {
    let checkout = start();
    let body = "{\"amount\": 1999, \"currency\": \"eur\"}";
    let all = (0..64).map(|_| {
        checkout
            .example
            .server
            .send(post("/charges", "\"burst\"", body))
    });
    one_charges(&join_all(all).await, 64);
    assert_eq!(executed(checkout.example.server).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_over_redis_share_their_keys() {
    let redis = idem_tests::Redis::start();
    let (one, other) = (start_over(&redis.url()), start_over(&redis.url()));
    let charge = |key: &str, amount: u32| {
        let body = format!("{{\"amount\": {amount}, \"currency\": \"eur\"}}");
        post("/charges", key, body)
    };
    let first = one.example.server.send(charge("\"order-1\"", 1999)).await;
    assert_eq!(first.status(), 201);
    let replay = other.example.server.send(charge("\"order-1\"", 1999)).await;
    assert!(is_replay(&replay));
    assert_eq!(replay.status(), 201);
    assert_eq!(replay.headers()["location"], first.headers()["location"]);
    assert_eq!(replay.body(), first.body());
    let refused = other.example.server.send(charge("\"order-1\"", 99)).await;
    assert_eq!(
        (refused.status().as_u16(), problem(&refused).as_str()),
        (422, "mismatch")
    );

    let clicks = [one.example.server, other.example.server]
        .map(|server| server.send(charge("\"order-2\"", 500)));
    one_charges(&join_all(clicks).await, 2);
    assert_eq!(
        executed(one.example.server).await + executed(other.example.server).await,
        2
    );
}

#[tokio::test]
async fn the_page_and_its_client_half_are_served() {
    let checkout = start();
    let server = checkout.example.server;
    for (path, kind, part) in [
        ("/", "text/html", "src=\"shop.js\""),
        ("/shop.js", "text/javascript", "from \"./outbox.js\""),
        ("/outbox.js", "text/javascript", "export class Outbox"),
    ] {
        let answer = server.send(Request::get(path).body("").unwrap()).await;
        assert_eq!(answer.status(), 200);
        let value = answer.headers()["content-type"].to_str().unwrap();
        assert!(value.starts_with(kind), "{value}");
        assert!(String::from_utf8_lossy(answer.body()).contains(part));
    }
}
