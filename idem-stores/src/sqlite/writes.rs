//! Writes that wait for their transaction, and their answers.

use std::time::{Duration, Instant};

use idem_core::{Change, Claim, Claimed, Forgotten, Lease, RecordId, StoreError};
use sqlx::sqlite::SqliteConnection;
use tokio::sync::oneshot;

use super::changes::{Checkpoint, Completion, End, Removal};
use super::queue::QueuePlace;
use super::statements::{self, MANY};

/// The lanes of the writer, by priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Renewals,
    /// Checkpoints, completions, releases, abandonments and suspensions.
    Ends,
    /// And what an operator asks for.
    Claims,
    Sweeps,
}

impl Lane {
    pub(super) const COUNT: usize = 4;
}

/// What is to be written, and the channel to the caller that waits for the answer.
pub(super) struct Request<T, A> {
    content: T,
    answer: Option<A>,
    caller: oneshot::Sender<Result<A, StoreError>>,
}

impl<T, A> Request<T, A> {
    pub(super) fn new(content: T) -> (Self, oneshot::Receiver<Result<A, StoreError>>) {
        let (caller, answered) = oneshot::channel();
        let request = Self {
            content,
            answer: None,
            caller,
        };
        (request, answered)
    }

    fn reply(self) {
        if let Some(answer) = self.answer {
            // An error means that the caller has gone.
            let _ = self.caller.send(Ok(answer));
        }
    }

    fn fail(self, error: StoreError) {
        let _ = self.caller.send(Err(error));
    }
}

pub(super) enum Job {
    Renew(Request<Lease, Change>),
    Checkpoint(Request<Checkpoint, Change>),
    Complete(Request<Completion, Change>),
    End(Request<End, Change>),
    Claim(Request<Claim, Claimed>),
    Forget(Request<Removal, Forgotten>),
    Sweep(Request<u32, u64>),
    #[cfg(test)]
    Panic,
}

/// A job that waits for its transaction.
pub(super) struct Write {
    job: Job,
    /// When its caller asked.
    since: Instant,
    /// When it first waited for another connection's lock.
    busy_since: Option<Instant>,
    /// It failed in a transaction with others, or one of the others did: it gets one of its own.
    is_isolated: bool,
    /// Of a caller that holds no lease.
    _place: Option<QueuePlace>,
}

impl Write {
    pub(super) const fn new(job: Job, since: Instant, place: Option<QueuePlace>) -> Self {
        Self {
            job,
            since,
            busy_since: None,
            is_isolated: false,
            _place: place,
        }
    }

    pub(super) const fn lane(&self) -> Lane {
        match self.job {
            Job::Renew(_) => Lane::Renewals,
            Job::Checkpoint(_) | Job::Complete(_) | Job::End(_) => Lane::Ends,
            Job::Claim(_) | Job::Forget(_) => Lane::Claims,
            Job::Sweep(_) => Lane::Sweeps,
            #[cfg(test)]
            Job::Panic => Lane::Claims,
        }
    }

    pub(super) fn has_waited_for(&self, time: Duration) -> bool {
        self.since.elapsed() >= time
    }

    pub(super) fn note_busy_lock(&mut self, since: Instant) {
        self.busy_since.get_or_insert(since);
    }

    pub(super) fn has_waited_for_lock(&self, time: Duration, now: Instant) -> bool {
        let since = self.busy_since;
        since.is_some_and(|since| now.duration_since(since) >= time)
    }

    pub(super) const fn is_isolated(&self) -> bool {
        self.is_isolated
    }

    pub(super) const fn isolate(&mut self) {
        self.is_isolated = true;
    }

    /// Runs its job, and keeps the answer until it is committed.
    pub(super) async fn run(
        &mut self,
        connection: &mut SqliteConnection,
    ) -> Result<(), sqlx::Error> {
        self.job.run(connection).await
    }

