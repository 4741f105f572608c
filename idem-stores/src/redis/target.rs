//! What a store connects to, and how a connection is opened. The one place that holds credentials.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{AsyncPushSender, ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::TcpSettings;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ProtocolVersion, RedisError,
    Value, cmd,
};
use tokio::time::timeout;

use super::clock::ServerClock;
use super::opening;
use super::primary::{Origin, Primary};
use super::wire::Wire;

/// How long one server may take to accept a connection.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The shortest command timeout. Below it a healthy server is taken for a dead one.
pub(super) const MIN_TIMEOUT: Duration = Duration::from_millis(10);

/// The longest: a day. Sums of much longer durations overflow clocks.
pub(super) const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// The most calls that leave in one write, and the most bytes.
const MAX_CALLS_PER_WRITE: usize = 256;
const MAX_BYTES_PER_WRITE: usize = 64 * 1024;

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
    pub(super) primary: Primary,
    pub(super) clock: ServerClock,
}

pub(super) enum Kind {
    Single,
    Cluster,
    Sentinel { master: String },
}

/// Receives what the server pushes on one connection.
pub(super) type Pushes = Arc<dyn AsyncPushSender>;

/// An open connection.
pub(super) enum DriverConnection {
    Wire(Wire),
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Target {
    /// `nodes` is not empty.
    pub(super) fn new(
        kind: Kind,
        nodes: Vec<ConnectionInfo>,
        #[cfg_attr(not(feature = "redis-tls"), allow(unused_variables))] tls: bool,
        command_timeout: Duration,
    ) -> Self {
        let with_tcp_settings = |node: ConnectionInfo| node.set_tcp_settings(tcp_settings());
        Self {
            kind,
            nodes: nodes.into_iter().map(with_tcp_settings).collect(),
            #[cfg(feature = "redis-tls")]
            tls,
            sentinel_login: None,
            #[cfg(feature = "redis-tls")]
            certificates: redis::TlsCertificates {
                client_tls: None,
                root_cert: None,
            },
            command_timeout,
            primary: Primary::default(),
            clock: ServerClock::default(),
        }
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

    /// Opens a connection. If there is a receiver, it gets what the server pushes.
    pub(super) async fn connect(
        &self,
        pushes: Option<Pushes>,
    ) -> Result<(DriverConnection, Origin), RedisError> {
        let mut origin = Origin {
            epoch: self.primary.epoch(),
            named: None,
        };
        #[cfg(feature = "redis-tls")]
        if self.tls {
            // The application's choice comes first. Without any, rustls needs one.
            if rustls::crypto::CryptoProvider::get_default().is_none() {
                let _ = rustls::crypto::ring::default_provider().install_default();
            }
        }
        if let Kind::Cluster = self.kind {
            let connection = self.connect_to_cluster(pushes).await?;
            return Ok((DriverConnection::Cluster(connection), origin));
        }
        let client = self.primary_client(&mut origin).await?;
        let mut info = client.get_connection_info().clone();
        let mut config = untimed();
        match (pushes, info.addr()) {
            (None, ConnectionAddr::Tcp(host, port)) => {
                let login = info.redis_settings();
                let wire = timeout(CONNECT_TIMEOUT, opening::open((host, *port), login)).await;
                let wire = wire.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
                return Ok((DriverConnection::Wire(wire), origin));
            }
            (None, _) => {}
            (Some(pushes), _) => {
                let settings = info.redis_settings().clone();
                info = info.set_redis_settings(settings.set_protocol(ProtocolVersion::RESP3));
                config = config.set_push_sender(pushes);
            }
        }
        let connection = Client::open(info)?
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        Ok((DriverConnection::Single(connection), origin))
    }

    /// A client of the one server that takes writes. Not for a cluster.
    async fn primary_client(&self, origin: &mut Origin) -> Result<Client, RedisError> {
        let Kind::Sentinel { master } = &self.kind else {
            return self.client(self.first().clone());
        };
        let primary = self.ask_sentinels(master).await?;
        let address = primary.get_connection_info().addr();
        self.primary.set_named(address);
        origin.named = Some(address.clone());
        Ok(primary)
    }

    /// Opens a connection to every server that takes writes.
    pub(super) async fn primaries(&self) -> Result<Vec<MultiplexedConnection>, RedisError> {
        if !self.is_cluster() {
            return Ok(vec![self.connect_to(&Node::Primary).await?]);
        }
        let mut cluster = self.connect_to_cluster(None).await?;
        let mut slots = cmd("CLUSTER");
        slots.arg("SLOTS");
        let slots = cluster.req_packed_command(&slots).await?.extract_error()?;
        let mut nodes = Node::of_slots(slots);
        nodes.sort_unstable();
        nodes.dedup();
        let mut primaries = Vec::with_capacity(nodes.len());
        for node in &nodes {
            primaries.push(self.connect_to(node).await?);
        }
        Ok(primaries)
    }

    /// Opens a connection for what is asked for seldom.
    pub(super) async fn connect_to(
        &self,
        node: &Node,
    ) -> Result<MultiplexedConnection, RedisError> {
        match node {
            Node::Primary => {
                let client = self.primary_client(&mut Origin::default()).await?;
                let config = untimed();
                client
                    .get_multiplexed_async_connection_with_config(&config)
                    .await
            }
            Node::Of { host, port } => self.connect_to_node(host, *port).await,
        }
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
        &self,
        pushes: Option<Pushes>,
    ) -> Result<ClusterConnection, RedisError> {
        let mut cluster = ClusterClientBuilder::new(self.nodes.clone())
            .connection_timeout(CONNECT_TIMEOUT)
            .response_timeout(self.command_timeout)
            .overall_response_timeout(None)
            // Redirections are followed in `redirects`.
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
        cluster.build()?.get_async_connection().await
    }

    /// Asks the sentinels for the current primary.
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
        // There is at least one.
        &self.nodes[0]
    }
}

/// A server that takes writes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Node {
    /// The only one.
    Primary,
    /// One of a cluster.
    Of { host: String, port: u16 },
}

impl Node {
    /// The primaries in the answer to `CLUSTER SLOTS`. Each range has its bounds first, and then its
    /// primary.
    pub(super) fn of_slots(slots: Value) -> Vec<Self> {
        let Value::Array(ranges) = slots else {
            return Vec::new();
        };
        let primary = |range: Value| match range {
            Value::Array(range) => match range.into_iter().nth(2)? {
                Value::Array(node) => match &node[..] {
                    [Value::BulkString(host), Value::Int(port), ..] => Some(Self::Of {
                        host: String::from_utf8(host.clone()).ok()?,
                        port: u16::try_from(*port).ok()?,
                    }),
                    _ => None,
                },
                _ => None,
            },
            _ => None,
        };
        ranges.into_iter().filter_map(primary).collect()
    }

    /// Tells nodes apart, and says nothing of their addresses.
    pub(super) fn hash(&self) -> u32 {
        match self {
            Self::Primary => 0,
            Self::Of { host, port } => crc32fast::hash(format!("{host}:{port}").as_bytes()),
        }
    }
}

fn untimed() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        // A call's time limit covers the whole call, with the opening of the connection.
        .set_response_timeout(None)
        // Concurrent calls leave in one write, and reach the server in one read.
        .set_pipeline_buffer_size(MAX_CALLS_PER_WRITE)
        .set_write_backpressure_boundary(MAX_BYTES_PER_WRITE)
}

fn tcp_settings() -> TcpSettings {
    let settings = TcpSettings::default().set_nodelay(true);
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(opening::TCP_USER_TIMEOUT);
    settings
}
