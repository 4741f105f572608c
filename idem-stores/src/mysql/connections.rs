//! Where calls get their connections from, and how a call uses its connection. Knows nothing of records.
//!
//! A call that is dropped, or given up, leaves an answer under way. The driver must read it to its end, so
//! that goes on in the background. Then the connection is used again. If the answer does not come within a
//! call's time, the session is ended. Until the session is gone, its permit stays in use.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use idem_core::{StoreError, Token};
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::{Connection, Error, MySql, MySqlPool};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::NAME;
use super::errors::{breaks_connection, is_conflict, store_error};
use super::hung_sessions::{Address, HungSessions};
use super::message::{Answer, Message};
use super::sessions::{BEFORE, OwnPool, Session, Sessions, before_message, session_of};
use super::target::Settings;
use crate::sql::application_pool::{ApplicationPool, max_size, reserved_size};
use crate::sql::borrowed::Source;
use crate::sql::conflicts::Conflicts;
use crate::sql::errors::{Sent, silence};
use crate::sql::gate::{Gate, Lane, deadline};

/// The fewest connections of the store's own: one for lease holders, and one for other calls.
const MIN_CONNECTIONS: usize = 2;

/// How long after the end of a message's time its answer is awaited before the session is ended.
const GRACE: Duration = Duration::from_millis(500);

/// How long an answer is awaited of a server that has not even said which session it is.
const LONGEST_SILENCE: Duration = Duration::from_secs(60);

/// How often a message is sent again whose record is just being changed.
const MAX_RETRIES: u32 = 100;

/// Where connections come from. Clones share them.
#[derive(Clone)]
pub(super) struct Connections(Arc<Inner>);

struct Inner {
    source: Source<Sessions, MySql>,
    gate: Arc<Gate>,
    hung_sessions: HungSessions,
    timeout: Duration,
    /// The largest message that the server takes; 0: not known yet.
    max_message: AtomicUsize,
}

impl Connections {
    pub(super) fn own(options: MySqlConnectOptions, settings: &Settings) -> Self {
        let permits = settings.max_connections.max(MIN_CONNECTIONS);
        let for_holders = (permits / 4).max(1);
        let timeout = settings.timeout;
        let address = Address::Options(Box::new(options.clone()));
        let pool = OwnPool::new(Sessions::new(options, timeout), timeout);
        Self(Arc::new(Inner {
            source: Source::Own(Arc::new(pool)),
            gate: Gate::new(permits, permits - for_holders, settings.max_waiting),
            hung_sessions: HungSessions::new(address, timeout),
            timeout,
            max_message: AtomicUsize::new(0),
        }))
    }

    pub(super) fn of_application(pool: MySqlPool, settings: &Settings) -> Self {
        let permits = max_size(&pool).max(1);
        let timeout = settings.timeout;
        let for_others = permits - reserved_size(permits);
        let address = Address::OfPool(pool.clone());
        Self(Arc::new(Inner {
            source: Source::Application(ApplicationPool::new(pool)),
            gate: Gate::new(permits, for_others, settings.max_waiting),
            hung_sessions: HungSessions::new(address, timeout),
            timeout,
            max_message: AtomicUsize::new(0),
        }))
    }

    /// A connection beside all others, which ends with whatever uses it.
    pub(super) async fn open_separate(&self) -> Result<MySqlConnection, Error> {
        match &self.0.source {
            Source::Own(pool) => MySqlConnection::connect_with(pool.opener().options()).await,
            Source::Application(pool) => Ok(pool.pool().acquire().await?.detach()),
        }
    }

    /// How long a call may take.
    pub(super) fn timeout(&self) -> Duration {
        self.0.timeout
    }

    /// The largest message that the server takes, as far as is known.
    pub(super) fn max_message(&self) -> usize {
        match self.0.max_message.load(Ordering::Relaxed) {
            0 => usize::MAX,
            known => known,
        }
    }

    /// Notes that a lease is held from now on, for this long at most.
    pub(super) fn note_lease(&self, token: &Token, lease: Duration) {
        if let Source::Application(pool) = &self.0.source {
            pool.note_lease(token, lease);
        }
    }

    /// Notes that a lease has ended.
    pub(super) fn note_lease_end(&self, token: &Token) {
        if let Source::Application(pool) = &self.0.source {
            pool.note_lease_end(token);
        }
    }

