//! An engine: its store, its settings, and what its parts share.

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use tokio::time::timeout;
use tracing::Instrument;

use super::activity::Activity;
use super::cache::Cache;
use super::flight::Flights;
use super::keepers::Keepers;
use super::replays::Replays;
use super::unsettled::Unsettled;
use crate::call::Call;
use crate::error::Error;
#[cfg(feature = "http")]
use crate::http::HttpSettings;
use crate::observe::{self, Observers};
use crate::observer::{Event, EventKind, Observer};
use crate::policy::{Policy, at_most};
use crate::registry::{NameTaken, names_taken};
use crate::settings::Settings;
use crate::store::{Store, StoreError};

static INSTALLED: OnceLock<Engine> = OnceLock::new();

/// Runs operations over a store. Cheap to clone; clones share their flights.
#[derive(Clone)]
pub struct Engine {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    store: Arc<dyn Store>,
    pub(super) settings: Settings,
    pub(super) activity: Arc<Activity>,
    pub(super) keepers: Keepers,
    pub(super) flights: Arc<Flights>,
    pub(super) cache: Cache,
    pub(super) unsettled: Unsettled,
    pub(super) replays: Replays,
    pub(super) observers: Observers,
}

impl Engine {
    /// An engine over `store` with every setting at its default.
    pub fn new(store: impl Store) -> Self {
        Self::builder(store).build()
    }

    /// Starts an engine over `store`.
    pub fn builder(store: impl Store) -> EngineBuilder {
        EngineBuilder::new(Arc::new(store))
    }

    /// Makes this the engine of every operation that names no other.
    ///
    /// # Errors
    /// When one is installed already, which stays, or when two annotated functions have one
    /// operation name.
    pub fn install(self) -> Result<Self, InstallError> {
        let taken = names_taken();
        if !taken.is_empty() {
            return Err(InstallError::NamesTaken(taken));
        }
        let installed = self.clone();
        INSTALLED
            .set(self)
            .map_err(|_| InstallError::AlreadyInstalled)?;
        Ok(installed)
    }

    /// The installed engine.
    ///
    /// # Errors
    /// [`Error::NoEngine`] when none is.
    pub fn installed() -> Result<Self, Error> {
        INSTALLED.get().cloned().ok_or(Error::NoEngine)
    }

    /// The engine of one call: the one that is given, else the one that the request carries, else the
    /// installed one.
    ///
    /// # Errors
    /// [`Error::NoEngine`] when there is none.
    #[doc(hidden)]
    pub fn resolve(
        given: Option<Self>,
        carried: impl FnOnce() -> Option<Self>,
    ) -> Result<Self, Error> {
        given.or_else(carried).map_or_else(Self::installed, Ok)
    }

    /// Resolves when nothing is under way in this engine: no attempt, its stored end included, no
    /// body that runs without a key, and nothing that is settled in the background.
    ///
    /// Handlers finish when their clients have gone, too. Await this after the
    /// server has stopped taking requests and before the runtime ends; a body that is cut off
    /// there counts as crashed. While a store is away this waits for it: bound it with a timeout.
    pub async fn idle(&self) {
        self.inner.activity.idle().await;
    }

    /// The settings of the HTTP contract.
    #[cfg(feature = "http")]
    pub fn http(&self) -> &HttpSettings {
        &self.inner.settings.http
    }

    /// All settings.
    #[doc(hidden)]
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// The longest outcome that is stored, in bytes.
    pub fn max_outcome_bytes(&self) -> usize {
        self.inner.settings.max_outcome_bytes
    }

    /// Says that another attempt is running.
    #[doc(hidden)]
    pub fn in_flight(&self) -> Error {
        Error::InFlight {
            retry_after: self.inner.settings.retry_after,
        }
    }

    /// The same where its lease is known: after that it has ended, or another try tells more.
    pub(super) fn in_flight_for(&self, lease_left: Duration) -> Error {
        Error::InFlight {
            retry_after: self.inner.settings.retry_after.min(lease_left),
        }
    }

