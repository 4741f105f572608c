//! One PostgreSQL server.

mod programs;
mod standby;
mod template;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::process::Process;
use crate::support::{TempDir, escaped, free_port, run, wait_until};

use programs::Programs;
use template::Template;

const READY: Duration = Duration::from_secs(30);
/// How long statements may take. A paused server answers nothing.
const ANSWER: Duration = Duration::from_secs(30);
/// How often a port is taken by somebody else before we give up.
const ATTEMPTS: usize = 10;

/// Whom servers run as that refuse to run as root.
pub(crate) fn user_for_servers() -> Option<crate::support::User> {
    Programs::installed().user
}

/// A server with a port, a directory and processes of its own.
#[derive(Debug)]
pub struct Postgres {
    // Dropped in this order: the processes are gone before their directory is.
    process: Process,
    programs: Programs,
    port: u16,
    login: Option<(String, String)>,
    directory: TempDir,
}

/// A copy of a server's files.
#[derive(Debug)]
pub struct Backup(TempDir);

/// What a server starts with.
#[derive(Debug)]
pub struct PostgresBuilder {
    settings: Vec<(String, String)>,
    login: Option<(String, String)>,
}

impl PostgresBuilder {
    /// Adds a line to `postgresql.conf`, which comes after the defaults and overrides them:
    /// `("fsync", "off")`.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Creates a superuser and lets nobody in at the port without a password (SCRAM).
    pub fn login(mut self, user: &str, password: &str) -> Self {
        self.login = Some((user.to_owned(), password.to_owned()));
        self
    }

    /// Starts it and waits until it answers.
    ///
    /// # Panics
    ///
    /// When it is not installed, ends, or does not answer in half a minute.
    pub fn start(self) -> Postgres {
        let postgres = Postgres::started(|| self.attempt());
        postgres.create_login();
        postgres
    }

    fn attempt(&self) -> Postgres {
        let programs = Programs::installed();
        let template = Template::get(&programs);
        let directory = TempDir::new("postgres");
        let path = directory.path();
        if let Some(user) = programs.user {
            user.owns(path);
        }
        template.unpack(&programs, path);

        let port = free_port();
        let mut settings = vec![
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("port", port.to_string()),
            // Quoted: a comma would end it.
            ("unix_socket_directories", format!("\"{}\"", path.display())),
            // A server that is killed leaves it behind: better in its directory than in /dev/shm.
            ("dynamic_shared_memory_type", "mmap".to_owned()),
        ];
        if template.counts_statements {
            settings.push(("shared_preload_libraries", "pg_stat_statements".to_owned()));
        }
        let own = self.settings.iter();
        settings.extend(own.map(|(name, value)| (name.as_str(), value.clone())));
        let lines = settings.iter().map(|(name, value)| {
            let value = value.replace('\\', r"\\").replace('\'', "''");
            format!("{name} = '{value}'\n")
        });
        append_settings(path, &lines.collect::<String>());
        if self.login.is_some() {
            let rules = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n";
            let file = path.join("data/pg_hba.conf");
            fs::write(&file, rules).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        }

        let postmaster = programs.path("postgres").into();
        let command = vec![postmaster, "-D".into(), "data".into()];
        Postgres {
            process: Process::start_in(path, programs.user, command),
            programs,
            port,
            login: self.login.clone(),
            directory,
        }
    }
}

impl Postgres {
    /// Starts a server with the defaults of PostgreSQL itself, which trusts everybody. It has the
    /// extension `pg_stat_statements` where that is installed.
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// For all that can be chosen.
    pub fn builder() -> PostgresBuilder {
        PostgresBuilder {
            settings: Vec::new(),
            login: None,
        }
    }

    /// `postgres://postgres@127.0.0.1:port/postgres`, or with the user and password of the login.
    pub fn url(&self) -> String {
        let login = match &self.login {
            Some((user, password)) => format!("{}:{}", escaped(user), escaped(password)),
            None => "postgres".to_owned(),
        };
        format!("postgres://{login}@127.0.0.1:{}/postgres", self.port)
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its first process, the parent of all others.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Runs statements as the user `postgres`, around the port and the login, each in a
    /// transaction of its own unless they say otherwise. Gives a line for each row, without
    /// names, with `|` between values.
    ///
    /// # Panics
    ///
    /// With the error when there is one, or no answer within half a minute.
    #[track_caller]
    pub fn psql(&self, sql: &str) -> String {
        self.try_psql(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// See [`Postgres::psql`]. Gives the error instead: that of the first statement that has one,
    /// which is the last that runs.
    pub fn try_psql(&self, sql: &str) -> Result<String, String> {
        let output = run(&mut self.psql_command(), sql.as_bytes(), ANSWER)?;
        let text = String::from_utf8_lossy(&output);
        Ok(text.strip_suffix('\n').unwrap_or(&text).to_owned())
    }

    /// The client that [`Postgres::psql`] runs, which reads statements from its input, for a
    /// connection that is to stay open.
    pub fn psql_command(&self) -> Command {
        let mut command = self.client("psql");
        command
            .args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only"])
            .args(["--no-password", "--set", "ON_ERROR_STOP=1"])
            .args(["--username", "postgres", "--dbname", "postgres"])
            .args(["--port", &self.port.to_string(), "--host"])
            .arg(self.directory.path());
        command
    }

    /// The server's own benchmark, which connects to the port as the user `postgres`.
    pub fn pgbench_command(&self) -> Command {
        let mut command = self.client("pgbench");
        command
            .args(["--username", "postgres", "--host", "127.0.0.1"])
            .args(["--port", &self.port.to_string()]);
        command
    }

    fn client(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.client(name));
        // What is set for somebody else's server.
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"PG") {
                command.env_remove(name);
            }
        }
        command
    }