    /// Runs many, in few statements, in the order of their lanes. No caller has an answer yet, so any
    /// order is right.
    pub(super) async fn run_all(
        all: &mut [Self],
        connection: &mut SqliteConnection,
    ) -> Result<(), sqlx::Error> {
        let (mut claims, mut completions, mut others) = (Vec::new(), Vec::new(), Vec::new());
        let mut sweeps = Vec::new();
        for write in all {
            match &mut write.job {
                Job::Claim(request) => claims.push(request),
                Job::Complete(request) => completions.push(request),
                sweep @ Job::Sweep(_) => sweeps.push(sweep),
                other => others.push(other),
            }
        }
        for other in others {
            other.run(connection).await?;
        }
        for completions in completions.chunks_mut(MANY) {
            let contents: Vec<_> = completions.iter().map(|request| &request.content).collect();
            let answers = statements::complete_many(connection, &contents).await?;
            keep_answers(completions, answers);
        }
        for claims in claims.chunks_mut(MANY) {
            let contents: Vec<_> = claims.iter().map(|request| &request.content).collect();
            let answers = statements::claim_many(connection, &contents).await?;
            keep_answers(claims, answers);
        }
        for sweep in sweeps {
            sweep.run(connection).await?;
        }
        Ok(())
    }

    /// Whether it is still to be written. Without its caller, a claim or a renewal would hold a lease
    /// that nobody uses. The end of an attempt is always written.
    pub(super) fn is_wanted(&self) -> bool {
        match &self.job {
            Job::Claim(request) => !request.caller.is_closed(),
            Job::Renew(request) => !request.caller.is_closed(),
            Job::Forget(request) => !request.caller.is_closed(),
            _ => true,
        }
    }

    /// The bytes of the outcome or the steps that it writes.
    pub(super) fn content_bytes(&self) -> usize {
        match &self.job {
            Job::Checkpoint(request) => request.content.steps.len(),
            Job::Complete(request) => request.content.outcome.len(),
            _ => 0,
        }
    }

    /// The record whose watches its change wakes.
    pub(super) fn record_to_wake(&self) -> Option<&RecordId> {
        match &self.job {
            Job::Claim(Request {
                content: Claim { id, .. },
                answer: Some(Claimed::Acquired { attempt: 2.., .. }),
                ..
            })
            | Job::Complete(Request {
                content:
                    Completion {
                        lease: Lease { id, .. },
                        ..
                    },
                answer: Some(Change::Applied),
                ..
            })
            | Job::End(Request {
                content: End { id, .. },
                answer: Some(Change::Applied),
                ..
            })
            | Job::Forget(Request {
                content: Removal { id, .. },
                answer: Some(Forgotten::Removed),
                ..
            }) => Some(id),
            _ => None,
        }
    }

    /// Sends the answer to the caller: it is committed, or there was nothing to change.
    pub(super) fn reply(self) {
        match self.job {
            Job::Renew(request) => request.reply(),
            Job::Checkpoint(request) => request.reply(),
            Job::Complete(request) => request.reply(),
            Job::End(request) => request.reply(),
            Job::Claim(request) => request.reply(),
            Job::Forget(request) => request.reply(),
            Job::Sweep(request) => request.reply(),
            #[cfg(test)]
            Job::Panic => {}
        }
    }

    /// Sends an error to the caller.
    pub(super) fn fail(self, error: StoreError) {
        match self.job {
            Job::Renew(request) => request.fail(error),
            Job::Checkpoint(request) => request.fail(error),
            Job::Complete(request) => request.fail(error),
            Job::End(request) => request.fail(error),
            Job::Claim(request) => request.fail(error),
            Job::Forget(request) => request.fail(error),
            Job::Sweep(request) => request.fail(error),
            #[cfg(test)]
            Job::Panic => {}
        }
    }
}

impl Job {
    async fn run(&mut self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        match self {
            Self::Renew(request) => {
                request.answer = Some(statements::renew(connection, &request.content).await?);
            }
            Self::Checkpoint(request) => {
                request.answer = Some(statements::checkpoint(connection, &request.content).await?);
            }
            Self::Complete(request) => {
                request.answer = Some(statements::complete(connection, &request.content).await?);
            }
            Self::End(request) => {
                request.answer = Some(statements::end(connection, &request.content).await?);
            }
            Self::Claim(request) => {
                request.answer = Some(statements::claim(connection, &request.content).await?);
            }
            Self::Forget(request) => {
                request.answer = Some(statements::forget(connection, &request.content).await?);
            }
            Self::Sweep(request) => {
                request.answer = Some(statements::sweep(connection, request.content).await?);
            }
            #[cfg(test)]
            #[allow(clippy::panic, reason = "what a test asks for")]
            Self::Panic => panic!("as asked"),
        }
        Ok(())
    }
}

fn keep_answers<T, A>(request: &mut [&mut Request<T, A>], answers: Vec<A>) {
    for (request, answer) in request.iter_mut().zip(answers) {
        request.answer = Some(answer);
    }
}
