//! Connections on loan: one per call, for as long as its statement takes. Knows nothing of
//! records.
//!
//! The store's own are not in a pool of the driver's. That one asks the server, whenever a
//! connection comes back, whether it still answers, which is half of what a replay costs; waits
//! without a limit where it does not (a server that vanished without a word keeps a connection
//! for a quarter of an hour); and hands dead ones out one after the other when a server was
//! restarted. A pool of the application's is used as it is.
//!
//! A call that is dropped leaves an answer under way. The driver counts the answers that it is
//! owed and reads them all before it sends more (`wait_until_ready` in sqlx-postgres 0.9), so
//! none is ever taken for another's. Here such a connection is lent again once it has done so.
//! Where that takes longer than a call may, its session is ended; until it is gone it counts as
//! one that is in use.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use idem_core::{StoreError, Token};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::{Connection, Error, PgPool};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout_at};

use super::NAME;
use super::errors::{
    Came, WaitedTooLong, connect_error, has_met_another, is_of_the_connection, may_still_work,
    store_error,
};
use super::gate::{Gate, Lane, Turn};
use super::hung::{Hung, Place, Session};
use super::own::{Own, Taken, session};
use super::shared::{Lent, Shared, kept_of, size_of};
use super::statement::{Limits, Protocol, Statement};
use super::target::{Pooler, Settings};
use crate::ConnectError;

/// The longest pause before a statement that met another one is sent again.
const LAST_PAUSE: Duration = Duration::from_millis(50);

/// How much longer than a statement may take its answer is waited for before its session is ended.
const GRACE: Duration = Duration::from_millis(500);

/// The fewest connections of a store's own: one for holders, and one for others.
const FEWEST: usize = 2;

/// Where connections come from. Clones share them.
#[derive(Clone)]
pub(super) struct Connections(Arc<Inner>);

struct Inner {
    source: Source,
    gate: Arc<Gate>,
    hung: Arc<Hung>,
    protocol: Protocol,
    timeout: Duration,
}

#[derive(Clone)]
enum Source {
    Own(Arc<Own>),
    Pool(Arc<Shared>),
}

impl Connections {
    pub(super) fn own(options: PgConnectOptions, settings: &Settings) -> Self {
        let turns = settings.max_connections.max(FEWEST);
        let of_holders = (turns / 4).max(1);
        let timeout = settings.timeout;
        let place = Place::Options(Box::new(options.clone()));
        Self(Arc::new(Inner {
            source: Source::Own(Arc::new(Own::new(options, timeout))),
            gate: Gate::new(turns, turns - of_holders, settings.max_waiting),
            hung: Hung::new(place, timeout),
            protocol: match settings.pooler {
                Pooler::Session => Protocol::Prepared,
                Pooler::Transaction => Protocol::Simple,
            },
            timeout,
        }))
    }

    pub(super) fn of_pool(pool: PgPool, settings: &Settings) -> Self {
        let turns = size_of(&pool).max(1);
        let timeout = settings.timeout;
        Self(Arc::new(Inner {
            hung: Hung::new(Place::OfPool(pool.clone()), timeout),
            source: Source::Pool(Shared::new(pool)),
            gate: Gate::new(turns, turns - kept_of(turns), settings.max_waiting),
            protocol: match settings.pooler {
                Pooler::Session => Protocol::PreparedMarked,
                Pooler::Transaction => Protocol::Simple,
            },
            timeout,
        }))
    }

    /// How long a call may take.
    pub(super) fn timeout(&self) -> Duration {
        self.0.timeout
    }

    /// Whether a session is one client's for as long as its connection is open.
    pub(super) fn have_sessions(&self) -> bool {
        self.0.protocol != Protocol::Simple
    }

    /// How to connect to the same server.
    pub(super) fn options(&self) -> PgConnectOptions {
        match &self.0.source {
            Source::Own(own) => own.options().clone(),
            Source::Pool(shared) => (*shared.pool().connect_options()).clone(),
        }
    }

    /// The store's own connections, where it has some.
    pub(super) fn as_own(&self) -> Option<&Arc<Own>> {
        match &self.0.source {
            Source::Own(own) => Some(own),
            Source::Pool(_) => None,
        }
    }

    /// The application's pool, where there is one.
    pub(super) fn as_pool(&self) -> Option<&PgPool> {
        match &self.0.source {
            Source::Own(_) => None,
            Source::Pool(shared) => Some(shared.pool()),
        }
    }

    /// A lease is held for so long from now, unless it ends before.
    pub(super) fn holds(&self, token: &Token, lease: Duration) {
        if let Source::Pool(shared) = &self.0.source {
            shared.holds(token, lease);
        }
    }

    /// A lease is held no more.
    pub(super) fn has_ended(&self, token: &Token) {
        if let Source::Pool(shared) = &self.0.source {
            shared.has_ended(token);
        }
    }

