//! What a write waits for before it is confirmed: replicas that have it (`WAIT`), append-only files
//! that have it (`WAITAOF`).
//!
//! Both commands cover the writes of their own connection, so they are sent over the connection that
//! wrote. They block it for everything else. Writes that are answered while one command waits share
//! the next.

use std::fmt;
use std::time::Duration;

use idem_core::StoreError;
use redis::{Cmd, RedisError, Value, cmd};

use super::NAME;
use super::errors::CallError;

/// What must have a write before it is confirmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Durability {
    /// How many replicas, in memory.
    pub(super) replicas: u32,
    /// The primary's append-only file, and those of this many replicas.
    pub(super) aof_replicas: Option<u32>,
    /// The longest wait.
    pub(super) timeout: Duration,
}

impl Durability {
    pub(super) const fn is_required(&self) -> bool {
        self.replicas > 0 || self.aof_replicas.is_some()
    }

    pub(super) fn commands(&self) -> Vec<Cmd> {
        // 0 would mean no limit.
        let millis = self.timeout.as_millis().clamp(1, 60_000);
        let millis = u64::try_from(millis).unwrap_or(1);
        let mut commands = Vec::new();
        if self.replicas > 0 {
            let mut wait = cmd("WAIT");
            wait.arg(self.replicas).arg(millis);
            commands.push(wait);
        }
        if let Some(replicas) = self.aof_replicas {
            let mut wait = cmd("WAITAOF");
            wait.arg(1).arg(replicas).arg(millis);
            commands.push(wait);
        }
        commands
    }

    /// What the answers to the commands say.
    pub(super) fn confirmation(&self, answers: impl IntoIterator<Item = Value>) -> Confirmation {
        let mut answers = answers.into_iter();
        let mut has = |enough: &dyn Fn(&Value) -> bool| {
            let answer = answers.next().unwrap_or(Value::Nil).extract_error();
            answer.map(|answer| enough(&answer))
        };
        let replicas = match self.replicas {
            0 => Ok(true),
            wanted => has(&|said| matches!(said, Value::Int(said) if *said >= i64::from(wanted))),
        };
        let files = match self.aof_replicas {
            None => Ok(true),
            Some(wanted) => has(&|said| match said {
                Value::Array(said) => matches!(
                    said[..],
                    [Value::Int(own), Value::Int(others)]
                        if own >= 1 && others >= i64::from(wanted)
                ),
                _ => false,
            }),
        };
        match (replicas, files) {
            (Ok(true), Ok(true)) => Confirmation::Confirmed,
            (Ok(_), Ok(_)) => Confirmation::Unconfirmed,
            (Err(error), _) | (_, Err(error)) => Confirmation::Unknown(error),
        }
    }
}

/// Whether a write is confirmed.
#[derive(Clone, Debug)]
pub(super) enum Confirmation {
    /// Everything required has it. By default nothing is required.
    Confirmed,
    /// Fewer replicas or files than required had it in time.
    Unconfirmed,
    /// The server refused to say.
    Unknown(RedisError),
}

impl Confirmation {
    /// # Errors
    /// When it is not confirmed. It was written all the same.
    pub(super) fn check(self) -> Result<(), StoreError> {
        match self {
            Self::Confirmed => Ok(()),
            Self::Unconfirmed => Err(StoreError::not_ready(NAME, NotReplicated)),
            Self::Unknown(error) => Err(CallError::Refused(error).into()),
        }
    }
}

#[derive(Debug)]
pub(super) struct NotReplicated;

impl fmt::Display for NotReplicated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("fewer replicas or append-only files than required had the write in time")
    }
}

impl std::error::Error for NotReplicated {}