    /// Tells all observers what has happened to the call's record.
    pub(super) fn tell(&self, call: &Call, kind: EventKind<'_>) {
        self.inner.observers.tell(&Event {
            operation: &call.operation,
            record: Some(call.id),
            kind,
        });
    }

    /// The store's name, such as `"postgres"`.
    pub fn store_name(&self) -> &'static str {
        self.store().name()
    }

    pub(super) fn store(&self) -> &dyn Store {
        &*self.inner.store
    }

    /// Every call to the store goes through here: bounded in time, measured, and reported.
    pub(super) async fn store_call<T>(
        &self,
        operation: &str,
        call: &'static str,
        answer: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let after = self.inner.settings.store_timeout;
        self.store_call_within(after, operation, call, answer).await
    }

    pub(super) async fn store_call_within<T>(
        &self,
        after: Duration,
        operation: &str,
        call: &'static str,
        answer: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        call_of(self.store().name(), after, operation, call, answer).await
    }

    /// A call that the store answers at once, as measured.
    pub(super) fn immediate_call<T>(
        &self,
        operation: &str,
        call: &'static str,
        answer: impl FnOnce() -> T,
    ) -> T {
        let clock = observe::clock();
        let answer = match observe::store_call_is_traced() {
            true => observe::store_call(operation, call).in_scope(answer),
            false => answer(),
        };
        observe::store_call_took(self.store().name(), call, &clock);
        answer
    }

    /// A call of another database than the store, as bounded as the store's.
    pub(super) async fn database_call<T>(
        &self,
        database: &'static str,
        operation: &str,
        call: &'static str,
        answer: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let after = self.inner.settings.store_timeout;
        call_of(database, after, operation, call, answer).await
    }
}

/// Waits for an answer of this store, for so long.
async fn call_of<T>(
    store: &'static str,
    after: Duration,
    operation: &str,
    call: &'static str,
    answer: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let clock = observe::clock();
    let mut answer = pin!(answer.instrument(observe::store_call(operation, call)));
    // A store in memory answers at once, and needs no timer.
    let first_look = poll_fn(|cx| Poll::Ready(answer.as_mut().poll(cx))).await;
    let result = match first_look {
        Poll::Ready(result) => result,
        Poll::Pending => timeout(after, answer)
            .await
            .unwrap_or_else(|_| Err(StoreError::TimedOut { store, after })),
    };
    observe::store_call_took(store, call, &clock);
    if let Err(error) = &result {
        observe::store_failed(operation, call, error);
    }
    result
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("store", &self.inner.store.name())
            .field("settings", &self.inner.settings)
            .finish_non_exhaustive()
    }
}

/// Why an engine was not installed. Calls that name no engine are refused.
///
/// Its `Debug` form is its message, for a `main` that returns it.
#[derive(Clone)]
#[non_exhaustive]
pub enum InstallError {
    /// One is installed already, and stays.
    AlreadyInstalled,
    /// Two annotated functions have one operation name, each of these. Any engine refuses their
    /// calls with [`Error::NameTaken`].
    NamesTaken(Vec<NameTaken>),
}

impl fmt::Display for InstallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlreadyInstalled => {
                f.write_str("an engine is installed already; install one, once, at start-up")
            }
            Self::NamesTaken(names) => {
                let mut names = names.iter();
                names.next().map_or(Ok(()), |first| first.fmt(f))?;
                names.try_for_each(|taken| write!(f, "\n{taken}"))
            }
        }
    }
}

impl fmt::Debug for InstallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for InstallError {}

/// Settings of an [`Engine`].
#[must_use]
pub struct EngineBuilder {
    store: Arc<dyn Store>,
    settings: Settings,
    cache: Cache,
    observers: Observers,
}