    /// Has a connection for one call. A holder's time begins with its turn: what it waits for is
    /// bounded by whoever calls, and does not leave its statement less. Others are given up in line
    /// while there is time left to be answered.
    pub(super) async fn begin(&self, lane: Lane) -> Result<Asking, StoreError> {
        let Inner { gate, timeout, .. } = &*self.0;
        let came = Instant::now();
        let turn = gate.turn(lane);
        let turn = match lane {
            Lane::Other => {
                let in_line = after(came, *timeout * 3 / 4);
                let turn = timeout_at(in_line, turn).await;
                turn.map_err(|_| StoreError::not_sent(NAME, WaitedTooLong))?
            }
            Lane::Renewal | Lane::End => turn.await,
        };
        let turn = turn.map_err(|_| StoreError::Overloaded { store: NAME })?;
        let began = match lane {
            Lane::Other => came,
            Lane::Renewal | Lane::End => Instant::now(),
        };
        let deadline = after(began, *timeout);
        let lent = timeout_at(deadline, self.lend(lane, turn)).await;
        let lent = lent.unwrap_or(Err(Error::PoolTimedOut));
        Ok(Asking {
            loan: lent.map_err(|error| store_error(error, Came::NoFurther))?,
            deadline,
        })
    }

    /// Sends a statement until `read` finds an answer in its row.
    pub(super) async fn ask<'q, T>(
        &self,
        lane: Lane,
        statement: &Statement<'q>,
        read: impl Fn(&PgRow) -> Result<Option<T>, Error>,
    ) -> Result<T, StoreError> {
        let mut asking = self.begin(lane).await?;
        let answer = asking.ask(statement, read).await;
        asking.end(answer)
    }

    /// Uses a connection for as long as it takes, and closes it where that failed or was dropped.
    pub(super) async fn with<T>(
        &self,
        used: impl AsyncFnOnce(&mut PgConnection) -> Result<T, ConnectError>,
    ) -> Result<T, ConnectError> {
        let Asking { mut loan, .. } = self.begin(Lane::Other).await.map_err(ConnectError::Store)?;
        if self.have_sessions() && loan.session.is_none() {
            // Dropped, it is ended by its name: nobody waits for it as for one that is not known.
            let asked = session(loan.connection().map_err(connect_error)?, "").await;
            loan.session = Some(asked.map_err(connect_error)?.0);
        }
        loan.is_one_statement = false;
        let answer = used(loan.connection().map_err(connect_error)?).await;
        if let Some(line) = loan.line.take() {
            match answer {
                Ok(_) => line.give_back(),
                Err(_) => line.discard(),
            }
        }
        answer
    }

    async fn lend(&self, lane: Lane, turn: Turn) -> Result<Loan, Error> {
        let line = match &self.0.source {
            Source::Own(own) => Line::Own(own.take(turn).await?, Arc::clone(own)),
            Source::Pool(shared) => Line::Pool(shared.take(lane).await?, turn, Arc::clone(shared)),
        };
        Ok(Loan {
            session: line.session(),
            line: Some(line),
            is_one_statement: true,
            began: Instant::now(),
            inner: Arc::clone(&self.0),
            runtime: Handle::current(),
        })
    }
}

/// As far from then as clocks can count.
fn after(then: Instant, time: Duration) -> Instant {
    then.checked_add(time)
        .unwrap_or_else(|| then + Duration::from_secs(u32::MAX.into()))
}

/// A call that has its connection.
pub(super) struct Asking {
    loan: Loan,
    deadline: Instant,
}

