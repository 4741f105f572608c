//! A connection that is opened when it is first used, and replaced when it has failed. Knows nothing
//! of records.
//!
//! The driver's own managers leave out what a store needs. None gives up a connection whose peer is
//! silent (a server that vanished without a word keeps a connection for a quarter of an hour), none
//! leaves a primary that was demoted, and none asks the sentinels again. So the driver's plain
//! connections are used, and replaced here.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use redis::{ErrorKind, RedisError, ServerErrorKind, Value};
use tokio::time::{Instant, sleep, timeout_at};

use super::command::Command;
use super::connection::Connection;
use super::errors::CallError;
use super::primary::Origin;
use super::target::{CONNECT_TIMEOUT, Pushes, Target};
use crate::backoff::Backoff;

/// Pauses before a connection that follows failed ones.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(320));

/// A connection, and what was known when it was opened.
#[derive(Clone)]
struct Opened {
    connection: Connection,
    origin: Origin,
}

type Opening = Shared<BoxFuture<'static, Result<Opened, RedisError>>>;

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
    failures: u32,
    /// Since when calls have waited without any answer.
    silent_since: Option<Instant>,
    /// Calls that wait for an answer.
    waiting: usize,
}

impl State {
    /// The connection has failed, or could not be opened.
    fn replace_failed(&mut self) {
        self.reopen();
        self.failures = self.failures.saturating_add(1);
    }

    fn reopen(&mut self) {
        *self = Self {
            opening: None,
            generation: self.generation + 1,
            failures: self.failures,
            silent_since: None,
            waiting: 0,
        };
    }

    fn is_silent(&self, limit: Duration, now: Instant) -> bool {
        self.silent_since
            .is_some_and(|since| now.saturating_duration_since(since) >= limit)
    }

    fn begin_call(&mut self, now: Instant) {
        self.waiting += 1;
        self.silent_since.get_or_insert(now);
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

    /// A link whose connections each have a receiver for what the server pushes.
    pub(super) fn with_pushes(
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
        opening.await.map(drop).map_err(CallError::from_opening)
    }

    /// Makes every connection of this store be opened anew before its next use.
    pub(super) fn reconnect_all(&self) {
        self.target.primary.start_epoch();
    }

    /// When a command that is sent now must be answered.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.target.command_timeout
    }

    /// Sends one command and takes its answer, within the command timeout.
    pub(super) async fn send(&self, command: &(impl Command + ?Sized)) -> Result<Value, CallError> {
        let deadline = self.deadline();
        self.call(deadline, async |connection| {
            connection.send(command, deadline).await
        })
        .await
    }

    /// Uses the connection. `used` ends at the deadline, as everything that a [`Connection`] does. A
    /// failure of the connection replaces it; whether to try again is the caller's decision.
    pub(super) async fn call<T>(
        &self,
        deadline: Instant,
        used: impl AsyncFnOnce(&mut Connection) -> Result<T, RedisError>,
    ) -> Result<T, CallError> {
        let (pending, mut connection) = match self.begin() {
            Some(begun) => begun,
            None => Box::pin(self.begin_when_open(deadline)).await?,
        };
        let result = used(&mut connection).await;
        pending.ended(result.as_ref().err());
        result.map_err(CallError::from_command)
    }

    /// Begins a call, if there is an open connection.
    fn begin(&self) -> Option<(PendingCall<'_>, Connection)> {
        let mut state = self.lock();
        let opened = match state.opening.as_ref().and_then(Shared::peek) {
            Some(Ok(opened)) => opened,
            _ => return None,
        };
        if !self.target.primary.is_current(&opened.origin) {
            return None;
        }
        let connection = opened.connection.clone();
        let now = Instant::now();
        if state.is_silent(self.silence_limit(), now) {
            return None;
        }
        state.begin_call(now);
        let pending = PendingCall {
            link: self,
            generation: state.generation,
        };
        Some((pending, connection))
    }

    /// Whether there is a connection, and no call has waited for so long without an answer to any.
    pub(super) fn answers_within(&self, limit: Duration) -> bool {
        let state = self.lock();
        let is_open = match state.opening.as_ref().and_then(Shared::peek) {
            Some(Ok(opened)) => self.target.primary.is_current(&opened.origin),
            _ => false,
        };
        is_open
            && state
                .silent_since
                .is_none_or(|since| since.elapsed() < limit)
    }

    async fn begin_when_open(
        &self,
        deadline: Instant,
    ) -> Result<(PendingCall<'_>, Connection), CallError> {
        let (generation, opening) = self.current();
        // An opening may take longer than a command, and belongs to no caller: a caller that gives
        // up leaves it to the next.
        let opened = timeout_at(deadline, opening).await;
        let opened = opened.map_err(|elapsed| CallError::NotSent(timed_out(elapsed)))?;
        let connection = opened.map_err(CallError::from_opening)?.connection;
        Ok((PendingCall::new(self, generation), connection))
    }

