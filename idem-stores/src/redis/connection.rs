//! One connection to the server, shared by many calls, that mends itself. Knows nothing of
//! records.
//!
//! The driver's own managers leave out what a store needs: none gives a connection up whose peer
//! is silent (a server that vanished without a word keeps a connection for a quarter of an hour),
//! none leaves a primary that was demoted, and none asks the sentinels again. So the driver's
//! plain connections are used, and replaced here.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use redis::aio::{AsyncPushSender, ConnectionLike, MultiplexedConnection};
use redis::cluster_async::ClusterConnection;
use redis::{Cmd, ErrorKind, RedisError, ServerErrorKind, Value, cmd, pipe};
use tokio::time::{Instant, sleep, timeout_at};

use super::durability::{Confirmations, Durability, Reach};
use super::errors::CallError;
use super::redirects::{self, Sent};
use super::target::Target;
use super::whereabouts::Found;

/// Pauses before a connection that follows a failed one: doubled from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LAST_PAUSE: Duration = Duration::from_millis(320);

/// Receives what the server sends unasked, on one connection.
pub(super) type Pushes = Arc<dyn AsyncPushSender>;

#[derive(Clone)]
pub(super) enum Connection {
    Single(MultiplexedConnection, Arc<Confirmations>),
    Cluster(ClusterConnection, Arc<Target>),
}

/// The answer to a write, and whom it has reached.
pub(super) struct Written {
    pub(super) answer: Value,
    pub(super) reach: Reach,
}

/// A write of one record.
pub(super) struct Write<'a> {
    pub(super) key: &'a [u8],
    /// Whether an answer says that something was written.
    pub(super) has_written: fn(&Value) -> bool,
    pub(super) durability: &'a Durability,
}

impl Connection {
    pub(super) async fn send(&mut self, command: &Cmd) -> Result<Value, RedisError> {
        match self {
            // An error that the server answers is a value to the driver.
            Self::Single(connection, _) => connection
                .req_packed_command(command)
                .await?
                .extract_error(),
            Self::Cluster(connection, target) => {
                let answers = redirects::send(connection, target, Sent::Command(command)).await?;
                Ok(answers.into_iter().next().unwrap_or(Value::Nil))
            }
        }
    }

    /// Sends a command, and where it has written, waits until everybody has it.
    pub(super) async fn write(
        &mut self,
        command: &Cmd,
        write: &Write<'_>,
    ) -> Result<Written, RedisError> {
        let Write {
            key,
            has_written,
            durability,
        } = write;
        if !durability.is_asked() {
            return Ok(Written {
                answer: self.send(command).await?,
                reach: Reach::Everybody,
            });
        }
        match self {
            Self::Single(connection, confirmations) => {
                let answer = connection.req_packed_command(command).await?;
                let answer = answer.extract_error()?;
                let reach = match has_written(&answer) {
                    true => confirmations.wait(connection, durability).await?,
                    false => Reach::Everybody,
                };
                Ok(Written { answer, reach })
            }
            Self::Cluster(connection, target) => {
                let mut all = pipe();
                all.add_command(command.clone());
                for wait in durability.commands() {
                    all.add_command(wait);
                }
                let commands = &all;
                let sent = Sent::Pipeline { key, commands };
                let answers = redirects::send(connection, target, sent).await?;
                let mut answers = answers.into_iter();
                let answer = answers.next().unwrap_or(Value::Nil).extract_error()?;
                let reach = match has_written(&answer) {
                    true => durability.reach(answers),
                    false => Reach::Everybody,
                };
                Ok(Written { answer, reach })
            }
        }
    }

    /// Subscribes to one sharded channel; the answer is the server's.
    pub(super) async fn subscribe(&mut self, channel: &[u8]) -> Result<(), RedisError> {
        match self {
            Self::Single(..) => self.send(cmd("SSUBSCRIBE").arg(channel)).await.map(drop),
            Self::Cluster(connection, _) => connection.ssubscribe(channel).await,
        }
    }

    pub(super) async fn unsubscribe(&mut self, channel: &[u8]) -> Result<(), RedisError> {
        match self {
            Self::Single(..) => self.send(cmd("SUNSUBSCRIBE").arg(channel)).await.map(drop),
            Self::Cluster(connection, _) => connection.sunsubscribe(channel).await,
        }
    }
}

/// A connection, and what was known when it was opened.
#[derive(Clone)]
pub(super) struct Opened {
    pub(super) connection: Connection,
    pub(super) found: Found,
}

type Opening = Shared<BoxFuture<'static, Result<Opened, RedisError>>>;

/// A connection that is opened when it is first used, and again when it has failed.
pub(super) struct Link {
    target: Arc<Target>,
    /// Makes the receiver of a new connection.
    pushes: Option<Box<dyn Fn() -> Pushes + Send + Sync>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    opening: Option<Opening>,
    /// Counts the openings, so that many calls that fail on one connection replace it once.
    generation: u64,
    /// Connections that have failed since one answered.
    failed: u32,
    /// Since when somebody has waited for an answer, and nobody got one.
    silent_since: Option<Instant>,
    /// Calls that wait for an answer.
    waiting: usize,
}

impl State {
    /// The connection has failed, or could not be opened.
    fn replace(&mut self) {
        self.open_again();
        self.failed = self.failed.saturating_add(1);
    }

