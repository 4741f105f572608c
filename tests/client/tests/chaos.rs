//! Client, server and store, a network between them that fails in every way, and kills on both sides:
//! every operation ends, and is carried out as often as its store promises.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use idem_client_tests::{Fault, Network};
use idem_tests::{Postgres, Redis, Reply, TempDir};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sqlx::Row;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

const OPERATIONS: u64 = 10_000;
const SERVER_KILLS: u64 = 12;
const CLIENT_KILLS: u64 = 6;

/// What a run came to.
#[derive(Debug, Default)]
struct Report {
    answered: BTreeMap<u64, u32>,
    replayed: u64,
    /// Ends without a final outcome, which a later life went on with.
    unknown: u64,
    faults: BTreeMap<&'static str, u64>,
}

struct Server {
    _process: Child,
    address: std::net::SocketAddr,
}

impl Server {
    async fn start(store: &str) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_effects"))
            .args(["--store", store])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let address = lines
            .next_line()
            .await
            .unwrap()
            .expect("the server does not start");
        Self {
            address: address.parse().unwrap(),
            _process: process,
        }
    }

    async fn kill(mut self) {
        self._process.kill().await.unwrap();
    }
}

struct Client {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Client {
    fn start(journal: &Path, url: &str, seed: u64, numbers: Vec<u64>) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_operations"))
            .arg("--journal")
            .arg(journal)
            .args(["--url", url, "--seed", &seed.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut input = process.stdin.take().unwrap();
        tokio::spawn(async move {
            for number in numbers {
                // A client that is killed reads no more.
                if input
                    .write_all(format!("{number}\n").as_bytes())
                    .await
                    .is_err()
                {
                    return;
                }
            }
        });
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, lines }
    }
}

fn fault(random: &mut StdRng) -> (&'static str, Fault) {
    match random.random_range(0..100) {
        0..4 => ("dropped requests", Fault::DropRequest),
        4..7 => ("cut requests", Fault::CutRequest),
        7..13 => ("dropped answers", Fault::DropAnswer),
        13..17 => ("cut answers", Fault::CutAnswer),
        17..21 => ("doubled requests", Fault::Duplicate),
        21..25 => {
            let delay = Duration::from_millis(random.random_range(1..50));
            ("late answers", Fault::Delay(delay))
        }
        _ => ("whole exchanges", Fault::None),
    }
}

/// Runs all operations to their end, through kills at random moments of their progress.
async fn run(store: &str, directory: &Path) -> Report {
    let seed: u64 = std::env::var("IDEM_CHAOS_SEED")
        .map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("IDEM_CHAOS_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut server = Server::start(store).await;
    let faults = Arc::new(Mutex::new(BTreeMap::new()));
    let network = {
        let (faults, mut random) = (Arc::clone(&faults), StdRng::seed_from_u64(seed ^ 1));
        Network::deciding(server.address, move || {
            let (name, fault) = fault(&mut random);
            *faults.lock().unwrap().entry(name).or_insert(0) += 1;
            fault
        })
        .await
    };
    let mut kills = |count| -> BTreeSet<u64> {
        (0..count)
            .map(|_| random.random_range(1..OPERATIONS))
            .collect()
    };
    let (mut server_kills, mut client_kills) = (kills(SERVER_KILLS), kills(CLIENT_KILLS));
    let (url, journal) = (network.url("/effects"), directory.join("journal"));
    let mut report = Report::default();
    let mut lives = 0;
    while (report.answered.len() as u64) < OPERATIONS {
        lives += 1;
        assert!(lives < 50, "operations do not end: {report:?}");
        let left = (0..OPERATIONS)
            .filter(|it| !report.answered.contains_key(it))
            .collect();
        let mut client = Client::start(&journal, &url, seed, left);
        while let Some(line) = client.lines.next_line().await.unwrap() {
            report.note(&line);
            let ended = report.answered.len() as u64;
            if server_kills.first().is_some_and(|at| *at <= ended) {
                server_kills.pop_first();
                server.kill().await;
                server = Server::start(store).await;
                network.lead_to(server.address);
            }
            if client_kills.first().is_some_and(|at| *at <= ended) {
                client_kills.pop_first();
                client.process.start_kill().unwrap();
            }
        }
        client.process.wait().await.unwrap();
    }
    assert!(server_kills.is_empty() && client_kills.is_empty());
    report.faults = std::mem::take(&mut faults.lock().unwrap());
    println!(
        "{store}: {} answered, {} of them replays, {} ends unknown and asked again; {lives} lives of the \
         client, {SERVER_KILLS} kills of the server; {:?}",
        report.answered.len(),
        report.replayed,
        report.unknown,
        report.faults,
    );
    report
}

impl Report {
    /// A line of the client's: how one operation ended.
    fn note(&mut self, line: &str) {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            [number, "answered", "201", how] => {
                let before = self.answered.insert(number.parse().unwrap(), 201);
                self.replayed += u64::from(how == "replayed" && before.is_none());
            }
            [_, "unknown", ..] => self.unknown += 1,
            _ => panic!("{line}"),
        }
    }
}

/// Each once.
fn assert_exact(effects: &[u64]) {
    let distinct: BTreeSet<_> = effects.iter().collect();
    assert_eq!(effects.len() as u64, OPERATIONS);
    assert_eq!(distinct.len() as u64, OPERATIONS);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_operations_are_ten_thousand_effects_in_postgres() {
    let directory = TempDir::new("chaos");
    let postgres = tokio::task::spawn_blocking(Postgres::start).await.unwrap();
    run(&postgres.url(), directory.path()).await;
    let pool = sqlx::PgPool::connect(&postgres.url()).await.unwrap();
    let rows = sqlx::query("SELECT operation FROM effects")
        .fetch_all(&pool)
        .await
        .unwrap();
    let effects: Vec<_> = rows.iter().map(|row| row.get::<i64, _>(0) as u64).collect();
    assert_exact(&effects);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_operations_are_ten_thousand_effects_in_sqlite() {
    let directory = TempDir::new("chaos");
    let file: PathBuf = directory.path().join("effects.db");
    let store = format!("sqlite://{}", file.display());
    run(&store, directory.path()).await;
    let pool = sqlx::SqlitePool::connect(&store).await.unwrap();
    let rows = sqlx::query("SELECT operation FROM effects")
        .fetch_all(&pool)
        .await
        .unwrap();
    let effects: Vec<_> = rows.iter().map(|row| row.get::<i64, _>(0) as u64).collect();
    assert_exact(&effects);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_double_under_a_lease_in_redis_is_a_later_attempt_after_a_kill() {
    let directory = TempDir::new("chaos");
    let redis = tokio::task::spawn_blocking(Redis::start).await.unwrap();
    run(&redis.url(), directory.path()).await;
    let effects = tokio::task::spawn_blocking(move || {
        redis.console().call(&["LRANGE", "effects", "0", "-1"])
    });
    let Reply::Array(effects) = effects.await.unwrap() else {
        panic!("no list")
    };
    let mut attempts: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for effect in &effects {
        let Reply::Bulk(effect) = effect else {
            panic!("{effect:?}")
        };
        let effect = String::from_utf8(effect.clone()).unwrap();
        let (number, attempt) = effect.split_once(' ').unwrap();
        let attempts = attempts.entry(number.parse().unwrap()).or_default();
        attempts.push(attempt.parse().unwrap());
    }
    // None is lost, and an attempt has its effect once at most.
    assert_eq!(attempts.len() as u64, OPERATIONS);
    let doubled: Vec<_> = attempts.values().filter(|it| it.len() > 1).collect();
    for attempts in &doubled {
        assert!(attempts.windows(2).all(|it| it[0] < it[1]), "{attempts:?}");
    }
    // Only what ran when the server was killed runs again: as many as are sent at once, at most.
    println!(
        "{} effects, {} operations doubled",
        effects.len(),
        doubled.len()
    );
    assert!(doubled.len() as u64 <= SERVER_KILLS * 2 * 64);
}
