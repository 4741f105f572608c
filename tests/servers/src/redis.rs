//! One server: plain, with TLS, or as a part of a cluster or of a group with sentinels.

mod cluster;
mod flavor;
mod sentinel;

use std::fs;
use std::io;
use std::time::Duration;

use crate::certificates::{HERE, write_certificates};
use crate::console::{Console, Reply};
use crate::process::Process;
use crate::support::{TempDir, free_port, wait_until};

pub use cluster::RedisCluster;
pub use flavor::{Flavor, redis_server_program};
pub use sentinel::RedisSentinel;

const READY: Duration = Duration::from_secs(20);
/// How often a port is taken by somebody else before we give up.
const ATTEMPTS: usize = 10;

/// A server with a port, a directory and a process of its own.
#[derive(Debug)]
pub struct Redis {
    // Dropped in this order: the program is gone before its directory is.
    process: Process,
    port: u16,
    bus_port: Option<u16>,
    ca_pem: Option<Vec<u8>>,
    login: Option<(String, String)>,
    directory: TempDir,
}

/// What a server starts with.
#[derive(Debug)]
pub struct RedisBuilder {
    flavor: Flavor,
    args: Vec<String>,
    tls: bool,
    login: Option<(String, String)>,
    part: Part,
}

#[derive(Debug)]
enum Part {
    Server,
    ClusterNode,
    /// With the lines of its configuration. The program rewrites the file.
    Sentinel(String),
}

impl RedisBuilder {
    /// Redis unless told otherwise.
    pub fn flavor(mut self, flavor: Flavor) -> Self {
        self.flavor = flavor;
        self
    }

    /// Adds arguments, which come after the defaults and override them:
    /// `["--appendonly", "yes"]`.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// Listens with TLS alone. See [`Redis::ca_pem`].
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Whom [`Redis::console`] and the wait for the server log in as. The arguments must create
    /// the user. A `--requirepass` among the arguments needs no login here.
    pub fn login(mut self, user: &str, password: &str) -> Self {
        self.login = Some((user.to_owned(), password.to_owned()));
        self
    }

    fn part(mut self, part: Part) -> Self {
        self.part = part;
        self
    }

    /// Starts it and waits until it answers.
    ///
    /// # Panics
    ///
    /// When it is not installed, ends, or does not answer in 20 seconds.
    pub fn start(mut self) -> Redis {
        if self.login.is_none()
            && let Some(at) = self.args.iter().position(|arg| arg == "--requirepass")
        {
            let password = self.args.get(at + 1).cloned().unwrap_or_default();
            self.login = Some(("default".to_owned(), password));
        }
        for _ in 0..ATTEMPTS {
            let redis = self.attempt();
            if redis.becomes_ready() {
                return redis;
            }
            let log = redis.process.log_tail();
            assert!(
                log.contains("Address already in use"),
                "the server ended; its log ends:\n{log}"
            );
        }
        panic!("somebody else took each of {ATTEMPTS} ports that were free before");
    }

    fn attempt(&self) -> Redis {
        let directory = TempDir::new("redis");
        let path = directory.path().display().to_string();
        let port = free_port();
        let mut args: Vec<String> = Vec::new();
        let mut add = |words: &[&str]| args.extend(words.iter().map(|word| (*word).to_owned()));

        if let Part::Sentinel(lines) = &self.part {
            let file = format!("{path}/sentinel.conf");
            fs::write(&file, lines).unwrap_or_else(|error| panic!("{file}: {error}"));
            add(&[&file, "--sentinel"]);
        }
        add(&["--bind", "127.0.0.1", "--protected-mode", "no"]);
        add(&["--save", "", "--appendonly", "no", "--daemonize", "no"]);
        // Consoles need neither the port nor TLS, and find nobody else's server.
        add(&["--dir", &path, "--unixsocket", &format!("{path}/socket")]);

        let ca_pem = self.tls.then(|| write_certificates(directory.path(), HERE));
        if self.tls {
            add(&["--port", "0", "--tls-port", &port.to_string()]);
            add(&["--tls-auth-clients", "no"]);
            add(&["--tls-ca-cert-file", &format!("{path}/ca.pem")]);
            add(&["--tls-cert-file", &format!("{path}/server.pem")]);
            add(&["--tls-key-file", &format!("{path}/server.key")]);
        } else {
            add(&["--port", &port.to_string()]);
        }

        let bus_port = matches!(self.part, Part::ClusterNode).then(free_port);
        if let Some(bus_port) = bus_port {
            add(&["--cluster-enabled", "yes"]);
            add(&["--cluster-port", &bus_port.to_string()]);
        }

        args.extend(self.args.iter().cloned());
        let log = directory.path().join("log");
        Redis {
            process: Process::start(self.flavor.program(), args, log),
            port,
            bus_port,
            ca_pem,
            login: self.login.clone(),
            directory,
        }
    }
}