    fn open_again(&mut self) {
        *self = Self {
            opening: None,
            generation: self.generation + 1,
            failed: self.failed,
            silent_since: None,
            waiting: 0,
        };
    }

    fn is_silent(&self, patience: Duration) -> bool {
        self.silent_since
            .is_some_and(|since| since.elapsed() >= patience)
    }
}

impl Link {
    pub(super) fn new(target: Arc<Target>) -> Self {
        Self {
            target,
            pushes: None,
            state: Mutex::default(),
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

    /// Opens the connection, however long that takes: its steps are bounded.
    pub(super) async fn open(&self) -> Result<(), CallError> {
        let (_, opening) = self.current();
        opening.await.map(drop).map_err(CallError::of_opening)
    }

    /// Has every connection of this store opened anew.
    pub(super) fn doubt(&self) {
        self.target.whereabouts.doubt();
    }

    /// When a command that is sent now must be answered.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.target.command_timeout
    }

    /// Sends one command and takes its answer, within the command timeout.
    pub(super) async fn send(&self, command: &Cmd) -> Result<Value, CallError> {
        self.call(self.deadline(), async |connection| {
            connection.send(command).await
        })
        .await
    }

    /// Uses the connection until the deadline. What fails because of the connection replaces it;
    /// whether to try again is the caller's decision.
    pub(super) async fn call<T>(
        &self,
        deadline: Instant,
        used: impl AsyncFnOnce(&mut Connection) -> Result<T, RedisError>,
    ) -> Result<T, CallError> {
        let (generation, opening) = self.current();
        // An opening may take longer than a command, and is none of one caller's: who does not
        // wait for it leaves it to the next.
        let opened = timeout_at(deadline, opening).await;
        let opened = opened.map_err(|elapsed| CallError::NotSent(timed_out(elapsed)))?;
        let mut connection = opened.map_err(CallError::of_opening)?.connection;
        let waiting = Waiting::new(self, generation);
        let result = timeout_at(deadline, used(&mut connection))
            .await
            .unwrap_or_else(|elapsed| Err(timed_out(elapsed)));
        waiting.ended(result.as_ref().err());
        result.map_err(CallError::of_command)
    }

    fn current(&self) -> (u64, Opening) {
        let mut state = self.lock();
        let whereabouts = &self.target.whereabouts;
        // Callers may all have gone before their timeouts: whoever comes next looks.
        if state.is_silent(self.patience()) {
            state.replace();
            whereabouts.doubt();
        }
        match state.opening.as_ref().and_then(Shared::peek) {
            Some(Err(_)) => state.replace(),
            Some(Ok(opened)) if !whereabouts.is_there(&opened.found) => state.open_again(),
            _ => {}
        }
        let pause = match state.failed {
            0 => Duration::ZERO,
            failed => (FIRST_PAUSE * (1 << (failed - 1).min(16))).min(LAST_PAUSE),
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
                let opening = opening
                    .map(|opened| {
                        opened.unwrap_or_else(|_| Err((ErrorKind::Io, "not connected").into()))
                    })
                    .boxed()
                    .shared();
                // And its end is known, whoever still waits for it.
                tokio::spawn(opening.clone().map(drop));
                opening
            })
            .clone();
        (state.generation, opening)
    }

    /// How long nobody may be answered. A cluster's connection mends its parts by itself, and
    /// those who wait may all wait for one node that is away.
    fn patience(&self) -> Duration {
        let timeouts = if self.target.is_cluster() { 5 } else { 1 };
        self.target.command_timeout.saturating_mul(timeouts)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn timed_out(_: tokio::time::error::Elapsed) -> RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

/// A call that waits for an answer. Dropped without one, it says nothing: the caller went away.
struct Waiting<'a> {
    link: &'a Link,
    generation: u64,
}

impl<'a> Waiting<'a> {
    fn new(link: &'a Link, generation: u64) -> Self {
        let mut state = link.lock();
        if state.generation == generation {
            state.waiting += 1;
            state.silent_since.get_or_insert_with(Instant::now);
        }
        drop(state);
        Self { link, generation }
    }

    fn ended(self, error: Option<&RedisError>) {
        let mut state = self.link.lock();
        if state.generation != self.generation {
            return;
        }
        let whereabouts = &self.link.target.whereabouts;
        match error {
            Some(error) if is_no_answer(error) => {
                let is_cluster = self.link.target.is_cluster();
                let is_broken = !error.is_timeout() && !is_cluster;
                if is_broken || state.is_silent(self.link.patience()) {
                    state.replace();
                    whereabouts.doubt();
                } else if is_cluster && error.is_timeout() && state.waiting <= 1 {
                    // One node's silence, which grows no longer while nobody waits.
                    state.silent_since = None;
                }
            }
            // The server lives, and says that it is the wrong one.
            Some(error) if leads_elsewhere(error) => {
                state.replace();
                whereabouts.doubt();
            }
            _ => {
                state.failed = 0;
                let others_wait = state.waiting > 1;
                state.silent_since = others_wait.then(Instant::now);
            }
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.link.lock();
        if state.generation == self.generation {
            state.waiting = state.waiting.saturating_sub(1);
        }
    }
}

/// Whether the error is the connection's and no server's.
fn is_no_answer(error: &RedisError) -> bool {
    error.is_io_error() || error.is_unrecoverable_error()
}

/// A primary that was demoted answers so; a name or a sentinel may know the new one. A cluster's
/// connection has asked by itself.
fn leads_elsewhere(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown)
    )
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}
