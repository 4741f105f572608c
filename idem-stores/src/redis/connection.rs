//! An open connection to a server or a cluster, shared by many calls: commands, confirmed writes,
//! subscriptions. Knows nothing of records.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster_async::ClusterConnection;
use redis::{RedisError, Value, cmd, pipe};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use super::command::{Command, Word};
use super::durability::{Confirmation, Durability};
use super::redirects::{self, Request};
use super::target::{DriverConnection, Target};
use super::wire::{Call, Wire};

#[derive(Clone)]
pub(super) enum Connection {
    Wire(Arc<(Wire, Confirmations)>),
    /// The driver's: over TLS, and for what the server pushes.
    Driver(Box<(MultiplexedConnection, Arc<Confirmations>)>),
    Cluster(Box<(ClusterConnection, Arc<Target>)>),
}

/// An answer that is on its way.
pub(super) enum Asked<'c> {
    Wire(Call<'c>),
    Driver(BoxFuture<'c, Result<Value, RedisError>>),
}

impl Future for Asked<'_> {
    type Output = Result<Value, RedisError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Wire(call) => Pin::new(call).poll(cx),
            Self::Driver(answer) => answer.as_mut().poll(cx),
        }
    }
}

/// The answer to a write, and whether it is confirmed.
pub(super) struct Written {
    pub(super) answer: Value,
    pub(super) confirmation: Confirmation,
}

/// A write of one record.
pub(super) struct Write<'a> {
    pub(super) key: Word<'a>,
    /// Whether an answer says that something was written.
    pub(super) has_written: fn(&Value) -> bool,
    pub(super) durability: &'a Durability,
}

impl Connection {
    pub(super) fn new(driver: DriverConnection, target: Arc<Target>) -> Self {
        match driver {
            DriverConnection::Wire(wire) => Self::Wire(Arc::new((wire, Confirmations::default()))),
            DriverConnection::Single(connection) => {
                Self::Driver(Box::new((connection, Arc::default())))
            }
            DriverConnection::Cluster(connection) => Self::Cluster(Box::new((connection, target))),
        }
    }

