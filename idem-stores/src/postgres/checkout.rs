//! A connection that a call has checked out, and what becomes of it when the call ends or is dropped.
//!
//! A call that is dropped leaves an answer under way. The driver counts the answers that are still to
//! come and reads them all before it sends more (`wait_until_ready` in sqlx-postgres 0.9), so no answer
//! is ever taken for another call's. Such a connection is used again once that answer has come. If it
//! does not come within a call's time, the session is ended. Until the session is gone, its permit stays
//! in use.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Error, Postgres};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};

use super::errors::{breaks_connection, may_still_run};
use super::hung_sessions::{HungSessions, Session};
use super::sessions::{OwnPool, Sessions};
use crate::sql::gate::{Gate, deadline};
use crate::sql::pool::PooledConnection;

/// How long after the end of a statement's time its answer is awaited before the session is ended.
const GRACE: Duration = Duration::from_millis(500);

/// What is needed to recover connections.
pub(super) struct Recovery {
    gate: Arc<Gate>,
    hung_sessions: Arc<HungSessions>,
    /// How long a call may take.
    timeout: Duration,
}

impl Recovery {
    pub(super) fn new(
        gate: &Arc<Gate>,
        hung_sessions: Arc<HungSessions>,
        timeout: Duration,
    ) -> Arc<Self> {
        Arc::new(Self {
            gate: Arc::clone(gate),
            hung_sessions,
            timeout,
        })
    }
}

type Borrowed = crate::sql::borrowed::Borrowed<Sessions, Postgres>;

fn connection_of(borrowed: &mut Borrowed) -> &mut PgConnection {
    match borrowed {
        Borrowed::Own(pooled, _) => &mut pooled.open.own.connection,
        Borrowed::Application(used, ..) => &mut used.connection,
    }
}

const fn session_of(borrowed: &Borrowed) -> Option<Session> {
    match borrowed {
        Borrowed::Own(pooled, _) => pooled.open.own.session,
        Borrowed::Application(..) => None,
    }
}

/// A checked-out connection. If it is dropped without an end, its call was dropped.
pub(super) struct Checkout {
    borrowed: Option<Borrowed>,
    /// The session, if it is known.
    session: Option<Session>,
    /// Every statement is a transaction of its own, so nothing stays open if the call is dropped. The
    /// driver forgets a BEGIN whose answer it has not read, and later statements would be in that
    /// transaction.
    is_reusable: bool,
    /// When the last statement was sent.
    began: Instant,
    recovery: Arc<Recovery>,
    runtime: Handle,
}

impl Checkout {
    /// Called within a runtime.
    pub(super) fn new(borrowed: Borrowed, recovery: &Arc<Recovery>) -> Self {
        Self {
            session: session_of(&borrowed),
            borrowed: Some(borrowed),
            is_reusable: true,
            began: Instant::now(),
            recovery: Arc::clone(recovery),
            runtime: Handle::current(),
        }
    }

    pub(super) fn connection(&mut self) -> Result<&mut PgConnection, Error> {
        let connection = self.borrowed.as_mut().map(connection_of);
        connection.ok_or(Error::PoolClosed)
    }

    /// The connection, for a statement that is sent now.
    pub(super) fn begin_statement(&mut self) -> Result<&mut PgConnection, Error> {
        self.began = Instant::now();
        self.connection()
    }

    pub(super) const fn has_known_session(&self) -> bool {
        self.session.is_some()
    }

    pub(super) const fn set_session(&mut self, session: Session) {
        self.session = Some(session);
    }

    /// The connection is not used again if the call is dropped: it may be within a transaction.
    pub(super) const fn runs_many_statements(&mut self) {
        self.is_reusable = false;
    }

    /// Checks the connection in, or closes it.
    pub(super) fn close_unless(mut self, is_sound: bool) {
        if let Some(borrowed) = self.borrowed.take() {
            match is_sound {
                true => borrowed.check_in(),
                false => borrowed.discard(),
            }
        }
    }

    /// Ends the checkout after a call that was answered, or failed.
    pub(super) fn end(mut self, error: Option<&Error>) {
        if error.is_some_and(may_still_run) {
            // Dropping it recovers the connection.
            return;
        }
        let Some(borrowed) = self.borrowed.take() else {
            return;
        };
        match error {
            Some(error) if breaks_connection(error) => {
                if let Borrowed::Own(_, pool) = &borrowed {
                    // Connections that were idle meanwhile may be broken, too, and do no work.
                    drop(pool.evict_older_than(self.began));
                }
                borrowed.discard();
            }
            _ => borrowed.check_in(),
        }
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        let Some(borrowed) = self.borrowed.take() else {
            return;
        };
        let pending = PendingAnswer {
            borrowed,
            session: self.session,
            began: self.began,
            is_reusable: self.is_reusable,
            recovery: Arc::clone(&self.recovery),
        };
        // A call may be dropped outside of the runtime. The driver's pool needs a runtime, even one that
        // has ended.
        let _context = self.runtime.enter();
        self.runtime.spawn(pending.settle());
    }
}

/// A connection with an answer under way that no call waits for.
struct PendingAnswer {
    borrowed: Borrowed,
    session: Option<Session>,
    /// When its statement was sent.
    began: Instant,
    /// Whether the connection may be used again after its answer.
    is_reusable: bool,
    recovery: Arc<Recovery>,
}

impl PendingAnswer {
    /// Checks the connection in when the answer has come, or closes it when its session is gone.
    fn settle(mut self) -> BoxFuture<'static, ()> {
        async move {
            if self.has_answered().await {
                self.borrowed.check_in();
            } else {
                self.borrowed.discard();
            }
        }
        .boxed()
    }

    async fn has_answered(&mut self) -> bool {
        let Recovery {
            hung_sessions,
            timeout,
            ..
        } = &*self.recovery;
        let session = self.session;
        let pool = match &self.borrowed {
            Borrowed::Own(_, pool) => Some(Arc::clone(pool)),
            Borrowed::Application(..) => None,
        };
        if !self.is_reusable {
            hung_sessions.terminate(session).gone().await;
            return false;
        }
        let mut answered = pin!(connection_of(&mut self.borrowed).ping());
        // The server's own limit ends most statements that take too long.
        let limit = deadline(self.began, *timeout + GRACE);
        if let Ok(answered) = timeout_at(limit, &mut answered).await {
            return answered.is_ok();
        }
        if let Some(pool) = pool {
            test_older_than(&self.recovery, &pool, self.began);
        }
        let mut termination = hung_sessions.terminate(session);
        let answered = tokio::select! {
            biased;
            answered = answered => answered.is_ok(),
            () = termination.gone() => false,
        };
        answered && termination.withdraw()
    }
}

/// Tests the connections that have been idle since then, before they are used again: another one is
/// silent, and they may be, too.
fn test_older_than(recovery: &Arc<Recovery>, pool: &Arc<OwnPool>, since: Instant) {
    for open in pool.evict_older_than(since) {
        // There are at least as many free permits as idle connections.
        let Some(permit) = recovery.gate.try_acquire_free() else {
            continue;
        };
        let pending = PendingAnswer {
            session: open.own.session,
            borrowed: Borrowed::Own(PooledConnection { open, permit }, Arc::clone(pool)),
            began: Instant::now(),
            is_reusable: true,
            recovery: Arc::clone(recovery),
        };
        tokio::spawn(pending.settle());
    }
}
