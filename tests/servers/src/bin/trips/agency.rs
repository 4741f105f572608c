//! The example's process, its store, and how it is killed and comes back.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use idem_tests::dynamodb::CREDENTIALS;
use idem_tests::{DynamoDb, Emulator, Postgres, Process, Redis, Signal, TempDir, free_port};
use serde_json::Value;

use super::http::{Connection, PATIENCE};
use super::options::Store;

const READY: Duration = Duration::from_secs(30);

/// A store that stays, and what was left in it.
struct Place {
    _postgres: Option<Postgres>,
    _redis: Option<Redis>,
    _dynamodb: Option<DynamoDb>,
    directory: TempDir,
    url: String,
}

impl Place {
    fn of(store: Store) -> Self {
        let directory = TempDir::new("trips");
        let postgres = matches!(store, Store::Postgres).then(Postgres::start);
        let redis = matches!(store, Store::Redis).then(Redis::start);
        let file = format!("sqlite://{}", directory.path().join("trip.db").display());
        let dynamodb = matches!(store, Store::DynamoDb).then(dynamodb);
        let url = match (&postgres, &redis, &dynamodb) {
            (Some(postgres), ..) => postgres.url(),
            (_, Some(redis), _) => redis.url(),
            (.., Some(dynamodb)) => dynamodb.url(),
            _ => file,
        };
        Self {
            _postgres: postgres,
            _redis: redis,
            _dynamodb: dynamodb,
            directory,
            url,
        }
    }

    fn words(&self, port: u16, crash: &[&str]) -> Vec<String> {
        let file = |name| self.directory.path().join(name).display().to_string();
        let port = port.to_string();
        let (calls, orders) = (file("calls"), format!("sqlite://{}", file("trip.db")));
        let mut words = vec!["--port", &port, "--store", &self.url, "--calls", &calls];
        if self.url.starts_with("redis") || self.url.starts_with("dynamodb") {
            words.extend(["--orders", &orders]);
        }
        words.extend(crash);
        words.into_iter().map(str::to_owned).collect()
    }
}

fn dynamodb() -> DynamoDb {
    let Some(emulator) = Emulator::best() else {
        panic!("there is no emulator of DynamoDB");
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap_or_else(|error| panic!("no runtime: {error}"));
    runtime.block_on(DynamoDb::start(emulator))
}

pub(crate) struct Agency {
    // Dropped in this order: who uses a database is gone before it is.
    process: Process,
    place: Place,
    port: u16,
}

impl Agency {
    /// With the example's options that make it crash.
    pub(crate) fn start(store: Store, crash: &[&str]) -> Self {
        let place = Place::of(store);
        let port = free_port();
        let process = start(&place, port, crash);
        let agency = Self {
            process,
            place,
            port,
        };
        agency.wait_until_ready();
        agency
    }

    /// Starts it again when it has crashed, without these options.
    pub(crate) fn start_again_when_it_has_crashed(self) -> Self {
        let Self {
            process,
            place,
            port,
        } = self;
        let start_of_wait = Instant::now();
        while process.is_alive() {
            assert!(start_of_wait.elapsed() < READY, "it does not crash");
            thread::sleep(Duration::from_millis(2));
        }
        drop(process);
        let process = start(&place, port, &[]);
        let agency = Self {
            process,
            place,
            port,
        };
        agency.wait_until_ready();
        agency
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn wait_until_ready(&self) {
        let start = Instant::now();
        while !Connection::new(self.port).is_possible() {
            assert!(
                self.process.is_alive() && start.elapsed() < READY,
                "the agency does not listen; its log ends:\n{}",
                self.process.log_tail()
            );
            thread::sleep(Duration::from_millis(2));
        }
    }

    pub(crate) fn kill_and_start(&self) {
        self.process.signal(Signal::Kill);
        let start = Instant::now();
        while self.process.is_alive() {
            assert!(start.elapsed() < READY, "it outlives SIGKILL");
            thread::sleep(Duration::from_millis(1));
        }
        self.process.restart();
    }

    /// Each call that airline and bank were given.
    pub(crate) fn calls(&self) -> String {
        let request = "GET /calls HTTP/1.1\r\nhost: trips\r\n\r\n";
        match Connection::new(self.port).call(request, PATIENCE) {
            Ok((answer, _)) if answer.status == 200 => answer.body,
            other => panic!("GET /calls: {other:?}"),
        }
    }

    pub(crate) fn orders(&self) -> Vec<Value> {
        match Connection::new(self.port).get("/orders") {
            Value::Array(orders) => orders,
            other => panic!("GET /orders: {other}"),
        }
    }

    pub(crate) fn log(&self) -> String {
        self.process.log_tail()
    }
}

fn start(place: &Place, port: u16, crash: &[&str]) -> Process {
    let us = std::env::current_exe().unwrap_or_else(|error| panic!("where are we? {error}"));
    let program: PathBuf = us.with_file_name("trip");
    assert!(
        program.is_file(),
        "{}: not there; cargo xtask crash builds it",
        program.display()
    );
    let log = place.directory.path().join("log");
    // Which one store alone asks for.
    let mut words: Vec<_> = CREDENTIALS
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    words.push(program.display().to_string());
    words.extend(place.words(port, crash));
    Process::start("env", words, &log)
}
