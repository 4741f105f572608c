//! Follows a cluster's redirections.
//!
//! The driver's connection would do it, and would as well send a command again whose answer was
//! lost; then an error that a node answers would say nothing of the first try. So it is told to
//! try once, and what a node answers without having done anything is tried again here.

use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{Route, SingleNodeRoutingInfo, SlotAddr};
use redis::{Cmd, ErrorKind, Pipeline, RedisError, ServerErrorKind, Value, cmd, pipe};
use tokio::time::sleep;

use super::errors::slots_move;
use super::target::Target;

/// How often a command is sent until a node takes it, and the first pause between two; doubled
/// each time. Slots that move in between settle within them.
const TRIES: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(5);

/// What is sent to one node.
pub(super) enum Sent<'a> {
    Command(&'a Cmd),
    /// An error that the node answers to one of the commands is a value, unless it is a redirection.
    Pipeline {
        key: &'a [u8],
        commands: &'a Pipeline,
    },
}

/// Sends to the node that has the key, and takes the answers, one for each command.
pub(super) async fn send(
    connection: &mut ClusterConnection,
    target: &Target,
    sent: Sent<'_>,
) -> Result<Vec<Value>, RedisError> {
    let mut pause = FIRST_PAUSE;
    let mut answers = once(connection, &sent).await;
    for _ in 1..TRIES {
        let error = match answers {
            Err(error) if is_redirection(&error) => error,
            answers => return answers,
        };
        answers = match node_to_ask(&error) {
            Some((host, port)) => ask(target, host, port, &sent).await,
            None => {
                // The driver learns the new map meanwhile.
                sleep(pause).await;
                pause *= 2;
                once(connection, &sent).await
            }
        };
    }
    match answers {
        Err(error) if is_redirection(&error) => Err(slots_move(&error)),
        answers => answers,
    }
}

async fn once(
    connection: &mut ClusterConnection,
    sent: &Sent<'_>,
) -> Result<Vec<Value>, RedisError> {
    match sent {
        Sent::Command(command) => {
            let answer = connection.req_packed_command(command).await?;
            Ok(vec![answer.extract_error()?])
        }
        Sent::Pipeline { key, commands } => {
            let route = Route::with_key(key, SlotAddr::Master);
            let node = SingleNodeRoutingInfo::SpecificNode(route);
            let (commands, count) = ((*commands).clone(), commands.len());
            connection.route_pipeline(commands, 0, count, node).await
        }
    }
}

/// Asks the node that takes a slot over, which serves it to those who were sent. Over a connection
/// of its own: slots move one at a time, and seldom.
async fn ask(
    target: &Target,
    host: &str,
    port: u16,
    sent: &Sent<'_>,
) -> Result<Vec<Value>, RedisError> {
    let opened = target.connect_to_node(host, port).await;
    // Nothing was sent to anybody.
    let mut node = opened.map_err(|error| slots_move(&error))?;
    let mut answers = Vec::new();
    let commands: Vec<_> = match sent {
        Sent::Command(command) => vec![*command],
        Sent::Pipeline { commands, .. } => commands.cmd_iter().collect(),
    };
    for command in commands {
        // For the next command alone.
        let mut both = pipe();
        both.add_command(cmd("ASKING")).add_command(command.clone());
        answers.extend(node.req_packed_commands(&both, 1, 1).await?);
    }
    match (sent, answers.first()) {
        (Sent::Command(_), Some(Value::ServerError(error))) => Err(error.clone().into()),
        (Sent::Pipeline { .. }, Some(Value::ServerError(error))) => {
            let error = RedisError::from(error.clone());
            match is_redirection(&error) {
                true => Err(error),
                false => Ok(answers),
            }
        }
        _ => Ok(answers),
    }
}

fn is_redirection(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(
            ServerErrorKind::Moved | ServerErrorKind::Ask | ServerErrorKind::TryAgain
        )
    )
}

fn node_to_ask(error: &RedisError) -> Option<(&str, u16)> {
    if error.kind() != ErrorKind::Server(ServerErrorKind::Ask) {
        return None;
    }
    let (address, _) = error.redirect_node()?;
    let (host, port) = address.rsplit_once(':')?;
    Some((host, port.parse().ok()?))
}
