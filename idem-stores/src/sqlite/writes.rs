//! What waits to be written, and its answer.

use bytes::Bytes;
use idem_core::{Change as Changed, Claim, Claimed, Lease, RecordId, StoreError, Token};
use sqlx::sqlite::SqliteConnection;
use tokio::sync::oneshot;

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

/// One write and whoever waits for it.
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

pub(super) enum Write {
    Renew(Asked<Lease, Changed>),
    Complete(Asked<Completion, Changed>),
    End(Asked<End, Changed>),
    Claim(Asked<Claim, Claimed>),
    Sweep(Asked<u32, u64>),
    #[cfg(test)]
    Panic,
}

impl Write {
    /// Makes the change, and keeps the answer until it is committed.
    pub(super) async fn run(
        &mut self,
        connection: &mut SqliteConnection,
    ) -> Result<(), sqlx::Error> {
        match self {
            Self::Claim(asked) => {
                asked.answer = Some(statements::claim(connection, &asked.question).await?);
            }
            Self::Complete(asked) => {
                asked.answer = Some(statements::complete(connection, &asked.question).await?);
            }
            Self::Renew(asked) => {
                asked.answer = Some(statements::renew(connection, &asked.question).await?);
            }
            Self::End(asked) => {
                asked.answer = Some(statements::end(connection, &asked.question).await?);
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

    /// The same for many, in few statements. None has been answered yet, so that any order is
    /// right; a claim comes before what ends it, in case its caller was in a hurry.
    pub(super) async fn run_all(
        all: &mut [Self],
        connection: &mut SqliteConnection,
    ) -> Result<(), sqlx::Error> {
        let (mut claims, mut completions, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for write in all {
            match write {
                Self::Claim(asked) => claims.push(asked),
                Self::Complete(asked) => completions.push(asked),
                other => others.push(other),
            }
        }
        for claims in claims.chunks_mut(MANY) {
            let questions: Vec<_> = claims.iter().map(|asked| &asked.question).collect();
            let answers = statements::claim_many(connection, &questions).await?;
            keep(claims, answers);
        }
        for completions in completions.chunks_mut(MANY) {
            let questions: Vec<_> = completions.iter().map(|asked| &asked.question).collect();
            let answers = statements::complete_many(connection, &questions).await?;
            keep(completions, answers);
        }
        for other in others {
            other.run(connection).await?;
        }
        Ok(())
    }

    /// Whether it is worth doing. A claim that nobody waits for any more would hold a lease that
    /// nobody uses; the end of an attempt is worth writing all the same.
    pub(super) fn is_wanted(&self) -> bool {
        match self {
            Self::Claim(asked) => !asked.reply.is_closed(),
            _ => true,
        }
    }

    /// How much it adds to a transaction, in bytes.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Complete(asked) => asked.question.outcome.len(),
            _ => 0,
        }
    }

    /// The record that this has changed in a way that its watchers wait for.
    pub(super) fn news(&self) -> Option<&RecordId> {
        match self {
            Self::Claim(Asked {
                question: Claim { id, .. },
                answer: Some(Claimed::Acquired { attempt: 2.. }),
                ..
            })
            | Self::Complete(Asked {
                question:
                    Completion {
                        lease: Lease { id, .. },
                        ..
                    },
                answer: Some(Changed::Applied),
                ..
            })
            | Self::End(Asked {
                question: End { id, .. },
                answer: Some(Changed::Applied),
                ..
            }) => Some(id),
            _ => None,
        }
    }

    /// Gives the answer: it is committed, or nothing was to be changed.
    pub(super) fn give(self) {
        match self {
            Self::Claim(asked) => asked.give(),
            Self::Complete(asked) => asked.give(),
            Self::Renew(asked) => asked.give(),
            Self::End(asked) => asked.give(),
            Self::Sweep(asked) => asked.give(),
            #[cfg(test)]
            Self::Panic => {}
        }
    }

    /// Gives an error instead.
    pub(super) fn fail(self, error: StoreError) {
        match self {
            Self::Claim(asked) => asked.fail(error),
            Self::Complete(asked) => asked.fail(error),
            Self::Renew(asked) => asked.fail(error),
            Self::End(asked) => asked.fail(error),
            Self::Sweep(asked) => asked.fail(error),
            #[cfg(test)]
            Self::Panic => {}
        }
    }
}

fn keep<Q, A>(asked: &mut [&mut Asked<Q, A>], answers: Vec<A>) {
    for (asked, answer) in asked.iter_mut().zip(answers) {
        asked.answer = Some(answer);
    }
}