    /// Sends a command and takes its answer, which may be an error that the server answers, as a
    /// value. The command is written at once, and not borrowed any longer.
    ///
    /// # Errors
    /// When the connection fails, or is silent until the deadline.
    pub(super) fn ask<'c, C: Command + ?Sized>(
        &'c mut self,
        command: &C,
        deadline: Instant,
    ) -> Asked<'c> {
        match self {
            Self::Wire(wire) => Asked::Wire(wire.0.send(command, deadline)),
            Self::Driver(driver) => {
                let (connection, command) = (&mut driver.0, command.to_cmd());
                let answer =
                    async move { within(deadline, connection.req_packed_command(&command)).await };
                Asked::Driver(Box::pin(answer))
            }
            Self::Cluster(cluster) => {
                let ((connection, target), command) = (&mut **cluster, command.to_cmd());
                let answer = async move {
                    let answers = redirects::send(connection, target, Request::Command(&command));
                    let answers = within(deadline, answers).await?;
                    Ok(answers.into_iter().next().unwrap_or(Value::Nil))
                };
                Asked::Driver(Box::pin(answer))
            }
        }
    }

    /// The same, and an error that the server answers is an error.
    pub(super) async fn send<C: Command + ?Sized>(
        &mut self,
        command: &C,
        deadline: Instant,
    ) -> Result<Value, RedisError> {
        self.ask(command, deadline).await?.extract_error()
    }

    /// Sends a command. If it has written, waits until the write is confirmed.
    ///
    /// # Errors
    /// As [`ask`](Self::ask); and what the server answers.
    pub(super) async fn write(
        &mut self,
        command: &(impl Command + ?Sized),
        write: &Write<'_>,
        deadline: Instant,
    ) -> Result<Written, RedisError> {
        within(deadline, self.write_confirmed(command, write, deadline)).await
    }

    async fn write_confirmed(
        &mut self,
        command: &(impl Command + ?Sized),
        write: &Write<'_>,
        deadline: Instant,
    ) -> Result<Written, RedisError> {
        let Write {
            key,
            has_written,
            durability,
        } = write;
        let Self::Cluster(cluster) = self else {
            let answer = self.send(command, deadline).await?;
            let confirmation = match has_written(&answer) {
                true => self.confirmed(durability, deadline).await?,
                false => Confirmation::Confirmed,
            };
            return Ok(Written {
                answer,
                confirmation,
            });
        };
        let mut all = pipe();
        all.add_command(command.to_cmd());
        for wait in durability.commands() {
            all.add_command(wait);
        }
        let (key, commands) = (&key.to_vec(), &all);
        let request = Request::Pipeline { key, commands };
        let (connection, target) = &mut **cluster;
        let answers = redirects::send(connection, target, request).await?;
        let mut answers = answers.into_iter();
        let answer = answers.next().unwrap_or(Value::Nil).extract_error()?;
        let confirmation = match has_written(&answer) {
            true => durability.confirmation(answers),
            false => Confirmation::Confirmed,
        };
        Ok(Written {
            answer,
            confirmation,
        })
    }

    /// Waits until the writes that this connection has been answered are confirmed.
    async fn confirmed(
        &mut self,
        durability: &Durability,
        deadline: Instant,
    ) -> Result<Confirmation, RedisError> {
        match self {
            Self::Wire(wire) => {
                let wire = Arc::clone(wire);
                wire.1.wait(self, durability, deadline).await
            }
            Self::Driver(driver) => {
                let confirmations = Arc::clone(&driver.1);
                confirmations.wait(self, durability, deadline).await
            }
            Self::Cluster(..) => Ok(Confirmation::Unconfirmed),
        }
    }

    /// Subscribes to one sharded channel; the answer is the server's.
    pub(super) async fn subscribe(
        &mut self,
        channel: &[u8],
        deadline: Instant,
    ) -> Result<(), RedisError> {
        match self {
            Self::Cluster(cluster) => within(deadline, cluster.0.ssubscribe(channel)).await,
            _ => {
                let command = cmd("SSUBSCRIBE").arg(channel).to_owned();
                self.send(&command, deadline).await.map(drop)
            }
        }
    }

    pub(super) async fn unsubscribe(
        &mut self,
        channel: &[u8],
        deadline: Instant,
    ) -> Result<(), RedisError> {
        match self {
            Self::Cluster(cluster) => within(deadline, cluster.0.sunsubscribe(channel)).await,
            _ => {
                let command = cmd("SUNSUBSCRIBE").arg(channel).to_owned();
                self.send(&command, deadline).await.map(drop)
            }
        }
    }
}

/// The writes of one connection, and which of them are confirmed.
#[derive(Debug, Default)]
pub(super) struct Confirmations {
    written: AtomicU64,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// The writes up to this one are confirmed.
    confirmed: u64,
    /// The writes up to this one were not confirmed in time.
    unconfirmed: u64,
}

impl Confirmations {
    /// Waits until the writes that this connection has been answered are confirmed.
    ///
    /// # Errors
    /// When the connection fails, or is silent.
    pub(super) async fn wait(
        &self,
        connection: &mut Connection,
        durability: &Durability,
        deadline: Instant,
    ) -> Result<Confirmation, RedisError> {
        let write = self.written.fetch_add(1, Ordering::AcqRel) + 1;
        let mut known = self.known.lock().await;
        if write <= known.confirmed {
            return Ok(Confirmation::Confirmed);
        }
        if write <= known.unconfirmed {
            return Ok(Confirmation::Unconfirmed);
        }
        let last_written = self.written.load(Ordering::Acquire);
        let mut answers = Vec::new();
        for command in durability.commands() {
            answers.push(connection.ask(&command, deadline).await?);
        }
        let confirmation = durability.confirmation(answers);
        match confirmation {
            Confirmation::Confirmed => known.confirmed = last_written,
            Confirmation::Unconfirmed => known.unconfirmed = last_written,
            Confirmation::Unknown(_) => {}
        }
        Ok(confirmation)
    }
}

async fn within<T>(
    deadline: Instant,
    answer: impl Future<Output = Result<T, RedisError>>,
) -> Result<T, RedisError> {
    let answer = timeout_at(deadline, answer).await;
    answer.unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
}
