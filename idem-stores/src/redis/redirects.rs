//! Follows a cluster's redirections.
//!
//! The driver's connection would follow them, too. But it would also send a command again whose answer
//! was lost, and then an error that a node answers would say nothing of the first try. So the driver
//! tries once, and redirections, which have no effect, are followed here.

use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{Route, SingleNodeRoutingInfo, SlotAddr};
use redis::{Cmd, ErrorKind, Pipeline, RedisError, ServerErrorKind, Value, cmd, pipe};
use tokio::time::sleep;

use super::errors::slots_are_moving;
use super::target::Target;
use crate::backoff::Backoff;

/// How often a command is sent until a node takes it, and the pauses between. Slots that move
/// meanwhile settle within them.
const MAX_TRIES: u32 = 6;
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(160));

/// What is sent to one node.
pub(super) enum Request<'a> {
    Command(&'a Cmd),
    /// An error that the node answers to one command is a value, unless it is a redirection.
    Pipeline {
        key: &'a [u8],
        commands: &'a Pipeline,
    },
}

/// Sends to the node that has the key, and takes the answers, one for each command.
pub(super) async fn send(
    connection: &mut ClusterConnection,
    target: &Target,
    request: Request<'_>,
) -> Result<Vec<Value>, RedisError> {
    let mut pauses = 0;
    let mut answers = send_once(connection, &request).await;
    for _ in 1..MAX_TRIES {
        let error = match answers {
            Err(error) if is_redirection(&error) => error,
            answers => return answers,
        };
        answers = match asked_node(&error) {
            Some((host, port)) => send_asking(target, host, port, &request).await,
            None => {
                // The driver learns the new map meanwhile.
                pauses += 1;
                sleep(BACKOFF.after(pauses)).await;
                send_once(connection, &request).await
            }
        };
    }
    match answers {
        Err(error) if is_redirection(&error) => Err(slots_are_moving(&error)),
        answers => answers,
    }
}

async fn send_once(
    connection: &mut ClusterConnection,
    request: &Request<'_>,
) -> Result<Vec<Value>, RedisError> {
    match request {
        Request::Command(command) => {
            let answer = connection.req_packed_command(command).await?;
            Ok(vec![answer.extract_error()?])
        }
        Request::Pipeline { key, commands } => {
            let route = Route::with_key(key, SlotAddr::Master);
            let node = SingleNodeRoutingInfo::SpecificNode(route);
            let (commands, count) = ((*commands).clone(), commands.len());
            connection.route_pipeline(commands, 0, count, node).await
        }
    }
}

/// Sends to the node that takes a slot over, which serves it to redirected clients. Over a connection
/// of its own: slots move one at a time, and seldom.
async fn send_asking(
    target: &Target,
    host: &str,
    port: u16,
    request: &Request<'_>,
) -> Result<Vec<Value>, RedisError> {
    let opened = target.connect_to_node(host, port).await;
    // Nothing was sent.
    let mut node = opened.map_err(|error| slots_are_moving(&error))?;
    let mut answers = Vec::new();
    let commands: Vec<_> = match request {
        Request::Command(command) => vec![*command],
        Request::Pipeline { commands, .. } => commands.cmd_iter().collect(),
    };
    for command in commands {
        // It holds for the next command alone.
        let mut both = pipe();
        both.add_command(cmd("ASKING")).add_command(command.clone());
        answers.extend(node.req_packed_commands(&both, 1, 1).await?);
    }
    match (request, answers.first()) {
        (Request::Command(_), Some(Value::ServerError(error))) => Err(error.clone().into()),
        (Request::Pipeline { .. }, Some(Value::ServerError(error))) => {
            let error = RedisError::from(error.clone());
            match is_redirection(&error) {
                true => Err(error),
                false => Ok(answers),
            }
        }
        _ => Ok(answers),
    }
}

pub(super) fn is_redirection(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(
            ServerErrorKind::Moved | ServerErrorKind::Ask | ServerErrorKind::TryAgain
        )
    )
}

fn asked_node(error: &RedisError) -> Option<(&str, u16)> {
    if error.kind() != ErrorKind::Server(ServerErrorKind::Ask) {
        return None;
    }
    let (address, _) = error.redirect_node()?;
    let (host, port) = address.rsplit_once(':')?;
    Some((host, port.parse().ok()?))
}
