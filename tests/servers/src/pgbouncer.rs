//! One PgBouncer in front of a PostgreSQL server.

use std::ffi::OsString;
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use crate::Postgres;
use crate::postgres::user_for_servers;
use crate::process::Process;
use crate::support::{TempDir, free_port, wait_until};

const VARIABLE: &str = "IDEM_PGBOUNCER";
/// Where distributions put what is no user's to run.
const SYSTEM: &str = "/usr/sbin/pgbouncer";
const READY: Duration = Duration::from_secs(30);

/// What a client is given a session for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolMode {
    /// For as long as it is connected.
    Session,
    /// For one transaction.
    Transaction,
}

/// A pooler with a port, a directory and a process of its own, which trusts everybody it knows.
#[derive(Debug)]
pub struct PgBouncer {
    // Dropped in this order: the process is gone before its directory is.
    process: Process,
    port: u16,
    _directory: TempDir,
}

impl PgBouncer {
    /// Starts one with its own defaults, for the users `postgres` and `app`, and waits until it
    /// listens.
    ///
    /// # Panics
    ///
    /// When it is not installed, or does not listen in half a minute.
    pub fn start(postgres: &Postgres, mode: PoolMode) -> Self {
        Self::with(postgres, mode, &[])
    }

    /// The same with settings, such as `("default_pool_size", "1")`.
    ///
    /// # Panics
    ///
    /// As [`PgBouncer::start`].
    pub fn with(postgres: &Postgres, mode: PoolMode, settings: &[(&str, &str)]) -> Self {
        let directory = TempDir::new("pgbouncer");
        let path = directory.path();
        let user = user_for_servers();
        if let Some(user) = user {
            user.owns(path);
        }
        let port = free_port();
        let mode = match mode {
            PoolMode::Session => "session",
            PoolMode::Transaction => "transaction",
        };
        let write = |name: &str, text: String| {
            let file = path.join(name);
            fs::write(&file, text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        };
        write("users", "\"postgres\" \"\"\n\"app\" \"\"\n".to_owned());
        let settings = settings
            .iter()
            .map(|(name, value)| format!("{name} = {value}\n"));
        write(
            "pgbouncer.ini",
            format!(
                "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
                 listen_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = users\n\
                 max_client_conn = 1000\npool_mode = {mode}\n{}",
                postgres.port(),
                settings.collect::<String>()
            ),
        );
        let command = vec![program(), "pgbouncer.ini".into()];
        let process = Process::start_in(path, user, command);
        wait_until(
            "a pooler that listens",
            READY,
            || match TcpStream::connect(("127.0.0.1", port)) {
                Ok(_) => Ok(()),
                Err(error) => Err(format!("{error}; its log ends:\n{}", process.log_tail())),
            },
        );
        Self {
            process,
            port,
            _directory: directory,
        }
    }

    /// `postgres://postgres@127.0.0.1:port/postgres`
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Its one process.
    pub fn process(&self) -> &Process {
        &self.process
    }
}

fn program() -> OsString {
    if let Some(named) = std::env::var_os(VARIABLE) {
        return named;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut in_path = std::env::split_paths(&path).map(|it| it.join("pgbouncer"));
    let found = in_path.find(|program| program.is_file());
    found.map_or_else(
        || {
            assert!(
                Path::new(SYSTEM).is_file(),
                "pgbouncer is neither in PATH nor {SYSTEM}. `cargo xtask test` installs it; so does \
                 `apt-get install pgbouncer`; or name it in {VARIABLE}"
            );
            SYSTEM.into()
        },
        Into::into,
    )
}
