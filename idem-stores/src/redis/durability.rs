//! What a write waits for before it counts: replicas that have it (`WAIT`), files that have it
//! (`WAITAOF`).
//!
//! Both speak of what their own connection has written, so they are sent over the connection that
//! wrote. They keep it from everything else meanwhile: writes that are answered while one waits
//! share the next.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use idem_core::StoreError;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Cmd, RedisError, Value, cmd};
use tokio::sync::Mutex;

use super::NAME;
use super::errors::CallError;

/// Who must have a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Durability {
    /// So many replicas, in memory.
    pub(super) replicas: u32,
    /// The primary's append-only file, and those of so many replicas.
    pub(super) files: Option<u32>,
    /// How long they are waited for.
    pub(super) patience: Duration,
}

impl Durability {
    pub(super) const fn is_asked(&self) -> bool {
        self.replicas > 0 || self.files.is_some()
    }

    pub(super) fn commands(&self) -> Vec<Cmd> {
        // 0 would be for ever.
        let millis = self.patience.as_millis().clamp(1, 60_000);
        let millis = u64::try_from(millis).unwrap_or(1);
        let mut commands = Vec::new();
        if self.replicas > 0 {
            let mut wait = cmd("WAIT");
            wait.arg(self.replicas).arg(millis);
            commands.push(wait);
        }
        if let Some(replicas) = self.files {
            let mut wait = cmd("WAITAOF");
            wait.arg(1).arg(replicas).arg(millis);
            commands.push(wait);
        }
        commands
    }

    /// What these answers to the commands say.
    pub(super) fn reach(&self, answers: impl IntoIterator<Item = Value>) -> Reach {
        let mut answers = answers.into_iter();
        let mut has = |enough: &dyn Fn(&Value) -> bool| {
            let answer = answers.next().unwrap_or(Value::Nil).extract_error();
            answer.map(|answer| enough(&answer))
        };
        let replicas = match self.replicas {
            0 => Ok(true),
            wanted => has(&|said| matches!(said, Value::Int(said) if *said >= i64::from(wanted))),
        };
        let files = match self.files {
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
            (Ok(true), Ok(true)) => Reach::Everybody,
            (Ok(_), Ok(_)) => Reach::NotEverybody,
            (Err(error), _) | (_, Err(error)) => Reach::Unknown(error),
        }
    }
}

/// Whom a write has reached.
#[derive(Clone, Debug)]
pub(super) enum Reach {
    /// Everybody who is waited for. Nobody is, unless that was asked for.
    Everybody,
    /// Fewer, within the time.
    NotEverybody,
    /// The server refused to say.
    Unknown(RedisError),
}

impl Reach {
    /// # Errors
    /// When it has not reached everybody. It was written all the same.
    pub(super) fn check(self) -> Result<(), StoreError> {
        match self {
            Self::Everybody => Ok(()),
            Self::NotEverybody => Err(StoreError::not_ready(NAME, NotEverybody)),
            Self::Unknown(error) => Err(CallError::Answered(error).into()),
        }
    }
}

/// The writes of one connection, and which of them everybody has.
#[derive(Debug, Default)]
pub(super) struct Confirmations {
    written: AtomicU64,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Everybody has the writes up to this one.
    reached: u64,
    /// Somebody did not have those up to this one in time.
    missed: u64,
}

impl Confirmations {
    /// Waits until everybody has what this connection was answered before.
    ///
    /// # Errors
    /// When the connection fails, or is silent.
    pub(super) async fn wait(
        &self,
        connection: &mut MultiplexedConnection,
        durability: &Durability,
    ) -> Result<Reach, RedisError> {
        let write = self.written.fetch_add(1, Ordering::AcqRel) + 1;
        let mut known = self.known.lock().await;
        if write <= known.reached {
            return Ok(Reach::Everybody);
        }
        if write <= known.missed {
            return Ok(Reach::NotEverybody);
        }
        let upto = self.written.load(Ordering::Acquire);
        let mut answers = Vec::new();
        for command in durability.commands() {
            answers.push(connection.req_packed_command(&command).await?);
        }
        let reach = durability.reach(answers);
        match reach {
            Reach::Everybody => known.reached = upto,
            Reach::NotEverybody => known.missed = upto,
            Reach::Unknown(_) => {}
        }
        Ok(reach)
    }
}

#[derive(Debug)]
pub(super) struct NotEverybody;

impl fmt::Display for NotEverybody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("fewer replicas or files than are waited for had the write in time")
    }
}

impl std::error::Error for NotEverybody {}
