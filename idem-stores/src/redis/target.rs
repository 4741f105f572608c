//! What a URL names, and how a connection to it is opened. The one place that holds
//! credentials.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClientBuilder;
use redis::io::tcp::TcpSettings;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
    ProtocolVersion, RedisError, Value, cmd,
};

use super::connection::{Connection, Opened, Pushes};
use super::durability::Durability;
use super::lanes::Bounds;
use super::whereabouts::{Found, Whereabouts};
use crate::ConnectError;

/// How long one server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The shortest command timeout: below it a healthy server is taken for a dead one.
pub(super) const SHORTEST_TIMEOUT: Duration = Duration::from_millis(10);

/// The longest: a day. Clocks cannot count much further than sums of the longest durations.
pub(super) const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// How long what was sent may stay without a sign of its arrival; then the kernel gives the
/// connection up, and nothing of it arrives any more.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(5);

/// How many calls are written at once where so many wait, and up to how many bytes.
const CALLS_IN_ONE_WRITE: usize = 256;
const BYTES_IN_ONE_WRITE: usize = 64 * 1024;

const SENTINEL_PORT: u16 = 26379;

/// A server, a cluster, or a primary that sentinels know; and how to log in there.
pub(super) struct Target {
    kind: Kind,
    /// The servers, the cluster's first nodes, or the sentinels; each with the login, the
    /// database and the encryption of the URL.
    nodes: Vec<ConnectionInfo>,
    #[cfg(feature = "redis-tls")]
    tls: bool,
    pub(super) sentinel_login: Option<(String, String)>,
    #[cfg(feature = "redis-tls")]
    pub(super) certificates: redis::TlsCertificates,
    pub(super) command_timeout: Duration,
    pub(super) whereabouts: Whereabouts,
}

enum Kind {
    Single,
    Cluster,
    Sentinel { master: String },
}

/// The options of a URL that are not the target's.
#[derive(Default)]
pub(super) struct UrlOptions {
    pub(super) prefix: Option<String>,
    pub(super) bounds: Bounds,
    pub(super) durability: Durability,
}

fn bad(expected: &'static str) -> ConnectError {
    ConnectError::BadOption {
        scheme: "redis",
        expected,
    }
}

impl Target {
    /// Reads `scheme://[user[:password]@]host[:port][,host[:port]…][/database][?option=value&…]`.
    pub(super) fn parse(url: &str) -> Result<(Self, UrlOptions), ConnectError> {
        let (scheme, rest) = url.split_once("://").ok_or(ConnectError::NotAUrl)?;
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = place.split_once('/').unwrap_or((place, ""));
        let (login, hosts) = authority
            .rsplit_once('@')
            .map_or(("", authority), |(login, hosts)| (login, hosts));

        let mut options = UrlOptions::default();
        let mut command_timeout = Duration::from_secs(2);
        let mut master = None;
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let value = decoded(value)?;
            match name {
                "prefix" => options.prefix = Some(value),
                "timeout" => {
                    command_timeout = humantime::parse_duration(&value)
                        .ok()
                        .filter(|timeout| *timeout >= SHORTEST_TIMEOUT)
                        .ok_or(bad(
                            "timeout is a duration such as 2s or 500ms, 10ms at least",
                        ))?;
                }
                "max_claims" => {
                    options.bounds.claims = match whole_number(&value)? {
                        0 => return Err(bad("max_claims is 1 at least")),
                        claims => claims,
                    };
                }
                "max_waiting" => options.bounds.waiting = whole_number(&value)?,
                "wait_replicas" => options.durability.replicas = whole_number(&value)?,
                "wait_aof" => options.durability.files = Some(whole_number(&value)?),
                "master" => master = Some(value),
                _ => {
                    return Err(bad(
                        "the options are prefix, timeout, max_claims, max_waiting, wait_replicas, wait_aof and, with sentinels, master",
                    ));
                }
            }
        }