impl Redis {
    /// Starts a server that keeps nothing on disk.
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// Starts a server with more arguments. See [`RedisBuilder::args`].
    pub fn with(args: &[&str]) -> Self {
        Self::builder().args(args).start()
    }

    /// Starts a server that listens with TLS alone and asks clients for no certificate.
    pub fn start_tls() -> Self {
        Self::builder().tls().start()
    }

    /// For all that can be chosen.
    pub fn builder() -> RedisBuilder {
        RedisBuilder {
            flavor: Flavor::Redis,
            args: Vec::new(),
            tls: false,
            login: None,
            part: Part::Server,
        }
    }

    /// `redis://127.0.0.1:port`, or `rediss://` with TLS. Without a user and password.
    pub fn url(&self) -> String {
        let scheme = if self.ca_pem.is_some() {
            "rediss"
        } else {
            "redis"
        };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// The port it listens on, with TLS if it has that.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The certificate to trust, which signed the server's.
    ///
    /// # Panics
    ///
    /// When the server has no TLS.
    pub fn ca_pem(&self) -> Vec<u8> {
        self.ca_pem.clone().expect("a server with TLS")
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// A new connection, logged in, that goes around the port and TLS.
    ///
    /// # Panics
    ///
    /// When the server does not answer.
    #[track_caller]
    pub fn console(&self) -> Console {
        self.try_console().unwrap_or_else(|error| {
            let log = self.process.log_tail();
            panic!(
                "no console of {}: {error}; its log ends:\n{log}",
                self.url()
            )
        })
    }

    /// A new connection, unless the server is down.
    pub fn try_console(&self) -> io::Result<Console> {
        let mut console = Console::connect_unix(&self.directory.path().join("socket"))?;
        if let Some((user, password)) = &self.login
            && let Reply::Error(error) = console.try_call(&["AUTH", user, password])?
        {
            return Err(io::Error::other(error));
        }
        Ok(console)
    }

    /// See [`Process::pause`].
    pub fn pause(&self) {
        self.process.pause();
    }

    /// See [`Process::resume`].
    pub fn resume(&self) {
        self.process.resume();
    }

    /// See [`Process::kill`].
    pub fn kill(&self) {
        self.process.kill();
    }

    /// See [`Process::stop`].
    pub fn stop(&self) {
        self.process.stop();
    }

    /// Starts it again with the same port, directory and arguments, and waits until it answers.
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

    /// One command on a connection of its own, for waits: an error is what is seen so far.
    fn ask(&self, words: &[&str]) -> Result<Reply, String> {
        let reply = self.try_console().and_then(|mut it| it.try_call(words));
        match reply {
            Ok(Reply::Error(error)) => Err(error),
            Ok(reply) => Ok(reply),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Waits until it answers; `false` when it ends.
    fn becomes_ready(&self) -> bool {
        wait_until("a server that answers PING", READY, || {
            if !self.process.is_alive() {
                return Ok(false);
            }
            let seen = match self.ask(&["PING"]) {
                Ok(Reply::Status(status)) if status == "PONG" => return Ok(true),
                Ok(other) => format!("{other:?}"),
                Err(error) => error,
            };
            Err(format!(
                "{seen}; its log ends:\n{}",
                self.process.log_tail()
            ))
        })
    }
}

/// `127.0.0.1:P1,127.0.0.1:P2`
fn addresses(servers: &[Redis]) -> String {
    let address = |server: &Redis| format!("127.0.0.1:{}", server.port);
    servers.iter().map(address).collect::<Vec<_>>().join(",")
}
