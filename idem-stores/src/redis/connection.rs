//! An open connection to a server or a cluster, shared by many calls: commands, confirmed writes,
//! subscriptions. Knows nothing of records.

use std::sync::Arc;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster_async::ClusterConnection;
use redis::{Cmd, RedisError, Value, cmd, pipe};

use super::durability::{Confirmation, Confirmations, Durability};
use super::redirects::{self, Request};
use super::target::{DriverConnection, Target};

#[derive(Clone)]
pub(super) enum Connection {
    Single(MultiplexedConnection, Arc<Confirmations>),
    Cluster(ClusterConnection, Arc<Target>),
}

/// The answer to a write, and whether it is confirmed.
pub(super) struct Written {
    pub(super) answer: Value,
    pub(super) confirmation: Confirmation,
}

/// A write of one record.
pub(super) struct Write<'a> {
    pub(super) key: &'a [u8],
    /// Whether an answer says that something was written.
    pub(super) has_written: fn(&Value) -> bool,
    pub(super) durability: &'a Durability,
}

impl Connection {
    pub(super) fn new(driver: DriverConnection, target: Arc<Target>) -> Self {
        match driver {
            DriverConnection::Single(connection) => Self::Single(connection, Arc::default()),
            DriverConnection::Cluster(connection) => Self::Cluster(connection, target),
        }
    }

    pub(super) async fn send(&mut self, command: &Cmd) -> Result<Value, RedisError> {
        match self {
            // To the driver, an error that the server answers is a value.
            Self::Single(connection, _) => connection
                .req_packed_command(command)
                .await?
                .extract_error(),
            Self::Cluster(connection, target) => {
                let request = Request::Command(command);
                let answers = redirects::send(connection, target, request).await?;
                Ok(answers.into_iter().next().unwrap_or(Value::Nil))
            }
        }
    }

    /// Sends a command. If it has written, waits until the write is confirmed.
    pub(super) async fn write(
        &mut self,
        command: &Cmd,
        write: &Write<'_>,
    ) -> Result<Written, RedisError> {
        let Write {
            key,
            has_written,
            durability,
        } = write;
        if !durability.is_required() {
            return Ok(Written {
                answer: self.send(command).await?,
                confirmation: Confirmation::Confirmed,
            });
        }
        match self {
            Self::Single(connection, confirmations) => {
                let answer = connection.req_packed_command(command).await?;
                let answer = answer.extract_error()?;
                let confirmation = match has_written(&answer) {
                    true => confirmations.wait(connection, durability).await?,
                    false => Confirmation::Confirmed,
                };
                Ok(Written {
                    answer,
                    confirmation,
                })
            }
            Self::Cluster(connection, target) => {
                let mut all = pipe();
                all.add_command(command.clone());
                for wait in durability.commands() {
                    all.add_command(wait);
                }
                let commands = &all;
                let request = Request::Pipeline { key, commands };
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
        }
    }

    /// Subscribes to one sharded channel; the answer is the server's.
    pub(super) async fn subscribe(&mut self, channel: &[u8]) -> Result<(), RedisError> {
        match self {
            Self::Single(..) => self.send(cmd("SSUBSCRIBE").arg(channel)).await.map(drop),
            Self::Cluster(connection, _) => connection.ssubscribe(channel).await,
        }
    }

    pub(super) async fn unsubscribe(&mut self, channel: &[u8]) -> Result<(), RedisError> {
        match self {
            Self::Single(..) => self.send(cmd("SUNSUBSCRIBE").arg(channel)).await.map(drop),
            Self::Cluster(connection, _) => connection.sunsubscribe(channel).await,
        }
    }
}
