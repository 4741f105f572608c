//! One connection to the server, shared by everything, that mends itself. Knows nothing of
//! records.
//!
//! The driver's own managers leave out what a store needs: one of them gives a connection up
//! when its peer has been silent (a server that vanished without a word keeps a connection for
//! a quarter of an hour), none asks the sentinels again, and none pauses between attempts for
//! exactly as long as nobody would notice. So the driver's plain connections are used, and
//! replaced here.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use redis::aio::{AsyncPushSender, ConnectionLike, MultiplexedConnection};
use redis::cluster_async::ClusterConnection;
use redis::{Cmd, ErrorKind, RedisError, ServerErrorKind, Value, cmd};
use tokio::time::{Instant, sleep, timeout};

use super::target::Target;

/// Pauses between attempts to connect while a server is away: doubled from the first to the
/// last.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LAST_PAUSE: Duration = Duration::from_millis(320);

/// Receives what the server sends unasked, on one connection.
pub(super) type Pushes = Arc<dyn AsyncPushSender>;

#[derive(Clone)]
pub(super) enum Connection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Connection {
    async fn send(&mut self, command: &Cmd) -> Result<Value, RedisError> {
        let answer = match self {
            Self::Single(connection) => connection.req_packed_command(command).await,
            Self::Cluster(connection) => connection.req_packed_command(command).await,
        };
        // An error that the server answers is a value to the driver.
        answer?.extract_error()
    }

    /// Subscribes to one sharded channel; the answer is the server's.
    pub(super) async fn subscribe(&mut self, channel: &[u8]) -> Result<(), RedisError> {
        match self {
            Self::Single(_) => self.send(cmd("SSUBSCRIBE").arg(channel)).await.map(drop),
            Self::Cluster(connection) => connection.ssubscribe(channel).await,
        }
    }

    pub(super) async fn unsubscribe(&mut self, channel: &[u8]) -> Result<(), RedisError> {
        match self {
            Self::Single(_) => self.send(cmd("SUNSUBSCRIBE").arg(channel)).await.map(drop),
            Self::Cluster(connection) => connection.sunsubscribe(channel).await,
        }
    }
}

enum Fault {
    /// There is no connection.
    Opening(RedisError),
    /// The command failed, or was not answered in time.
    InUse(RedisError),
}

type Opening = Shared<BoxFuture<'static, Result<Connection, RedisError>>>;

/// A connection that is opened when it is first used, and again when it has failed.
pub(super) struct Link {
    target: Arc<Target>,
    /// Makes the receiver of a new connection.
    pushes: Option<Box<dyn Fn() -> Pushes + Send + Sync>>,
    state: Mutex<State>,
}

struct State {
    opening: Option<Opening>,
    /// Counts the openings, so that many calls that fail on one connection replace it once.
    generation: u64,
    /// Attempts that have failed since one succeeded.
    failed: u32,
    /// When a cluster last answered anything.
    answered: Option<Instant>,
}

impl Link {
    pub(super) fn new(target: Arc<Target>) -> Self {
        Self {
            target,
            pushes: None,
            state: Mutex::new(State {
                opening: None,
                generation: 0,
                failed: 0,
                answered: None,
            }),
        }
    }

    /// A link that hears what the server sends unasked.
    pub(super) fn listening(
        target: Arc<Target>,
        pushes: impl Fn() -> Pushes + Send + Sync + 'static,
    ) -> Self {
        Self {
            pushes: Some(Box::new(pushes)),
            ..Self::new(target)
        }
    }

    /// Sends one command and takes its answer, within the command timeout.
    pub(super) async fn send(&self, command: &Cmd) -> Result<Value, RedisError> {
        self.call(async |connection| connection.send(command).await)
            .await
    }

    /// Uses the connection, within the command timeout. What fails because of the connection
    /// replaces it; whether to try again is the caller's decision.
    pub(super) async fn call<T>(
        &self,
        used: impl AsyncFnOnce(&mut Connection) -> Result<T, RedisError>,
    ) -> Result<T, RedisError> {
        let (generation, opening) = self.current();
        let call = async {
            match opening.await {
                Ok(mut connection) => used(&mut connection).await.map_err(Fault::InUse),
                Err(error) => Err(Fault::Opening(error)),
            }
        };
        let timed_out = |_| {
            let error = std::io::Error::from(std::io::ErrorKind::TimedOut);
            Err(Fault::InUse(error.into()))
        };
        let result = timeout(self.target.command_timeout, call)
            .await
            .unwrap_or_else(timed_out);
        self.judge(result.as_ref().err(), generation);
        result.map_err(|(Fault::Opening(error) | Fault::InUse(error))| error)
    }

    fn current(&self) -> (u64, Opening) {
        let mut state = self.lock();
        let pause = match state.failed {
            0 => Duration::ZERO,
            failed => (FIRST_PAUSE * (1 << failed.min(16))).min(LAST_PAUSE),
        };
        let opening = state
            .opening
            .get_or_insert_with(|| {
                let target = Arc::clone(&self.target);
                let pushes = self.pushes.as_ref().map(|pushes| pushes());
                // On a task of its own: it goes on when the call that began it is dropped.
                let opening = tokio::spawn(async move {
                    sleep(pause).await;
                    target.connect(pushes).await
                });
                opening
                    .map(|opened| {
                        opened.unwrap_or_else(|_| Err((ErrorKind::Io, "not connected").into()))
                    })
                    .boxed()
                    .shared()
            })
            .clone();
        (state.generation, opening)
    }

    /// Forgets the connection if it is at fault and still the current one.
    fn judge(&self, fault: Option<&Fault>, generation: u64) {
        let mut state = self.lock();
        if state.generation != generation {
            return;
        }
        let at_fault = match fault {
            Some(Fault::Opening(_)) => true,
            // A cluster's connection mends its parts by itself, and one node of it may be away
            // while the others answer: it is given up when none has for a while.
            Some(Fault::InUse(error)) if self.target.is_cluster() => {
                let quiet = 2 * self.target.command_timeout;
                means_a_new_connection(error)
                    && state.answered.is_none_or(|at| at.elapsed() > quiet)
            }
            Some(Fault::InUse(error)) => means_a_new_connection(error),
            None => false,
        };
        if !at_fault {
            state.failed = 0;
            if fault.is_none() && self.target.is_cluster() {
                state.answered = Some(Instant::now());
            }
        } else {
            state.opening = None;
            state.generation += 1;
            state.failed = state.failed.saturating_add(1);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the connection is broken, silent, or leads to a server that takes no writes any
/// more (a primary that was demoted answers `READONLY`; a name or a sentinel may know the new
/// one).
fn means_a_new_connection(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_unrecoverable_error()
        || matches!(
            error.kind(),
            ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown)
                | ErrorKind::MasterNameNotFoundBySentinel
        )
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}