    /// Begins a call: waits for a connection.
    pub(super) async fn begin(&self, lane: Lane) -> Result<Call, StoreError> {
        let Inner { gate, timeout, .. } = &*self.0;
        let (permit, deadline) = gate.enter(NAME, lane, *timeout).await?;
        let borrowed = timeout_at(deadline, self.0.source.check_out(lane, permit)).await;
        let borrowed = borrowed.unwrap_or(Err(Error::PoolTimedOut));
        let borrowed = borrowed.map_err(|error| store_error(error, Sent::Nothing))?;
        Ok(Call {
            borrowed: Some(borrowed),
            has_sent: false,
            is_reusable: true,
            deadline,
            connections: self.clone(),
            runtime: Handle::current(),
        })
    }

    /// Sends a message until `read` finds an answer.
    pub(super) async fn run<T>(
        &self,
        lane: Lane,
        message: &Message,
        read: impl Fn(&Answer) -> Result<Option<T>, Error>,
    ) -> Result<T, StoreError> {
        let mut call = self.begin(lane).await?;
        let answer = call.run(message, read).await;
        call.finish(answer)
    }
}

type Borrowed = crate::sql::borrowed::Borrowed<Sessions, MySql>;

fn connection_of(borrowed: &mut Borrowed) -> &mut MySqlConnection {
    match borrowed {
        Borrowed::Own(pooled, _) => &mut pooled.open.own.connection,
        Borrowed::Application(used, ..) => &mut used.connection,
    }
}

/// A call that has its connection. Called within a runtime, and dropped anywhere.
pub(super) struct Call {
    /// `None` while a message is under way, and when it was not answered in time.
    borrowed: Option<Borrowed>,
    has_sent: bool,
    /// Not within a transaction, which a later call would be in.
    is_reusable: bool,
    deadline: Instant,
    connections: Connections,
    runtime: Handle,
}

impl Call {
    /// Sends a message until `read` finds an answer. `Ok(None)` means to send it again. So does a statement
    /// that was rolled back because of a concurrent one.
    pub(super) async fn run<T>(
        &mut self,
        message: &Message,
        read: impl Fn(&Answer) -> Result<Option<T>, Error>,
    ) -> Result<T, Error> {
        let mut conflicts = Conflicts::default();
        let mut retries = 0;
        loop {
            let began = Instant::now();
            let answer = self.send(message.clone()).await;
            match answer.and_then(|answer| read(&answer)) {
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) if retries < MAX_RETRIES && Instant::now() < self.deadline => retries += 1,
                Ok(None) => return Err(silence()),
                Err(error) if is_conflict(&error) => {
                    // The next try may wait for a lock as long as this one has.
                    let deadline = self.deadline - began.elapsed().min(self.connections.timeout());
                    let timeout = self.connections.timeout();
                    conflicts.pause(error, deadline, timeout).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends a message once.
    pub(super) async fn send(&mut self, message: Message) -> Result<Answer, Error> {
        let borrowed = self.borrowed.take().ok_or(Error::PoolClosed)?;
        // Before a second message it would end this call's own transaction.
        let is_first = !std::mem::replace(&mut self.has_sent, true);
        let exchange = Exchange::begin(
            borrowed,
            message,
            is_first,
            self.is_reusable,
            self.connections.clone(),
        );
        let Ok((borrowed, answer)) = timeout_at(self.deadline, exchange).await else {
            return Err(silence());
        };
        self.borrowed = Some(borrowed);
        answer
    }

    /// The connection is not used again if the call is dropped: it may be within a transaction.
    pub(super) const fn begins_transaction(&mut self) {
        self.is_reusable = false;
    }

    /// The transaction has ended.
    pub(super) const fn ends_transaction(&mut self) {
        self.is_reusable = true;
    }

    /// Ends the call.
    pub(super) fn finish<T>(mut self, answer: Result<T, Error>) -> Result<T, StoreError> {
        let is_broken = answer.as_ref().err().is_some_and(breaks_connection);
        if let Some(borrowed) = self.borrowed.take() {
            match is_broken || !self.is_reusable {
                true => discard_broken(borrowed),
                false => borrowed.check_in(),
            }
        }
        answer.map_err(|error| store_error(error, Sent::Maybe))
    }
}

/// Closes a connection, and those that have been idle since before it: they may be broken, too.
fn discard_broken(borrowed: Borrowed) {
    if let Borrowed::Own(_, pool) = &borrowed {
        drop(pool.evict_older_than(Instant::now()));
    }
    borrowed.discard();
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(borrowed) = self.borrowed.take() {
            let _context = self.runtime.enter();
            match self.is_reusable {
                true => borrowed.check_in(),
                false => borrowed.discard(),
            }
        }
    }
}

/// A message that is under way. If this is dropped, it goes on in the background.
struct Exchange {
    work: Option<Work>,
    began: Instant,
    /// Whether the connection may be used again after the answer.
    is_reusable: bool,
    control: Arc<Control>,
    connections: Connections,
    runtime: Handle,
}

type Work = BoxFuture<'static, (Borrowed, Result<Answer, Error>)>;

/// What those who wait for an exchange know of it.
#[derive(Default)]
struct Control {
    session: OnceLock<Session>,
    /// Nobody waits any more.
    give_up: Notify,
}

impl Exchange {
    fn begin(
        borrowed: Borrowed,
        message: Message,
        is_first: bool,
        is_reusable: bool,
        connections: Connections,
    ) -> Self {
        let control = Arc::new(Control::default());
        let work = exchange(
            borrowed,
            message,
            is_first,
            Arc::clone(&control),
            connections.clone(),
        );
        Self {
            work: Some(Box::pin(work)),
            began: Instant::now(),
            is_reusable,
            control,
            connections,
            runtime: Handle::current(),
        }
    }
}

async fn exchange(
    mut borrowed: Borrowed,
    message: Message,
    is_first: bool,
    control: Arc<Control>,
    connections: Connections,
) -> (Borrowed, Result<Answer, Error>) {
    let (message, before) = match &borrowed {
        Borrowed::Own(pooled, _) => {
            let _ = control.session.set(pooled.open.own.session.clone());
            (message, 0)
        }
        Borrowed::Application(..) if is_first => (message.behind(&before_message()), BEFORE),
        Borrowed::Application(..) => (message, 0),
    };
    let first_row = |row: &_| {
        if control.session.get().is_none()
            && let Ok(session) = Session::read(row)
        {
            let _ = control.session.set(session);
        }
    };
    let sent = message.send(connection_of(&mut borrowed), first_row);
    let (answer, ended) = tokio::select! {
        biased;
        sent = sent => sent,
        () = control.give_up.notified() => (Answer::default(), Err(silence())),
    };
    if let Some(session) = control.session.get() {
        let max_message = &connections.0.max_message;
        max_message.store(session.max_message, Ordering::Relaxed);
    }
    let answer = match ended {
        Ok(()) => commits(&answer, before).map(|()| answer.without_first(before)),
        Err(error) => Err(error),
    };
    (borrowed, answer)
}

/// # Errors
/// When the session of an application does not commit by itself. The connection is closed then, which rolls
/// back.
fn commits(answer: &Answer, before: usize) -> Result<(), Error> {
    if before == 0 {
        return Ok(());
    }
    match session_of(answer)? {
        Some(session) if session.commits => Ok(()),
        _ => Err(Error::Configuration(Box::new(DoesNotCommit))),
    }
}

impl Future for Exchange {
    type Output = (Borrowed, Result<Answer, Error>);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(work) = &mut self.work else {
            return Poll::Pending;
        };
        let polled = work.as_mut().poll(context);
        if polled.is_ready() {
            self.work = None;
        }
        polled
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            let settling = settle(
                work,
                self.began,
                self.is_reusable,
                Arc::clone(&self.control),
                self.connections.clone(),
            );
            // A call may be dropped outside of the runtime.
            self.runtime.spawn(settling);
        }
    }
}

