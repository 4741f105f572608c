//! What an audit log is told of changes.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::http::request::Parts;

use crate::store::RecordState;
use crate::{Outcome, RecordId};

/// A change of a record by an operator, for an audit log. See [`Dashboard::audit`](super::Dashboard::audit).
#[derive(Clone)]
#[non_exhaustive]
pub struct Change {
    /// Random, and the same before the change and after it.
    pub id: u128,
    /// What is changed.
    pub action: Action,
    /// The record.
    pub record: RecordId,
    /// Its operation's name. Empty where the record does not say.
    pub operation: String,
    /// The state that the operator has changed.
    pub state: RecordState,
    /// The attempt that the operator has seen.
    pub attempt: u32,
    /// It holds its lease, which is taken away first; its body may go on.
    pub forced: bool,
    /// The answer that retries get from then on, where one is given. Its `Debug` form shows no content.
    pub answer: Option<Outcome>,
    /// Why, in the operator's words. They have not been checked for anything but their length.
    pub reason: String,
    /// Before the change, or after it.
    pub stage: Stage,
    /// The request's head: who is asking, as the application's own layers have found out.
    pub request: Arc<Parts>,
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The request's head has credentials in it.
        f.debug_struct("Change")
            .field("id", &self.id)
            .field("action", &self.action)
            .field("record", &self.record)
            .field("operation", &self.operation)
            .field("state", &self.state)
            .field("attempt", &self.attempt)
            .field("forced", &self.forced)
            .field("answer", &self.answer)
            .field("reason", &self.reason)
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}

/// What an operator does with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Frees the key: nothing happened, and a retry runs the operation.
    Release,
    /// Stores what did happen: retries get this answer.
    Resolve,
    /// Forgets the record, whatever it says: a retry runs the operation.
    Forget,
}

impl Action {
    /// One word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Resolve => "resolve",
            Self::Forget => "forget",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// When a log is told of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// Before it is made. An error keeps it from being made.
    Before,
    /// It is made.
    Made,
    /// Nothing was changed: the record was not as the operator had seen it any more.
    NotMade,
    /// The lease was taken from the attempt, and nothing else was changed: somebody else has claimed,
    /// freed or resolved the record since.
    OnlyRevoked,
    /// The store has not said whether it was made.
    Unknown,
}

type Writing = Pin<Box<dyn Future<Output = Result<(), Box<dyn Error + Send + Sync>>> + Send>>;

/// Who writes the log, if anybody.
#[derive(Clone, Default)]
pub(super) struct Audit(Option<Arc<dyn Fn(Change) -> Writing + Send + Sync>>);

/// The log was not written.
#[derive(Debug)]
pub(super) struct NotWritten;

impl Audit {
    const PATIENCE: Duration = Duration::from_secs(10);

    pub(super) fn new<F, Written>(write: F) -> Self
    where
        F: Fn(Change) -> Written + Send + Sync + 'static,
        Written: Future<Output = Result<(), Box<dyn Error + Send + Sync>>> + Send + 'static,
    {
        Self(Some(Arc::new(move |change| Box::pin(write(change)))))
    }

    pub(super) async fn write(&self, change: &Change) -> Result<(), NotWritten> {
        let Some(write) = &self.0 else {
            return Ok(());
        };
        let written = tokio::time::timeout(Self::PATIENCE, write(change.clone())).await;
        let (action, record) = (change.action, change.record);
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                tracing::error!(target: "idem", %action, %record, error = &*error, "the audit log was not written");
                Err(NotWritten)
            }
            Err(_) => {
                tracing::error!(target: "idem", %action, %record, "the audit log was not written in time");
                Err(NotWritten)
            }
        }
    }
}