        if url.contains('#') {
            return Err(bad("a # is percent-encoded, as %23"));
        }
        let tls = scheme.starts_with("rediss");
        let (kind, default_port) = match scheme {
            "redis" | "rediss" => (Kind::Single, None),
            "redis-cluster" | "rediss-cluster" => (Kind::Cluster, None),
            "redis-sentinel" | "rediss-sentinel" => {
                let master = master.take().ok_or(bad(
                    "the sentinels' name of the primary is given with ?master=NAME",
                ))?;
                (Kind::Sentinel { master }, Some(SENTINEL_PORT))
            }
            _ => return Err(ConnectError::UnknownScheme),
        };
        if master.is_some() {
            return Err(bad("the option master is for redis-sentinel:// only"));
        }
        if !login.is_empty() && !login.contains(':') {
            return Err(bad(
                "a login is user:password@, or :password@ for the default user",
            ));
        }
        if hosts.is_empty() {
            return Err(bad("there is no host"));
        }
        if matches!(kind, Kind::Single) && hosts.contains(',') {
            return Err(bad(
                "redis:// has one host; several are redis-cluster:// or redis-sentinel://",
            ));
        }
        if matches!(kind, Kind::Cluster) && !database.is_empty() {
            return Err(bad("a cluster has no database numbers"));
        }
        let nodes = hosts
            .split(',')
            .map(|host| {
                let scheme = if tls { "rediss" } else { "redis" };
                let port = match default_port {
                    Some(port) if !has_port(host) => format!(":{port}"),
                    _ => String::new(),
                };
                format!("{scheme}://{login}@{host}{port}/{database}")
                    .into_connection_info()
                    .map(|node| node.set_tcp_settings(tcp_settings()))
                    .map_err(|_| {
                        bad("it is redis://[user:password@]host[:port][/database][?option=value]")
                    })
            })
            .collect::<Result<_, _>>()?;
        let target = Self {
            kind,
            nodes,
            #[cfg(feature = "redis-tls")]
            tls,
            sentinel_login: None,
            #[cfg(feature = "redis-tls")]
            certificates: redis::TlsCertificates {
                client_tls: None,
                root_cert: None,
            },
            command_timeout: command_timeout.min(LONGEST_TIMEOUT),
            whereabouts: Whereabouts::default(),
        };
        Ok((target, options))
    }

    pub(super) const fn is_cluster(&self) -> bool {
        matches!(self.kind, Kind::Cluster)
    }

    pub(super) const fn kind(&self) -> &'static str {
        match self.kind {
            Kind::Single => "standalone",
            Kind::Cluster => "cluster",
            Kind::Sentinel { .. } => "sentinel",
        }
    }

    /// Opens a connection; one that hears what the server sends unasked, where there is
    /// somebody to tell.
    pub(super) async fn connect(
        self: &Arc<Self>,
        pushes: Option<Pushes>,
    ) -> Result<Opened, RedisError> {
        let mut found = Found {
            doubts: self.whereabouts.doubts(),
            named: None,
        };
        #[cfg(feature = "redis-tls")]
        if self.tls {
            // The application's choice comes first; without any, rustls needs to be told one.
            if rustls::crypto::CryptoProvider::get_default().is_none() {
                let _ = rustls::crypto::ring::default_provider().install_default();
            }
        }
        let client = match &self.kind {
            Kind::Cluster => {
                let connection = self.connect_to_cluster(pushes).await?;
                return Ok(Opened { connection, found });
            }
            Kind::Sentinel { master } => {
                let primary = self.ask_sentinels(master).await?;
                let address = primary.get_connection_info().addr();
                self.whereabouts.name(address);
                found.named = Some(address.clone());
                primary
            }
            Kind::Single => self.client(self.first().clone())?,
        };
        let mut info = client.get_connection_info().clone();
        let mut config = untimed();
        if let Some(pushes) = pushes {
            let settings = info.redis_settings().clone();
            info = info.set_redis_settings(settings.set_protocol(ProtocolVersion::RESP3));
            config = config.set_push_sender(pushes);
        }
        let connection = Client::open(info)?
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        let connection = Connection::Single(connection, Arc::default());
        Ok(Opened { connection, found })
    }

    /// Opens a connection to every server that takes writes.
    pub(super) async fn primaries(
        self: &Arc<Self>,
    ) -> Result<Vec<MultiplexedConnection>, RedisError> {
        let mut cluster = match self.connect(None).await?.connection {
            Connection::Single(connection, _) => return Ok(vec![connection]),
            Connection::Cluster(cluster, _) => cluster,
        };
        let mut slots = cmd("CLUSTER");
        slots.arg("SLOTS");
        let slots = cluster.req_packed_command(&slots).await?.extract_error()?;
        let mut addresses = primaries_of(slots);
        addresses.sort_unstable();
        addresses.dedup();
        let mut primaries = Vec::with_capacity(addresses.len());
        for (host, port) in &addresses {
            primaries.push(self.connect_to_node(host, *port).await?);
        }
        Ok(primaries)
    }

    /// Opens a connection to one node of a cluster.
    pub(super) async fn connect_to_node(
        &self,
        host: &str,
        port: u16,
    ) -> Result<MultiplexedConnection, RedisError> {
        let first = self.first();
        let addr = match first.addr() {
            ConnectionAddr::TcpTls {
                insecure,
                tls_params,
                ..
            } => ConnectionAddr::TcpTls {
                host: host.to_owned(),
                port,
                insecure: *insecure,
                tls_params: tls_params.clone(),
            },
            _ => ConnectionAddr::Tcp(host.to_owned(), port),
        };
        let client = self.client(first.clone().set_addr(addr))?;
        client
            .get_multiplexed_async_connection_with_config(&untimed())
            .await
    }

    async fn connect_to_cluster(
        self: &Arc<Self>,
        pushes: Option<Pushes>,
    ) -> Result<Connection, RedisError> {
        let mut cluster = ClusterClientBuilder::new(self.nodes.clone())
            .connection_timeout(CONNECT_TIMEOUT)
            .response_timeout(self.command_timeout)
            .overall_response_timeout(None)
            // See `redirects`.
            .retries(0)
            .tcp_settings(tcp_settings());
        #[cfg(feature = "redis-tls")]
        if self.tls {
            cluster = cluster.certs(self.certificates.clone());
        }
        if let Some(pushes) = pushes {
            cluster = cluster
                .use_protocol(ProtocolVersion::RESP3)
                .push_sender(pushes);
        }
        let connection = cluster.build()?.get_async_connection().await?;
        Ok(Connection::Cluster(connection, Arc::clone(self)))
    }

    /// The primary of now.
    async fn ask_sentinels(&self, master: &str) -> Result<Client, RedisError> {
        let login = self.first().redis_settings();
        let addresses = self.nodes.iter().map(|node| node.addr().clone());
        let mut sentinels =
            SentinelClientBuilder::new(addresses, master, SentinelServerType::Master)?
                .set_client_to_redis_db(login.db())
                .set_client_to_redis_tcp_settings(tcp_settings())
                .set_client_to_sentinel_tcp_settings(tcp_settings());
        if let Some(username) = login.username() {
            sentinels = sentinels.set_client_to_redis_username(username);
        }
        if let Some(password) = login.password() {
            sentinels = sentinels.set_client_to_redis_password(password);
        }
        if let Some((username, password)) = &self.sentinel_login {
            sentinels = sentinels.set_client_to_sentinel_password(password);
            if !username.is_empty() {
                sentinels = sentinels.set_client_to_sentinel_username(username);
            }
        }
        #[cfg(feature = "redis-tls")]
        if self.tls {
            sentinels = sentinels
                .set_client_to_redis_tls_mode(redis::TlsMode::Secure)
                .set_client_to_redis_certificates(self.certificates.clone())
                .set_client_to_sentinel_certificates(self.certificates.clone());
        }
        sentinels.build()?.async_get_client().await
    }

    fn client(&self, info: ConnectionInfo) -> Result<Client, RedisError> {
        #[cfg(feature = "redis-tls")]
        if self.tls {
            return Client::build_with_tls(info, self.certificates.clone());
        }
        Client::open(info)
    }

    fn first(&self) -> &ConnectionInfo {
        // Made with one at least.
        &self.nodes[0]
    }
}