impl Asking {
    /// Sends a statement until `read` finds an answer in its row: `Ok(None)` is to ask again, and
    /// so is a transaction that met another one and was rolled back.
    pub(super) async fn ask<'q, T>(
        &mut self,
        statement: &Statement<'q>,
        read: impl Fn(&PgRow) -> Result<Option<T>, Error>,
    ) -> Result<T, Error> {
        let mut pause = Duration::from_millis(1);
        loop {
            match self.once(statement, &read).await {
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) => {}
                Err(error) if has_met_another(&error) => {
                    // One that is cut off would leave it open what it has done.
                    let enough = self.loan.inner.timeout / 4;
                    if Instant::now() + enough >= self.deadline {
                        return Err(error);
                    }
                    sleep(pause.mul_f64(rand::random())).await;
                    pause = (pause * 2).min(LAST_PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends a statement once.
    pub(super) async fn once<'q, T>(
        &mut self,
        statement: &Statement<'q>,
        read: impl Fn(&PgRow) -> Result<Option<T>, Error>,
    ) -> Result<Option<T>, Error> {
        let Inner {
            protocol, timeout, ..
        } = *self.loan.inner;
        let limits = Limits {
            timeout: statement.may_take(timeout),
        };
        self.loan.began = Instant::now();
        let connection = self.loan.connection()?;
        let asked = statement.ask(connection, protocol, Some(limits));
        let silent = |_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into());
        let row = timeout_at(self.deadline, asked)
            .await
            .unwrap_or_else(silent);
        read(&row?)
    }

    /// Ends the call.
    pub(super) fn end<T>(self, answer: Result<T, Error>) -> Result<T, StoreError> {
        self.loan.ended_with(answer.as_ref().err());
        answer.map_err(|error| store_error(error, Came::ToTheServer))
    }
}

enum Line {
    Own(Taken, Arc<Own>),
    Pool(Lent, Turn, Arc<Shared>),
}

impl Line {
    fn connection(&mut self) -> &mut PgConnection {
        match self {
            Self::Own(taken, _) => &mut taken.line.connection,
            Self::Pool(lent, ..) => &mut lent.connection,
        }
    }

    fn session(&self) -> Option<Session> {
        match self {
            Self::Own(taken, _) => taken.line.session,
            Self::Pool(..) => None,
        }
    }

    fn give_back(self) {
        match self {
            Self::Own(taken, own) => own.give_back(taken),
            Self::Pool(lent, turn, shared) => {
                shared.give_back(lent);
                drop(turn);
            }
        }
    }

    /// Closes it.
    fn discard(self) {
        match self {
            Self::Own(taken, _) => drop(taken),
            Self::Pool(lent, turn, shared) => {
                shared.discard(lent);
                drop(turn);
            }
        }
    }
}

/// A connection on loan. Where it is dropped without an end, its call was dropped.
struct Loan {
    line: Option<Line>,
    /// Where it is known.
    session: Option<Session>,
    /// Nothing of it stays open, whenever its call is dropped. The driver forgets a BEGIN whose
    /// answer it has not read, and what comes next would be in that transaction.
    is_one_statement: bool,
    /// When the last statement was sent.
    began: Instant,
    inner: Arc<Inner>,
    runtime: Handle,
}

impl Loan {
    fn connection(&mut self) -> Result<&mut PgConnection, Error> {
        let line = self.line.as_mut().map(Line::connection);
        line.ok_or(Error::PoolClosed)
    }

    /// Ends the loan after a call that was answered, or failed.
    fn ended_with(mut self, error: Option<&Error>) {
        if error.is_some_and(may_still_work) {
            // Dropped, it is seen to.
            return;
        }
        let Some(line) = self.line.take() else { return };
        match error {
            Some(error) if is_of_the_connection(error) => {
                if let Line::Own(_, own) = &line {
                    // Those that have rested may be as bad, and do nothing.
                    drop(own.doubted(self.began));
                }
                line.discard();
            }
            _ => line.give_back(),
        }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let Some(line) = self.line.take() else {
            return;
        };
        let owed = Owed {
            line,
            session: self.session,
            began: self.began,
            answers: self.is_one_statement,
            inner: Arc::clone(&self.inner),
        };
        // Whoever drops a call need not be on the runtime. The driver's pool needs to be, also where
        // the runtime is gone.
        let _context = self.runtime.enter();
        self.runtime.spawn(owed.settle());
    }
}

/// A connection with an answer under way that nobody waits for.
struct Owed {
    line: Line,
    session: Option<Session>,
    /// When its statement was sent.
    began: Instant,
    /// Whether it may be lent again when it has answered.
    answers: bool,
    inner: Arc<Inner>,
}

impl Owed {
    /// Lends it again when it has answered, and closes it when its session is gone.
    fn settle(mut self) -> BoxFuture<'static, ()> {
        async move {
            if self.is_answered().await {
                self.line.give_back();
            } else {
                self.line.discard();
            }
        }
        .boxed()
    }

    async fn is_answered(&mut self) -> bool {
        let Inner { hung, timeout, .. } = &*self.inner;
        let session = self.session;
        let doubted = match &self.line {
            Line::Own(_, own) => Some(Arc::clone(own)),
            Line::Pool(..) => None,
        };
        if !self.answers {
            hung.end(session).gone().await;
            return false;
        }
        let mut answered = pin!(self.line.connection().ping());
        // The server's own limit ends most statements that take too long.
        if let Ok(answered) = timeout_at(after(self.began, *timeout + GRACE), &mut answered).await {
            return answered.is_ok();
        }
        if let Some(own) = doubted {
            doubt(&self.inner, &own, self.began);
        }
        let mut ending = hung.end(session);
        let answered = tokio::select! {
            biased;
            answered = answered => answered.is_ok(),
            () = ending.gone() => false,
        };
        answered && ending.withdraw()
    }
}

/// A connection is silent. Those that have rested since are asked whether they are, too, before
/// they are lent again.
fn doubt(inner: &Arc<Inner>, own: &Arc<Own>, since: Instant) {
    for line in own.doubted(since) {
        // Those that rest are fewer than the turns that are free.
        let Some(turn) = inner.gate.free_turn() else {
            continue;
        };
        let owed = Owed {
            session: line.session,
            line: Line::Own(Taken { line, turn }, Arc::clone(own)),
            began: Instant::now(),
            answers: true,
            inner: Arc::clone(inner),
        };
        tokio::spawn(owed.settle());
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match &self.0.source {
            Source::Own(_) => "own",
            Source::Pool(_) => "pool",
        };
        f.debug_struct("Connections")
            .field("source", &source)
            .field("protocol", &self.0.protocol)
            .field("timeout", &self.0.timeout)
            .finish_non_exhaustive()
    }
}
