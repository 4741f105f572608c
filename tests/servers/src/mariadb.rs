//! One MariaDB server.

mod programs;
mod replica;
mod template;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::certificates::{HERE, write_certificates};
use crate::process::Process;
use crate::support::{TempDir, free_port, run, wait_until};

use programs::{client, is_root, server};
use template::Template;

const READY: Duration = Duration::from_secs(60);
/// How long statements may take. A paused server answers nothing.
const ANSWER: Duration = Duration::from_secs(30);
/// How often a port is taken by somebody else before we give up.
const ATTEMPTS: usize = 10;

/// A server with a port, a directory and a process of its own.
#[derive(Debug)]
pub struct MariaDb {
    // Dropped in this order: the process is gone before its directory is.
    process: Process,
    port: u16,
    login: Option<(String, String)>,
    directory: TempDir,
}

/// What a server starts with.
#[derive(Clone, Debug, Default)]
pub struct MariaDbBuilder {
    settings: Vec<(String, String)>,
    login: Option<(String, String)>,
    /// Whom its certificate is for, where it has one.
    certificate: Option<&'static [&'static str]>,
}

impl MariaDbBuilder {
    /// Adds an option, which comes after the others and overrides them: `("max-connections", "20")`.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Creates a login with all rights on the database `shop`, which [`MariaDb::url`] names then.
    pub fn login(mut self, user: &str, password: &str) -> Self {
        self.login = Some((user.to_owned(), password.to_owned()));
        self
    }

    /// Offers TLS, with a certificate for 127.0.0.1. See [`MariaDb::certificate`].
    pub fn tls(self) -> Self {
        self.tls_for(HERE)
    }

    /// The same with a certificate for these names.
    pub fn tls_for(mut self, names: &'static [&'static str]) -> Self {
        self.certificate = Some(names);
        self
    }

    /// Starts it and waits until it answers.
    ///
    /// # Panics
    ///
    /// When it is not installed, ends, or does not answer in a minute.
    pub fn start(self) -> MariaDb {
        let server = self.start_from(|directory| Template::get().unpack(directory.path()));
        server.sql_of("mysql", "CREATE DATABASE IF NOT EXISTS shop");
        if let Some((user, password)) = &self.login {
            let [user, password] = [user, password].map(|it| it.replace('\'', "''"));
            server.sql(&format!(
                "CREATE USER '{user}'@'127.0.0.1' IDENTIFIED BY '{password}'; \
                 GRANT ALL ON shop.* TO '{user}'@'127.0.0.1'"
            ));
        }
        server
    }

    fn start_from(&self, fill: impl Fn(&TempDir)) -> MariaDb {
        for _ in 0..ATTEMPTS {
            let directory = TempDir::new("mariadb");
            fill(&directory);
            let path = directory.path();
            let port = free_port();
            let mut command = vec![
                server().into_os_string(),
                "--no-defaults".into(),
                format!("--datadir={}", path.join("data").display()).into(),
                format!("--socket={}", path.join("socket").display()).into(),
                format!("--pid-file={}", path.join("pid").display()).into(),
                // A server that starts deletes what other servers have in a directory that they share.
                format!("--tmpdir={}", path.display()).into(),
                format!("--port={port}").into(),
                "--bind-address=127.0.0.1".into(),
                "--skip-name-resolve".into(),
                // Small: many servers run at once.
                "--innodb-log-file-size=8M".into(),
                "--innodb-buffer-pool-size=32M".into(),
            ];
            if is_root() {
                command.push("--user=root".into());
            }
            if let Some(names) = self.certificate {
                write_certificates(path, names);
                for (option, file) in [
                    ("ssl-ca", "ca.pem"),
                    ("ssl-cert", "server.pem"),
                    ("ssl-key", "server.key"),
                ] {
                    let file = path.join(file);
                    command.push(format!("--{option}={}", file.display()).into());
                }
            }
            let settings = self.settings.iter();
            command.extend(settings.map(|(name, value)| format!("--{name}={value}").into()));
            let server = MariaDb {
                process: Process::start_in(path, None, command),
                port,
                login: self.login.clone(),
                directory,
            };
            if server.becomes_ready() {
                return server;
            }
            let log = server.process.log_tail();
            assert!(
                log.contains("Address already in use"),
                "the server ended; its log ends:\n{log}"
            );
        }
        panic!("somebody else took each of {ATTEMPTS} ports that were free before");
    }
}

impl MariaDb {
    /// Starts a server with its own defaults, and an empty database `shop`.
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// For all that can be chosen.
    pub fn builder() -> MariaDbBuilder {
        MariaDbBuilder::default()
    }

    /// `mysql://root@127.0.0.1:port/shop`, or with the user and password of the login.
    pub fn url(&self) -> String {
        let login = match &self.login {
            Some((user, password)) => format!(
                "{}:{}",
                crate::support::escaped(user),
                crate::support::escaped(password)
            ),
            None => "root".to_owned(),
        };
        format!("mysql://{login}@127.0.0.1:{}/shop", self.port)
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A file beside its certificate, of a server that offers TLS: its authority's certificate `ca.pem`, or
    /// `client.pem` and `client.key` of a client that this authority vouches for.
    pub fn certificate(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Runs statements as the user `root` in the database `shop`, around the port and the login. Gives a
    /// line for each row, without names, with a tab between values.
    ///
    /// # Panics
    ///
    /// With the error when there is one, or no answer within half a minute.
    #[track_caller]
    pub fn sql(&self, sql: &str) -> String {
        self.sql_of("shop", sql)
    }

    #[track_caller]
    fn sql_of(&self, database: &str, sql: &str) -> String {
        self.try_sql_of(database, sql)
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// The same, whether it succeeds or not.
    pub fn try_sql(&self, sql: &str) -> Result<String, String> {
        self.try_sql_of("shop", sql)
    }

    fn try_sql_of(&self, database: &str, sql: &str) -> Result<String, String> {
        let mut command = self.client_command("mariadb");
        command.args(["--batch", "--skip-column-names", database]);
        let output = run(&mut command, sql.as_bytes(), ANSWER)?;
        let text = String::from_utf8_lossy(&output);
        Ok(text.strip_suffix('\n').unwrap_or(&text).to_owned())
    }

    /// A client that connects as the user `root`: `mariadb`, which reads statements from its input, for a
    /// connection that is to stay open, say.
    pub fn client_command(&self, program: &str) -> Command {
        let mut command = Command::new(client(program));
        command.args(["--no-defaults", "--user=root"]).arg(format!(
            "--socket={}",
            self.directory.path().join("socket").display()
        ));
        command
    }

    /// Stops it where it stands: see [`Process::pause`].
    pub fn pause(&self) {
        self.process.pause();
    }

    /// See [`Process::resume`].
    pub fn resume(&self) {
        self.process.resume();
    }

    /// Ends it at once: see [`Process::kill`].
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Asks it to end, which takes its clients' connections, and waits until it is gone. See
    /// [`Process::stop`].
    pub fn stop(&self) {
        self.process.stop();
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

    /// Waits until it answers; `false` when it ends.
    fn becomes_ready(&self) -> bool {
        wait_until("a server that answers SELECT 1", READY, || {
            if !self.process.is_alive() {
                return Ok(false);
            }
            let seen = match self.try_sql_of("mysql", "SELECT 1") {
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
