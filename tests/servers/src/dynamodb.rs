//! Emulators of DynamoDB, each with a port and a process, and a table for each test.
//!
//! `cargo xtask test` fetches the first two beside what cargo builds. A variable names another copy, or moto
//! (`pip install --target DIRECTORY moto==5.2.5 flask flask-cors py-partiql-parser`):
//!
//! | emulator | variable | it names | what it gets wrong |
//! |---|---|---|---|
//! | DynamoDB Local, of Amazon | `IDEM_DYNAMODB_LOCAL` | the directory with `DynamoDBLocal.jar` | never throttles, checks no signature; its indexes are consistent at once |
//! | dynalite | `IDEM_DYNAMODB_DYNALITE` | its `cli.js` | does not know `ReturnValuesOnConditionCheckFailure`: a condition that does not hold says not what is there; knows no TTL |
//! | moto | `IDEM_DYNAMODB_MOTO` | the directory with its Python packages | conditional writes are not atomic: of two at once both may succeed; an item's size is that of its JSON, where bytes are a third longer; each call closes its connection |
//!
//! All of them take their `Date` from this machine's clock.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{BehaviorVersion, Config, Credentials, Region};
use idem::stores::dynamodb::{DynamoDbStore, TableOptions};

use crate::process::Process;
use crate::support::{TempDir, free_port, wait_until};

const READY: Duration = Duration::from_secs(60);

/// An emulator of DynamoDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emulator {
    /// Amazon's own, in Java.
    Local,
    /// In JavaScript.
    Dynalite,
    /// In Python.
    Moto,
}

impl Emulator {
    /// What tests run on: all that were fetched or are named.
    ///
    /// # Panics
    ///
    /// When there is none, unless `cargo xtask test` could fetch none and has said so: a test must not pass
    /// because it had nothing to test on.
    pub fn installed() -> Vec<Self> {
        let all = [Self::Local, Self::Dynalite, Self::Moto];
        let found: Vec<_> = all.into_iter().filter(|it| it.find().is_some()).collect();
        if found.is_empty() {
            let excuse = servers().join("dynamodb-is-out-of-reach");
            let why = std::fs::read_to_string(&excuse).unwrap_or_else(|_| {
                panic!(
                    "no emulator of DynamoDB: `cargo xtask test` fetches them; or name one in IDEM_DYNAMODB_LOCAL, IDEM_DYNAMODB_DYNALITE or IDEM_DYNAMODB_MOTO"
                )
            });
            println!("DynamoDB is NOT tested: {why}");
        }
        found
    }

    /// The one that is most like the service: what is tested on one alone is tested on this.
    pub fn best() -> Option<Self> {
        Self::installed().into_iter().next()
    }

    /// The variable that names it, and where it is fetched to.
    const fn names(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Local => (
                "IDEM_DYNAMODB_LOCAL",
                Some("dynamodb-local-2.9.30/package/emulator"),
            ),
            Self::Dynalite => (
                "IDEM_DYNAMODB_DYNALITE",
                Some("dynalite-4.0.0/node_modules/dynalite/cli.js"),
            ),
            Self::Moto => ("IDEM_DYNAMODB_MOTO", None),
        }
    }

    fn find(self) -> Option<PathBuf> {
        let (variable, place) = self.names();
        // What is named must be there.
        if let Some(named) = std::env::var_os(variable) {
            return Some(named.into());
        }
        let path = servers().join(place?);
        path.exists().then_some(path)
    }

    fn command(self, port: u16) -> Vec<OsString> {
        let found = self.find().unwrap_or_default();
        let port = port.to_string();
        let words: Vec<OsString> = match self {
            Self::Local => {
                let libraries = found.join("DynamoDBLocal_lib");
                let mut path = OsString::from("-Djava.library.path=");
                path.push(libraries);
                vec![
                    "java".into(),
                    "-Xmx384m".into(),
                    path,
                    "-jar".into(),
                    found.join("DynamoDBLocal.jar").into(),
                    "-inMemory".into(),
                    "-disableTelemetry".into(),
                    "-port".into(),
                    port.into(),
                ]
            }
            Self::Dynalite => vec![
                std::env::var_os("IDEM_NODE").unwrap_or_else(|| "node".into()),
                found.into(),
                "--host".into(),
                "127.0.0.1".into(),
                "--createTableMs".into(),
                "0".into(),
                "--port".into(),
                port.into(),
            ],
            Self::Moto => {
                let mut path = OsString::from("PYTHONPATH=");
                path.push(found);
                vec![
                    "env".into(),
                    path,
                    "python3".into(),
                    "-m".into(),
                    "moto.server".into(),
                    "-p".into(),
                    port.into(),
                ]
            }
        };
        words
    }
}

/// Where what was fetched is kept: beside what cargo builds.
fn servers() -> PathBuf {
    let us = std::env::current_exe().unwrap_or_default();
    // target/debug/deps/test or target/debug/program
    let debug = us.ancestors().skip(1).find(|it| it.ends_with("debug"));
    let target = debug.and_then(Path::parent);
    target.unwrap_or(Path::new("target")).join("servers")
}