impl EngineBuilder {
    /// Starts an engine over a shared store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            settings: Settings::default(),
            cache: Cache::default(),
            observers: Observers::default(),
        }
    }

    /// Keeps the records of applications that share a store apart. Empty unless given.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.settings.namespace = namespace.into();
        self
    }

    /// How long a call to the store may take before it counts as failed; 5 seconds unless
    /// given. Keep it well below the shortest lease.
    pub const fn store_timeout(mut self, timeout: Duration) -> Self {
        self.settings.store_timeout = at_most(timeout, Policy::MAX);
        self
    }

    /// The longest outcome that is stored, in bytes, encoded; 2 MiB unless given, and no more than the store
    /// [can hold](Store::max_outcome_bytes). A longer one reaches the first caller whole and leaves a
    /// tombstone for retries.
    pub const fn max_outcome_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_outcome_bytes = bytes;
        self
    }

    /// When a refused duplicate is told to come back; 1 second unless given.
    pub const fn retry_after(mut self, after: Duration) -> Self {
        self.settings.retry_after = after;
        self
    }

    /// Whether a body runs **without protection** when the store cannot answer its claim.
    /// `false` unless given: the call is refused, and its body does not run.
    pub const fn fail_open(mut self, fail_open: bool) -> Self {
        self.settings.fail_open = fail_open;
        self
    }

    /// How many ends of attempts, and how many bytes of their outcomes, may wait in this process for
    /// a store that does not take them; 10,000 and 64 MiB unless given. Claims that were not
    /// answered count, too, until it is sure that they hold no lease. At the bound new claims are
    /// refused unsent. What runs at that moment comes on top.
    pub const fn max_unsettled(mut self, attempts: usize, bytes: usize) -> Self {
        self.settings.max_unsettled = (attempts, bytes);
        self
    }

    /// Keeps finished outcomes of up to `max_bytes` in this process, so that a replay of them
    /// asks nobody. Each is kept for as long as the store has promised to keep it, at most, by
    /// this process's monotonic clock.
    ///
    /// Off unless given: most operations are never retried, and their outcomes would fill the
    /// memory. Worth it for a store behind a network and clients that repeat much; a second
    /// copy for nothing over the memory store.
    #[cfg(feature = "cache")]
    pub fn cache(mut self, max_bytes: u64) -> Self {
        self.cache = Cache::bounded(max_bytes);
        self
    }

    /// Tells `observer` of everything that happens to records, after those that were given before.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observers.add(Arc::new(observer));
        self
    }

    /// The settings of the HTTP contract.
    #[cfg(feature = "http")]
    pub fn http(mut self, http: HttpSettings) -> Self {
        self.settings.http = http;
        self
    }

    /// The engine.
    ///
    /// Where two annotated functions have one operation name, it says so in the log, and refuses
    /// every call of both with [`Error::NameTaken`].
    pub fn build(mut self) -> Engine {
        if let Some(most) = self.store.max_outcome_bytes() {
            let asked = self.settings.max_outcome_bytes;
            self.settings.max_outcome_bytes = asked.min(most);
        }
        names_taken().iter().for_each(observe::name_taken);
        let activity = Arc::<Activity>::default();
        let (max_attempts, max_bytes) = self.settings.max_unsettled;
        Engine {
            inner: Arc::new(Inner {
                store: self.store,
                settings: self.settings,
                flights: Arc::new(Flights::new(Arc::clone(&activity))),
                activity,
                keepers: Keepers::default(),
                cache: self.cache,
                unsettled: Unsettled::bounded(max_attempts, max_bytes),
                replays: Replays::default(),
                observers: self.observers,
            }),
        }
    }

    /// Builds the engine and [installs](Engine::install) it.
    ///
    /// # Errors
    /// As [`Engine::install`].
    pub fn install(self) -> Result<Engine, InstallError> {
        self.build().install()
    }
}

impl fmt::Debug for EngineBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineBuilder")
            .field("store", &self.store.name())
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
