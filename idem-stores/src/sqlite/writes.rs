//! What waits to be written, and its answer.

use std::time::{Duration, Instant};

use bytes::Bytes;
use idem_core::{Change as Changed, Claim, Claimed, Lease, RecordId, StoreError, Token};
use sqlx::sqlite::SqliteConnection;
use tokio::sync::oneshot;

use super::lanes::{Lane, Place};
use super::statements::{self, MANY};

/// The end of an attempt with an outcome.
#[derive(Debug)]
pub(super) struct Completion {
    pub(super) lease: Lease,
    pub(super) outcome: Bytes,
}

/// The end of an attempt without an outcome.
#[derive(Debug)]
pub(super) struct End {
    pub(super) id: RecordId,
    pub(super) token: Token,
    pub(super) to: To,
}

/// What the record is to be.
#[derive(Clone, Copy, Debug)]
pub(super) enum To {
    Absent,
    Abandoned,
}

/// A question and whoever waits for its answer.
pub(super) struct Asked<Q, A> {
    question: Q,
    answer: Option<A>,
    reply: oneshot::Sender<Result<A, StoreError>>,
}

impl<Q, A> Asked<Q, A> {
    pub(super) fn new(question: Q) -> (Self, oneshot::Receiver<Result<A, StoreError>>) {
        let (reply, answered) = oneshot::channel();
        let asked = Self {
            question,
            answer: None,
            reply,
        };
        (asked, answered)
    }

    fn give(self) {
        if let Some(answer) = self.answer {
            // An error says that nobody waits any more.
            let _ = self.reply.send(Ok(answer));
        }
    }

    fn fail(self, error: StoreError) {
        let _ = self.reply.send(Err(error));
    }
}

pub(super) enum Change {
    Renew(Asked<Lease, Changed>),
    Complete(Asked<Completion, Changed>),
    End(Asked<End, Changed>),
    Claim(Asked<Claim, Claimed>),
    Sweep(Asked<u32, u64>),
    #[cfg(test)]
    Panic,
}

/// A change that waits for its turn.
pub(super) struct Write {
    change: Change,
    /// When its caller asked.
    since: Instant,
    /// When it first waited for another connection's lock.
    busy_since: Option<Instant>,
    /// It has failed beside others, or one of them has.
    is_to_be_alone: bool,
    /// In the queue of those who hold no lease.
    _place: Option<Place>,
}

impl Write {
    pub(super) const fn new(change: Change, since: Instant, place: Option<Place>) -> Self {
        Self {
            change,
            since,
            busy_since: None,
            is_to_be_alone: false,
            _place: place,
        }
    }

    pub(super) const fn lane(&self) -> Lane {
        match self.change {
            Change::Renew(_) => Lane::Renewals,
            Change::Complete(_) | Change::End(_) => Lane::Ends,
            Change::Claim(_) => Lane::Claims,
            Change::Sweep(_) => Lane::Sweeps,
            #[cfg(test)]
            Change::Panic => Lane::Claims,
        }
    }

    pub(super) fn has_waited_for(&self, long: Duration) -> bool {
        self.since.elapsed() >= long
    }

    pub(super) fn sees_the_lock_busy(&mut self, since: Instant) {
        self.busy_since.get_or_insert(since);
    }

    pub(super) fn was_kept_by_the_lock_for(&self, long: Duration, now: Instant) -> bool {
        let since = self.busy_since;
        since.is_some_and(|since| now.duration_since(since) >= long)
    }

    pub(super) const fn is_to_be_alone(&self) -> bool {
        self.is_to_be_alone
    }

    pub(super) const fn be_alone(&mut self) {
        self.is_to_be_alone = true;
    }

    /// Makes the change, and keeps the answer until it is committed.
    pub(super) async fn run(
        &mut self,
        connection: &mut SqliteConnection,
    ) -> Result<(), sqlx::Error> {
        self.change.run(connection).await
    }