/// A table of a running emulator. The tests of a program share their emulators, and have tables of their own.
#[derive(Debug)]
pub struct DynamoDb {
    running: Arc<Running>,
    table: String,
}

/// An emulator, which is killed on drop, and with this process.
#[derive(Debug)]
struct Running {
    process: Process,
    emulator: Emulator,
    port: u16,
    _directory: TempDir,
}

impl Running {
    fn start(emulator: Emulator) -> Self {
        let directory = TempDir::new("dynamodb");
        let port = free_port();
        let process = Process::start_in(directory.path(), None, emulator.command(port));
        wait_until(
            "an emulator that listens",
            READY,
            || match std::net::TcpStream::connect(("127.0.0.1", port)) {
                Ok(_) => Ok(()),
                Err(error) => {
                    assert!(process.is_alive(), "{}", process.log_tail());
                    Err(format!("{error}; its log ends:\n{}", process.log_tail()))
                }
            },
        );
        Self {
            process,
            emulator,
            port,
            _directory: directory,
        }
    }

    fn shared(emulator: Emulator) -> Arc<Self> {
        static SHARED: Mutex<Vec<Arc<Running>>> = Mutex::new(Vec::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = shared.iter().find(|it| it.emulator == emulator) {
            return Arc::clone(running);
        }
        let running = Arc::new(Self::start(emulator));
        shared.push(Arc::clone(&running));
        running
    }
}

impl DynamoDb {
    /// A new table, with its index.
    ///
    /// # Panics
    ///
    /// When the emulator does not start.
    pub async fn start(emulator: Emulator) -> Self {
        Self::start_with(emulator, TableOptions::new().with_index()).await
    }

    /// The same with other options.
    ///
    /// # Panics
    ///
    /// When the emulator does not start.
    pub async fn start_with(emulator: Emulator, options: TableOptions) -> Self {
        Self::over(Running::shared(emulator), options).await
    }

    /// The same on an emulator that nobody shares: it may be stopped and killed.
    ///
    /// # Panics
    ///
    /// When the emulator does not start.
    pub async fn start_alone(emulator: Emulator) -> Self {
        let running = Arc::new(Running::start(emulator));
        Self::over(running, TableOptions::new().with_index()).await
    }

    async fn over(running: Arc<Running>, options: TableOptions) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let server = Self {
            running,
            table: format!("idem-{number}"),
        };
        server
            .builder()
            // A machine under load.
            .timeout(Duration::from_secs(120))
            .create_table(options)
            .await
            .expect("a new table");
        server
    }

    /// Which one it is.
    pub fn emulator(&self) -> Emulator {
        self.running.emulator
    }

    /// Where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.running.port
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.running.process
    }

    /// A client of it, which signs with credentials that nobody checks.
    pub fn client(&self) -> Client {
        client_at(self.port())
    }

    /// The name of its table.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// A store over it, with settings.
    pub fn builder(&self) -> idem::stores::dynamodb::DynamoDbStoreBuilder {
        DynamoDbStore::with_client(&self.client(), &self.table)
            .expect("a name that tables can have")
    }

    /// A store over it.
    ///
    /// # Panics
    ///
    /// When it cannot be opened.
    pub async fn store(&self) -> DynamoDbStore {
        self.builder()
            .timeout(Duration::from_secs(60))
            .connect()
            .await
            .expect("a store")
    }

    /// What opens a store over it in a process that has [`CREDENTIALS`].
    pub fn url(&self) -> String {
        url_at(self.port(), &self.table)
    }
}

/// Variables that a process needs to sign with.
pub const CREDENTIALS: [(&str, &str); 2] = [
    ("AWS_ACCESS_KEY_ID", "idem"),
    ("AWS_SECRET_ACCESS_KEY", "nobody-checks-it"),
];

/// The URL of a table that is reached over this port.
pub fn url_at(port: u16, table: &str) -> String {
    format!("dynamodb://{table}?region=eu-west-1&endpoint=http://127.0.0.1:{port}&timeout=10s")
}

/// The configuration of a client that reaches an emulator over this port.
pub fn config_at(port: u16) -> aws_sdk_dynamodb::config::Builder {
    // dynalite hangs up after five seconds, and a claim that it has not answered is not sent again unseen.
    let idle = Duration::from_secs(2);
    let http = aws_smithy_http_client::Builder::new()
        .pool_idle_timeout(idle)
        .build_http();
    Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .endpoint_url(format!("http://127.0.0.1:{port}"))
        .credentials_provider(Credentials::new(
            "idem",
            "nobody-checks-it",
            None,
            None,
            "tests",
        ))
        .http_client(http)
}

/// A client that reaches an emulator over this port.
pub fn client_at(port: u16) -> Client {
    Client::from_conf(config_at(port).build())
}