    /// Stops it where it stands, with the processes that serve connections: see
    /// [`Process::pause`].
    pub fn pause(&self) {
        self.process.pause();
    }

    /// See [`Process::resume`].
    pub fn resume(&self) {
        self.process.resume();
    }

    /// Ends all its processes at once: see [`Process::kill`].
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Asks it to end, which takes its clients' connections (SIGINT, a "fast shutdown"), and
    /// waits until it is gone. See [`Process::stop`].
    pub fn stop(&self) {
        self.process.interrupt();
    }

    /// Starts it again with the same port, directory and settings, and waits until it answers.
    /// If it runs, it is stopped before.
    pub fn restart(&self) {
        self.stop();
        self.process.restart();
        assert!(
            self.becomes_ready(),
            "the server did not come back; its log ends:\n{}",
            self.process.log_tail()
        );
    }

    /// A copy of its files as they are now, for which it is stopped and started.
    ///
    /// # Panics
    ///
    /// When they cannot be copied, or it does not come back.
    pub fn backup(&self) -> Backup {
        self.stop();
        let backup = Backup(TempDir::new("backup"));
        self.copy(
            &self.directory.path().join("data"),
            &backup.0.path().join("data"),
        );
        self.restart();
        backup
    }

    /// Ends it at once, and starts it with the files of a copy: what was written since is
    /// forgotten.
    ///
    /// # Panics
    ///
    /// As [`Postgres::backup`].
    pub fn restore(&self, backup: &Backup) {
        self.kill();
        let data = self.directory.path().join("data");
        fs::remove_dir_all(&data).unwrap_or_else(|error| panic!("{}: {error}", data.display()));
        self.copy(&backup.0.path().join("data"), &data);
        self.restart();
    }

    fn copy(&self, from: &Path, to: &Path) {
        // Owners and rights as well: a server refuses files that others can read.
        let mut copy = Command::new("cp");
        run(copy.arg("-a").arg(from).arg(to), &[], READY)
            .unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    }

    fn create_login(&self) {
        let Some((user, password)) = &self.login else {
            return;
        };
        let verb = if user == "postgres" {
            "ALTER"
        } else {
            "CREATE"
        };
        let [user, password] = [user.replace('"', "\"\""), password.replace('\'', "''")];
        self.psql(&format!(
            "{verb} ROLE \"{user}\" SUPERUSER LOGIN PASSWORD '{password}'"
        ));
    }

    fn started(attempt: impl Fn() -> Self) -> Self {
        for _ in 0..ATTEMPTS {
            let postgres = attempt();
            if postgres.becomes_ready() {
                return postgres;
            }
            let log = postgres.process.log_tail();
            assert!(
                log.contains("Address already in use"),
                "the server ended; its log ends:\n{log}"
            );
        }
        panic!("somebody else took each of {ATTEMPTS} ports that were free before");
    }

    /// Waits until it answers; `false` when it ends.
    fn becomes_ready(&self) -> bool {
        wait_until("a server that answers SELECT 1", READY, || {
            if !self.process.is_alive() {
                return Ok(false);
            }
            let seen = match self.try_psql("SELECT 1") {
                Ok(row) if row == "1" => return Ok(true),
                Ok(other) => other,
                Err(error) => error,
            };
            Err(format!(
                "{seen}; its log ends:\n{}",
                self.process.log_tail()
            ))
        })
    }
}

/// Not arguments, so that ALTER SYSTEM can override them.
fn append_settings(directory: &Path, lines: &str) {
    let file = directory.join("data/postgresql.conf");
    OpenOptions::new()
        .append(true)
        .open(&file)
        .and_then(|mut file| file.write_all(lines.as_bytes()))
        .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}
