//! Settings of the store.

use std::fmt;
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::{RetryConfig, RetryPartition, TokenBucket};
use aws_sdk_dynamodb::config::timeout::{TimeoutConfig, TimeoutConfigBuilder};
use aws_sdk_dynamodb::config::{Config, Region};
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;

use super::calls::Calls;
use super::clock::Clock;
use super::lanes::{Bounds, Lanes};
use super::store::DynamoDbStore;
use super::table::TableOptions;
use super::url::{self, MAX_TIMEOUT, MIN_TIMEOUT, Target, bad};
use super::witness::NothingTwiceUnseen;
use super::{checks, table};
use crate::ConnectError;

/// How often the SDK sends a request at most.
const ATTEMPTS: u32 = 4;

/// The SDK's first pause before it sends a request again; drawn from zero to this, doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

impl DynamoDbStore {
    /// Starts a store from a URL; see [`connect`](crate::connect()) for what it can say. The region, where
    /// the URL does not say it, and the credentials come from the SDK's usual places: variables, profiles,
    /// web identity, containers, instances. (Not: SSO logins and credential processes. A
    /// [client](Self::with_client) can have them.)
    ///
    /// # Errors
    /// When the URL is malformed. No message repeats it.
    pub fn builder(url: &str) -> Result<DynamoDbStoreBuilder, ConnectError> {
        let (target, options) = url::parse(url)?;
        Ok(DynamoDbStoreBuilder {
            source: Source::Chain(target),
            bounds: options.bounds,
            timeout: options.timeout,
        })
    }

    /// Starts a store from a client of the application's, and the table's name. Credentials, region, endpoint,
    /// HTTP client, interceptors and time source are the client's; timeouts and retries are the store's.
    ///
    /// # Errors
    /// When no table can have this name.
    pub fn with_client(client: &Client, table: &str) -> Result<DynamoDbStoreBuilder, ConnectError> {
        Ok(DynamoDbStoreBuilder {
            source: Source::Client(
                Box::new(client.config().clone()),
                url::checked_table(table)?,
            ),
            bounds: Bounds::default(),
            timeout: url::DEFAULT_TIMEOUT,
        })
    }

    /// Connects to what the URL names.
    ///
    /// # Errors
    /// As [`DynamoDbStore::builder`] and [`DynamoDbStoreBuilder::connect`].
    pub async fn connect(url: &str) -> Result<Self, ConnectError> {
        Self::builder(url)?.connect().await
    }
}

#[derive(Clone)]
enum Source {
    Chain(Target),
    Client(Box<Config>, String),
}

/// Settings of a [`DynamoDbStore`].
#[derive(Clone)]
#[must_use]
pub struct DynamoDbStoreBuilder {
    source: Source,
    bounds: Bounds,
    timeout: Duration,
}