    /// The same for many, in few statements, in the order of their lanes. None has been answered
    /// yet, so that any order is right.
    pub(super) async fn run_all(
        all: &mut [Self],
        connection: &mut SqliteConnection,
    ) -> Result<(), sqlx::Error> {
        let (mut claims, mut completions, mut others) = (Vec::new(), Vec::new(), Vec::new());
        let mut sweeps = Vec::new();
        for write in all {
            match &mut write.change {
                Change::Claim(asked) => claims.push(asked),
                Change::Complete(asked) => completions.push(asked),
                sweep @ Change::Sweep(_) => sweeps.push(sweep),
                other => others.push(other),
            }
        }
        for other in others {
            other.run(connection).await?;
        }
        for completions in completions.chunks_mut(MANY) {
            let questions: Vec<_> = completions.iter().map(|asked| &asked.question).collect();
            let answers = statements::complete_many(connection, &questions).await?;
            keep(completions, answers);
        }
        for claims in claims.chunks_mut(MANY) {
            let questions: Vec<_> = claims.iter().map(|asked| &asked.question).collect();
            let answers = statements::claim_many(connection, &questions).await?;
            keep(claims, answers);
        }
        for sweep in sweeps {
            sweep.run(connection).await?;
        }
        Ok(())
    }

    /// Whether it is worth doing. A claim that nobody waits for any more would hold a lease that
    /// nobody uses, and so would a renewal; the end of an attempt is worth writing all the same.
    pub(super) fn is_wanted(&self) -> bool {
        match &self.change {
            Change::Claim(asked) => !asked.reply.is_closed(),
            Change::Renew(asked) => !asked.reply.is_closed(),
            _ => true,
        }
    }

    /// How much it adds to a transaction, in bytes.
    pub(super) fn weight(&self) -> usize {
        match &self.change {
            Change::Complete(asked) => asked.question.outcome.len(),
            _ => 0,
        }
    }

    /// The record that this has changed in a way that its watchers wait for.
    pub(super) fn news(&self) -> Option<&RecordId> {
        match &self.change {
            Change::Claim(Asked {
                question: Claim { id, .. },
                answer: Some(Claimed::Acquired { attempt: 2.. }),
                ..
            })
            | Change::Complete(Asked {
                question:
                    Completion {
                        lease: Lease { id, .. },
                        ..
                    },
                answer: Some(Changed::Applied),
                ..
            })
            | Change::End(Asked {
                question: End { id, .. },
                answer: Some(Changed::Applied),
                ..
            }) => Some(id),
            _ => None,
        }
    }

    /// Gives the answer: it is committed, or nothing was to be changed.
    pub(super) fn give(self) {
        match self.change {
            Change::Renew(asked) => asked.give(),
            Change::Complete(asked) => asked.give(),
            Change::End(asked) => asked.give(),
            Change::Claim(asked) => asked.give(),
            Change::Sweep(asked) => asked.give(),
            #[cfg(test)]
            Change::Panic => {}
        }
    }

    /// Gives an error instead.
    pub(super) fn fail(self, error: StoreError) {
        match self.change {
            Change::Renew(asked) => asked.fail(error),
            Change::Complete(asked) => asked.fail(error),
            Change::End(asked) => asked.fail(error),
            Change::Claim(asked) => asked.fail(error),
            Change::Sweep(asked) => asked.fail(error),
            #[cfg(test)]
            Change::Panic => {}
        }
    }
}

impl Change {
    async fn run(&mut self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        match self {
            Self::Renew(asked) => {
                asked.answer = Some(statements::renew(connection, &asked.question).await?);
            }
            Self::Complete(asked) => {
                asked.answer = Some(statements::complete(connection, &asked.question).await?);
            }
            Self::End(asked) => {
                asked.answer = Some(statements::end(connection, &asked.question).await?);
            }
            Self::Claim(asked) => {
                asked.answer = Some(statements::claim(connection, &asked.question).await?);
            }
            Self::Sweep(asked) => {
                asked.answer = Some(statements::sweep(connection, asked.question).await?);
            }
            #[cfg(test)]
            #[allow(clippy::panic, reason = "what a test asked for")]
            Self::Panic => panic!("as asked"),
        }
        Ok(())
    }
}

fn keep<Q, A>(asked: &mut [&mut Asked<Q, A>], answers: Vec<A>) {
    for (asked, answer) in asked.iter_mut().zip(answers) {
        asked.answer = Some(answer);
    }
}