    fn current(&self) -> (u64, Opening) {
        let mut state = self.lock();
        let primary = &self.target.primary;
        // All callers may have gone before their timeouts, so the next one looks.
        if state.is_silent(self.silence_limit(), Instant::now()) {
            state.replace_failed();
            primary.start_epoch();
        }
        match state.opening.as_ref().and_then(Shared::peek) {
            Some(Err(_)) => state.replace_failed(),
            Some(Ok(opened)) if !primary.is_current(&opened.origin) => state.reopen(),
            _ => {}
        }
        let pause = BACKOFF.after(state.failures);
        let opening = state
            .opening
            .get_or_insert_with(|| {
                let target = Arc::clone(&self.target);
                let pushes = self.pushes.as_ref().map(|pushes| pushes());
                // On a task of its own: it goes on when the call that began it is dropped.
                let opening = tokio::spawn(async move {
                    sleep(pause).await;
                    open(target, pushes).await
                });
                let opening = opening
                    .map(|opened| {
                        opened.unwrap_or_else(|_| Err((ErrorKind::Io, "not connected").into()))
                    })
                    .boxed()
                    .shared();
                // Its end is known even if nobody waits for it any more.
                tokio::spawn(opening.clone().map(drop));
                opening
            })
            .clone();
        (state.generation, opening)
    }

    /// How long a connection may answer nobody. A cluster's connection recovers its nodes by itself,
    /// and all callers may wait for one node that is away.
    fn silence_limit(&self) -> Duration {
        let timeouts = if self.target.is_cluster() { 5 } else { 1 };
        self.target.command_timeout.saturating_mul(timeouts)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn open(target: Arc<Target>, pushes: Option<Pushes>) -> Result<Opened, RedisError> {
    let is_for_calls = pushes.is_none();
    let (driver, origin) = target.connect(pushes).await?;
    let mut connection = Connection::new(driver, Arc::clone(&target));
    if is_for_calls {
        read_clock(&mut connection, &target).await;
    }
    Ok(Opened { connection, origin })
}

/// What is not told is not known. A connection that fails over it fails again with its first call.
async fn read_clock(connection: &mut Connection, target: &Target) {
    let asked = Instant::now();
    let answer = connection.ask(&["TIME".into()][..], asked + CONNECT_TIMEOUT);
    if let Ok(answer) = answer.await {
        target.clock.learn(&answer, asked);
    }
}

fn timed_out(_: tokio::time::error::Elapsed) -> RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

/// A call that waits for an answer. If it is dropped without one, nothing is learned: its caller went
/// away.
struct PendingCall<'a> {
    link: &'a Link,
    generation: u64,
}

impl<'a> PendingCall<'a> {
    fn new(link: &'a Link, generation: u64) -> Self {
        let mut state = link.lock();
        if state.generation == generation {
            state.begin_call(Instant::now());
        }
        drop(state);
        Self { link, generation }
    }

    fn ended(self, error: Option<&RedisError>) {
        self.end(|link, state| {
            let primary = &link.target.primary;
            match error {
                Some(error) if is_connection_error(error) => {
                    let is_cluster = link.target.is_cluster();
                    let is_broken = !error.is_timeout() && !is_cluster;
                    if is_broken || state.is_silent(link.silence_limit(), Instant::now()) {
                        state.replace_failed();
                        primary.start_epoch();
                    } else if is_cluster && error.is_timeout() && state.waiting <= 1 {
                        // The silence of one node does not count while nobody waits.
                        state.silent_since = None;
                    }
                }
                // The server is alive, and is the wrong one.
                Some(error) if is_of_replica(error) => {
                    state.replace_failed();
                    primary.start_epoch();
                }
                _ => {
                    state.failures = 0;
                    let others_wait = state.waiting > 1;
                    state.silent_since = others_wait.then(Instant::now);
                }
            }
        });
        // Its end is known.
        std::mem::forget(self);
    }

    fn end(&self, learn: impl FnOnce(&Link, &mut State)) {
        let mut state = self.link.lock();
        if state.generation == self.generation {
            learn(self.link, &mut state);
        }
        // What was learned may have replaced the connection.
        if state.generation == self.generation {
            state.waiting = state.waiting.saturating_sub(1);
        }
    }
}

impl Drop for PendingCall<'_> {
    fn drop(&mut self) {
        self.end(|_, _| {});
    }
}

/// Whether the error is the connection's and not an answer.
fn is_connection_error(error: &RedisError) -> bool {
    error.is_io_error() || error.is_unrecoverable_error()
}

/// Whether a primary that was demoted has answered. A host name or a sentinel may know the new one. A
/// cluster's connection has asked by itself.
fn is_of_replica(error: &RedisError) -> bool {
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
