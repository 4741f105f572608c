//! The outbox: what was begun is finished with its key, whoever is killed and when.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use idem_client::journal::{Journal, JournalBuilder, JournalError, SendError};
use idem_client::reqwest_middleware::IdempotentClient;
use idem_client::tower::IdempotencyLayer;
use idem_client::{IdempotencyKey, Outcome, Policy, RetryBudget, UnknownReason};
use idem_client_tests::{Fault, Network, Nobody, Shop, Step};
use idem_tests::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdout, Command};
use tower::Layer;

fn policy() -> Policy {
    Policy::new()
        .backoff(Duration::from_millis(1), Duration::from_millis(20))
        .budget(RetryBudget::new(1.0).reserve(100))
}

fn client(policy: Policy) -> IdempotentClient {
    IdempotentClient::new(reqwest::Client::new(), policy)
}

fn key(text: &str) -> IdempotencyKey {
    IdempotencyKey::new(text).unwrap()
}

fn request(url: &str) -> Request<Bytes> {
    Request::post(url)
        .header("content-type", "text/plain")
        .body(Bytes::from_static(b"5"))
        .unwrap()
}

/// A client that is a process of its own.
struct Outbox {
    process: Child,
    output: Lines<BufReader<ChildStdout>>,
}

impl Outbox {
    fn start(journal: &PathBuf, words: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_outbox"))
            .arg(journal)
            .args(words)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, output }
    }

    async fn line(&mut self) -> String {
        self.output.next_line().await.unwrap().unwrap()
    }

    async fn kill(&mut self) {
        self.process.kill().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_killed_at_the_first_byte_has_written_the_operation_down() {
    let directory = TempDir::new("outbox");
    let path = directory.path().join("outbox");
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = nobody.local_addr().unwrap();
    let url = format!("http://{address}/charges");
    let mut outbox = Outbox::start(&path, &["send", &url, "order-1"]);
    let (mut stream, _) = nobody.accept().await.unwrap();
    stream.read_exact(&mut [0]).await.unwrap();
    outbox.kill().await;
    let journal = Journal::open(&path).await.unwrap();
    let pending = journal.pending().await.unwrap();
    assert_eq!(pending.len(), 1);
    assert_eq!(
        (pending[0].key.as_str(), pending[0].uri.to_string()),
        ("order-1", url)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_killed_while_its_charge_runs_finds_the_answer_with_the_same_key() {
    let directory = TempDir::new("outbox");
    let path = directory.path().join("outbox");
    let shop = Shop::open().await;
    let mut stops = shop.stop_charges().await;
    let mut outbox = Outbox::start(&path, &["send", &shop.url("/charges"), "order-1"]);
    let stop = stops.recv().await.unwrap();
    outbox.kill().await;
    stop.send(Step::Charge).unwrap();
    let mut outbox = Outbox::start(&path, &["resume"]);
    assert_eq!(outbox.line().await, "201 replayed=true");
    assert_eq!(outbox.line().await, "left 0");
    assert_eq!(shop.charged(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_not_taken_is_given_again() {
    let directory = TempDir::new("outbox");
    let path = directory.path().join("outbox");
    let shop = Shop::open().await;
    let mut outbox = Outbox::start(&path, &["--hold", "send", &shop.url("/charges"), "order-1"]);
    assert_eq!(outbox.line().await, "201 replayed=false");
    outbox.kill().await;
    let mut outbox = Outbox::start(&path, &["resume"]);
    assert_eq!(outbox.line().await, "201 replayed=true");
    assert_eq!(outbox.line().await, "left 0");
    // It may be sent anew, by somebody who knows the key.
    let mut outbox = Outbox::start(&path, &["send", &shop.url("/charges"), "order-1"]);
    assert_eq!(outbox.line().await, "201 replayed=true");
    assert_eq!(shop.charged(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_never_arrived_is_carried_out_once_when_it_is_resumed() {
    let directory = TempDir::new("outbox");
    let path = directory.path().join("outbox");
    let shop = Shop::open().await;
    let network = Network::with(shop.address, [Fault::DropRequest; 3]).await;
    let journal = Journal::open(&path).await.unwrap();
    let hasty = client(policy().max_tries(2));
    let settled = journal
        .send(&hasty, key("order-1"), request(&network.url("/charges")))
        .await;
    let Outcome::Unknown(unknown) = settled.unwrap().take().await.unwrap() else {
        panic!()
    };
    assert!(unknown.may_have_executed);
    assert_eq!(journal.pending().await.unwrap().len(), 1);
    // Through the other integration.
    let hyper: hyper_util::client::legacy::Client<_, http_body_util::Full<Bytes>> =
        hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
            .build_http();
    let hyper = IdempotencyLayer::new(policy()).layer(hyper);
    let mut resumed = journal.resume(&hyper).await.unwrap();
    let settled = resumed.next().await.unwrap().unwrap();
    // Nobody sends it twice at once.
    assert!(journal.resume(&hyper).await.unwrap().next().await.is_none());
    let again = journal
        .send(&hyper, key("order-1"), request(&network.url("/charges")))
        .await;
    assert!(
        matches!(again, Err(SendError::Journal(JournalError::Running))),
        "{again:?}"
    );
    let Outcome::Answered(answer) = settled.take().await.unwrap() else {
        panic!()
    };
    assert_eq!(answer.response.status(), 201);
    assert!(resumed.next().await.is_none());
    assert_eq!(
        (shop.charged(), journal.pending().await.unwrap().len()),
        (1, 0)
    );
    let requests = network.requests();
    assert!(
        requests
            .iter()
            .all(|it| String::from_utf8_lossy(it).contains("\"order-1\""))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn more_operations_than_are_sent_at_once_are_all_resumed() {
    let directory = TempDir::new("outbox");
    let shop = Shop::open().await;
    let journal = Journal::open(directory.path().join("outbox"))
        .await
        .unwrap();
    let nobody = Nobody::bind();
    let network = Network::with(nobody.address, []).await;
    let hasty = client(policy().max_tries(1));
    for number in 0..40 {
        let key = key(&format!("order-{number}"));
        let settled = journal
            .send(&hasty, key, request(&network.url("/charges")))
            .await
            .unwrap();
        assert!(!settled.take().await.unwrap().is_final());
    }
    network.lead_to(shop.address);
    let client = client(policy());
    let mut resumed = journal.resume(&client).await.unwrap();
    let mut ended = 0;
    while let Some(settled) = resumed.next().await {
        assert!(settled.unwrap().take().await.unwrap().is_final());
        ended += 1;
    }
    assert_eq!(
        (
            ended,
            shop.charged(),
            journal.pending().await.unwrap().len()
        ),
        (40, 40, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_may_have_forgotten_is_not_sent_and_not_forgotten() {
    let directory = TempDir::new("outbox");
    let path = directory.path().join("outbox");
    let shop = Shop::open().await;
    let network = Network::with(shop.address, [Fault::DropAnswer]).await;
    let hasty = client(policy().max_tries(1));
    let journal = Journal::open(&path).await.unwrap();
    let sent = journal
        .send(&hasty, key("order-1"), request(&network.url("/charges")))
        .await;
    assert!(!sent.unwrap().take().await.unwrap().is_final());
    journal.close().await;
    let journal = JournalBuilder::new()
        .keys_last(Duration::ZERO)
        .open(&path)
        .await
        .unwrap();
    let client = client(policy());
    let mut resumed = journal.resume(&client).await.unwrap();
    let settled = resumed.next().await.unwrap().unwrap();
    let Outcome::Unknown(unknown) = settled.take().await.unwrap() else {
        panic!()
    };
    assert_eq!((unknown.reason, unknown.tries), (UnknownReason::Expired, 0));
    assert_eq!(network.requests().len(), 1);
    // Until somebody has found out.
    assert_eq!(journal.pending().await.unwrap().len(), 1);
    assert!(journal.forget(&key("order-1")).await.unwrap());
    assert!(!journal.forget(&key("order-1")).await.unwrap());
    assert_eq!(journal.pending().await.unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_written_down_is_not_sent() {
    let directory = TempDir::new("outbox");
    let shop = Shop::open().await;
    let network = Network::with(shop.address, [Fault::DropAnswer]).await;
    let url = network.url("/charges");
    let settings = JournalBuilder::new()
        .max_operations(1)
        .max_request_bytes(200);
    let journal = settings
        .open(directory.path().join("outbox"))
        .await
        .unwrap();
    let client = client(policy().max_tries(1));
    let refused = async |key, request| match journal.send(&client, key, request).await {
        Err(SendError::Journal(error)) => error,
        other => panic!("{other:?}"),
    };
    let mut secret = request(&url);
    secret
        .headers_mut()
        .insert("authorization", "Bearer abc".parse().unwrap());
    let error = refused(key("a"), secret).await;
    assert!(matches!(error, JournalError::SecretHeader(_)), "{error}");
    let mut long = request(&url);
    *long.body_mut() = Bytes::from(vec![b'5'; 200]);
    let error = refused(key("a"), long).await;
    assert!(matches!(error, JournalError::TooLarge), "{error}");
    assert_eq!(network.requests().len(), 0);

    let sent = journal.send(&client, key("a"), request(&url)).await;
    assert!(!sent.unwrap().take().await.unwrap().is_final());
    let error = refused(key("b"), request(&url)).await;
    assert!(matches!(error, JournalError::Full), "{error}");
    let mut other = request(&url);
    *other.body_mut() = Bytes::from_static(b"6");
    let error = refused(key("a"), other).await;
    assert!(matches!(error, JournalError::OtherRequest), "{error}");
    assert_eq!(network.requests().len(), 1);
    // The same again is the same operation.
    let sent = journal
        .send(&client, key("a"), request(&url))
        .await
        .unwrap();
    let Outcome::Answered(answer) = sent.take().await.unwrap() else {
        panic!()
    };
    assert!(answer.tries.replayed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_in_use_or_no_journal_is_refused() {
    let directory = TempDir::new("outbox");
    let path = directory.path().join("outbox");
    let journal = Journal::open(&path).await.unwrap();
    let second = Journal::open(&path).await.unwrap_err();
    assert!(matches!(second, JournalError::InUse), "{second:?}");
    journal.close().await;
    Journal::open(&path).await.unwrap().close().await;

    let newer = directory.path().join("newer");
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(&newer)
        .create_if_missing(true);
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    sqlx::query("PRAGMA user_version = 2")
        .execute(&pool)
        .await
        .unwrap();
    pool.close().await;
    let error = Journal::open(&newer).await.unwrap_err();
    assert!(matches!(error, JournalError::Newer), "{error:?}");

    let text = directory.path().join("text");
    std::fs::write(
        &text,
        "no database, but a text that is long enough".repeat(100),
    )
    .unwrap();
    let error = Journal::open(&text).await.unwrap_err();
    assert!(matches!(error, JournalError::Damaged), "{error:?}");
}