/// Gives the connection back when the answer has come, or closes it when its session is gone.
async fn settle(
    mut work: Work,
    began: Instant,
    is_reusable: bool,
    control: Arc<Control>,
    connections: Connections,
) {
    let Inner {
        timeout,
        hung_sessions,
        ..
    } = &*connections.0;
    let limit = deadline(began, *timeout + GRACE);
    let (borrowed, answer) = match timeout_at(limit, &mut work).await {
        Ok(ended) => ended,
        Err(_) => {
            let gone = async {
                match control.session.get() {
                    Some(session) => hung_sessions.end(session).await,
                    None => tokio::time::sleep(LONGEST_SILENCE).await,
                }
            };
            tokio::select! {
                biased;
                ended = &mut work => ended,
                () = gone => {
                    control.give_up.notify_one();
                    work.await
                }
            }
        }
    };
    match answer {
        Err(error) if breaks_connection(&error) => discard_broken(borrowed),
        _ if is_reusable => borrowed.check_in(),
        _ => borrowed.discard(),
    }
}

/// The sessions of an application's pool do not commit by themselves.
#[derive(Debug)]
struct DoesNotCommit;

impl fmt::Display for DoesNotCommit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the pool's sessions have autocommit off, so that no record would be committed: leave it on, or give the store connections of its own",
        )
    }
}

impl std::error::Error for DoesNotCommit {}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match &self.0.source {
            Source::Own(_) => "own",
            Source::Application(_) => "pool",
        };
        f.debug_struct("Connections")
            .field("source", &source)
            .field("timeout", &self.0.timeout)
            .finish_non_exhaustive()
    }
}
