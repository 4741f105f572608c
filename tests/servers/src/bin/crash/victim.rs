//! The ledger's process and its database, and how each of them is killed and comes back.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use idem_tests::{MariaDb, Postgres, Process, Signal, TempDir, free_port, wait_until};

use super::http::Connection;
use super::options::{Database, Options, Victim, word};

const READY: Duration = Duration::from_secs(30);
const END: Duration = Duration::from_secs(10);

/// How often a port is taken by somebody else before we give up.
const ATTEMPTS: usize = 10;

/// The database's server.
enum Server {
    Mysql(MariaDb),
    Postgres(Postgres),
}

impl Server {
    /// SQLite has none.
    fn start(database: Database) -> Option<Self> {
        match database {
            Database::Sqlite => None,
            Database::Mysql => Some(Self::Mysql(MariaDb::start())),
            Database::Postgres => Some(Self::Postgres(Postgres::start())),
        }
    }
}

/// The server, on a port that it keeps.
pub(crate) struct Ledger {
    // Dropped in this order: who uses a database or a directory is gone before that is.
    process: Process,
    server: Option<Server>,
    _directory: TempDir,
    port: u16,
    victim: Victim,
    /// When it was started last, and how long it took to be ready.
    started: Instant,
    took: Duration,
}

impl Ledger {
    pub(crate) fn start(options: &Options) -> Self {
        let program = options.ledger.clone().unwrap_or_else(beside_us);
        assert!(
            program.is_file(),
            "{}: not there; cargo xtask crash builds it",
            program.display()
        );
        let directory = TempDir::new("crash");
        let server = Server::start(options.database);
        let store = match &server {
            Some(Server::Mysql(server)) => server.url(),
            Some(Server::Postgres(server)) => server.url(),
            None => format!("sqlite://{}", directory.path().join("ledger.db").display()),
        };
        let log = directory.path().join("log");
        let mut attempts = 0;
        loop {
            let port = free_port();
            let words = [
                ("--port", port.to_string()),
                ("--store", store.clone()),
                ("--mode", word(options.mode)),
                ("--on-crash", word(options.on_crash)),
            ];
            let words = words.map(|(name, value)| [name.to_owned(), value]);
            let started = Instant::now();
            let process = Process::start(&program, words.into_iter().flatten(), &log);
            if becomes_ready(&process, port) {
                return Self {
                    process,
                    server,
                    _directory: directory,
                    port,
                    victim: options.victim,
                    started,
                    took: started.elapsed(),
                };
            }
            attempts += 1;
            let log = process.log_tail();
            assert!(
                log.contains("AddrInUse") && attempts < ATTEMPTS,
                "the ledger does not start; its log ends:\n{log}"
            );
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn victim(&self) -> Victim {
        self.victim
    }

    /// How long it took to start, the last time that somebody waited for it.
    pub(crate) fn takes(&self) -> Duration {
        self.took
    }

    pub(crate) fn is_ready(&self) -> bool {
        Connection::new(self.port).is_possible()
    }

    pub(crate) fn wait_until_ready(&mut self) {
        // A server whose database does not answer in time says so and ends; whoever runs it starts
        // it again.
        let mut attempts = 0;
        while !becomes_ready(&self.process, self.port) {
            attempts += 1;
            let log = self.log();
            assert!(
                log.contains("Unavailable") && attempts < ATTEMPTS,
                "the ledger ended by itself; its log ends:\n{log}"
            );
            self.process.restart();
        }
        self.took = self.started.elapsed();
    }

    /// Kills the server, and starts it again. It is not ready yet.
    pub(crate) fn kill(&mut self) {
        self.process.signal(Signal::Kill);
        let start = Instant::now();
        // Finer than `wait_until`: there are many kills.
        while self.process.is_alive() {
            assert!(
                start.elapsed() < END,
                "the ledger outlives SIGKILL by {END:?}"
            );
            thread::sleep(Duration::from_millis(1));
        }
        self.started = Instant::now();
        self.process.restart();
    }

    /// Kills the database as a machine that goes down does, or one of its processes, which makes
    /// the others end, and waits until it answers again.
    pub(crate) fn kill_database(&self, all: bool) {
        let postgres = match self.server.as_ref().expect("its database is a server") {
            Server::Postgres(postgres) => postgres,
            // It has one process.
            Server::Mysql(server) => {
                server.kill();
                server.restart();
                return;
            }
        };
        if all {
            postgres.kill();
            postgres.restart();
            return;
        }
        let busiest = "SELECT pid FROM pg_stat_activity
            WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
            ORDER BY state = 'active' DESC, state DESC, random() LIMIT 1";
        let pid = postgres.psql(busiest);
        // Its connection may have ended meanwhile.
        let _ = Command::new("sh")
            .args(["-c", r#"kill -s KILL "$1""#, "sh", &pid])
            .stderr(Stdio::null())
            .status();
        wait_until("a database that recovers", READY, || {
            postgres.try_psql("SELECT 1")
        });
    }

    pub(crate) fn log(&self) -> String {
        self.process.log_tail()
    }
}

fn becomes_ready(process: &Process, port: u16) -> bool {
    let start = Instant::now();
    // It listens when everything else is done.
    while !Connection::new(port).is_possible() {
        if !process.is_alive() {
            return false;
        }
        assert!(
            start.elapsed() < READY,
            "the ledger does not listen within {READY:?}; its log ends:\n{}",
            process.log_tail()
        );
        thread::sleep(Duration::from_millis(2));
    }
    true
}

/// Where cargo puts the programs of a workspace.
fn beside_us() -> PathBuf {
    let us = std::env::current_exe().unwrap_or_else(|error| panic!("where are we? {error}"));
    us.with_file_name("ledger")
}