/// The addresses in the answer to `CLUSTER SLOTS`: of each range first its bounds, and then its
/// primary.
fn primaries_of(slots: Value) -> Vec<(String, u16)> {
    let Value::Array(ranges) = slots else {
        return Vec::new();
    };
    let primary = |range: Value| match range {
        Value::Array(range) => match range.into_iter().nth(2)? {
            Value::Array(node) => match &node[..] {
                [Value::BulkString(host), Value::Int(port), ..] => {
                    let host = String::from_utf8(host.clone()).ok()?;
                    Some((host, u16::try_from(*port).ok()?))
                }
                _ => None,
            },
            _ => None,
        },
        _ => None,
    };
    ranges.into_iter().filter_map(primary).collect()
}

fn untimed() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        // Every call is timed as a whole, the connection's opening included.
        .set_response_timeout(None)
        // Calls at once leave in one write, and reach the server in one read.
        .set_pipeline_buffer_size(CALLS_IN_ONE_WRITE)
        .set_write_backpressure_boundary(BYTES_IN_ONE_WRITE)
}

fn has_port(host: &str) -> bool {
    // The colons of an address in brackets are not the port's.
    host.rsplit(']').next().is_some_and(|end| end.contains(':'))
}

fn decoded(value: &str) -> Result<String, ConnectError> {
    percent_encoding::percent_decode_str(value)
        .decode_utf8()
        .map(Into::into)
        .map_err(|_| bad("an option's value is not UTF-8"))
}

fn whole_number<N: FromStr>(value: &str) -> Result<N, ConnectError> {
    let number = value.parse();
    number.map_err(|_| bad("max_claims, max_waiting, wait_replicas and wait_aof are whole numbers"))
}

fn tcp_settings() -> TcpSettings {
    let settings = TcpSettings::default().set_nodelay(true);
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(UNACKNOWLEDGED);
    settings
}