impl DynamoDbStoreBuilder {
    /// The timeout of a call, with all its tries and pauses; 2 seconds unless given, from 50 milliseconds
    /// to a minute. The SDK sends a request up to four times within it: after a pause where the service throttles,
    /// and after half of it where the end of an attempt has no answer.
    ///
    /// Keep it below half of the engine's store timeout, which leaves time for a second try, and
    /// below a third of the shortest lease.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.clamp(MIN_TIMEOUT, MAX_TIMEOUT);
        self
    }

    /// How many claims and inspections are under way at once; 128 unless given, 1 at least. Each has an
    /// HTTP connection. Calls of lease holders are not counted, and do not wait for them.
    pub fn max_claims(mut self, claims: usize) -> Self {
        self.bounds.claims = claims.max(1);
        self
    }

    /// How many more may wait in a queue; 4096 unless given. When the queue is full, the next call fails
    /// at once with [`StoreError::Overloaded`](idem_core::StoreError::Overloaded). A call that has waited
    /// for half of the timeout fails with
    /// [`StoreError::NotSent`](idem_core::StoreError::NotSent).
    pub fn max_waiting(mut self, waiting: usize) -> Self {
        self.bounds.waiting = waiting;
        self
    }

    /// Connects, reads the service's clock, and tries each right that the store needs with a call that
    /// changes nothing: it costs 4 write units and a read unit. Warns where the table's TTL is off, if the
    /// login may ask.
    ///
    /// # Errors
    /// [`ConnectError::Store`] when the service cannot be reached, refuses the login or one of the calls,
    /// or its answers have no `Date`; [`ConnectError::Unfit`] when there is no such table;
    /// [`ConnectError::BadOption`] when nothing says the region.
    pub async fn connect(self) -> Result<DynamoDbStore, ConnectError> {
        let calls = Box::pin(self.calls()).await?;
        Box::pin(checks::run(&calls)).await?;
        Ok(DynamoDbStore::new(calls))
    }

    /// As [`connect`](Self::connect), for tools beside the application: it tries no right before it is needed.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn attach(self) -> Result<DynamoDbStore, ConnectError> {
        let calls = Box::pin(self.calls()).await?;
        Box::pin(checks::look(&calls)).await?;
        Ok(DynamoDbStore::new(calls))
    }

    /// Creates the table, waits until it is there, and turns its TTL on. A table that is there already is
    /// left as it is, but for its TTL. It takes half a minute, and rights that the store itself does not
    /// need.
    ///
    /// # Errors
    /// [`ConnectError::Store`] when the service cannot be reached or refuses it, and when the table is not
    /// there after two minutes; [`ConnectError::BadOption`] when nothing says the region.
    pub async fn create_table(&self, options: TableOptions) -> Result<(), ConnectError> {
        let calls = Box::pin(self.calls()).await?;
        let created = Box::pin(table::create(&calls, options)).await;
        created.map_err(ConnectError::Store)
    }

    async fn calls(&self) -> Result<Calls, ConnectError> {
        let (config, table) = match &self.source {
            Source::Client(config, table) => (Config::clone(config), table.clone()),
            Source::Chain(target) => (loaded(target).await?, target.table.clone()),
        };
        let retries = RetryConfig::standard()
            .with_max_attempts(ATTEMPTS)
            .with_initial_backoff(FIRST_PAUSE)
            .with_max_backoff(self.timeout / 4);
        let timeouts = TimeoutConfig::builder()
            .operation_timeout(self.timeout)
            .connect_timeout(self.timeout / 2);
        // A budget of retries for each, so that claims do not use up those of lease holders, and for each
        // store: a partition that has a name alone is the whole process's.
        let config = |partition: &'static str, timeouts: TimeoutConfigBuilder| {
            let partition = RetryPartition::custom(partition).token_bucket(TokenBucket::default());
            config
                .to_builder()
                .retry_config(retries.clone())
                .timeout_config(timeouts.build())
                .retry_partition(partition.build())
        };
        let claims = config("idem claims", timeouts.clone()).retry_classifier(NothingTwiceUnseen);
        let timeouts = timeouts.operation_attempt_timeout(self.timeout / 2);
        let holders = config("idem lease holders", timeouts);
        Ok(Calls {
            claims: Client::from_conf(claims.build()),
            holders: Client::from_conf(holders.build()),
            table,
            timeout: self.timeout,
            clock: Clock::default(),
            lanes: Lanes::new(self.bounds, self.timeout),
        })
    }
}

async fn loaded(target: &Target) -> Result<Config, ConnectError> {
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .build_https();
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12()).http_client(http);
    if let Some(region) = &target.region {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(endpoint) = &target.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    let config = loader.load().await;
    if config.region().is_none() {
        return Err(bad(
            "nothing says the region; add ?region=… or set AWS_REGION",
        ));
    }
    Ok(Config::new(&config))
}

impl fmt::Debug for DynamoDbStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamoDbStoreBuilder")
            .field("bounds", &self.bounds)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
