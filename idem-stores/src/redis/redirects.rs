//! Follows a cluster's redirections.
//!
//! The driver's connection would do it, and would as well send a command again whose answer was
//! lost; then an error that a node answers would say nothing of the first try. So it is told to
//! try once, and what a node answers without having done anything is tried again here.

use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::cluster_async::ClusterConnection;
use redis::{Cmd, ErrorKind, RedisError, ServerErrorKind, Value, cmd, pipe};
use tokio::time::sleep;

use super::errors::slots_move;
use super::target::Target;

/// How often a command is sent until a node takes it, and the first pause between two; doubled
/// each time. Slots that move in between settle within them.
const TRIES: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(5);

/// Sends a command to the node that has its key.
pub(super) async fn send(
    connection: &mut ClusterConnection,
    target: &Target,
    command: &Cmd,
) -> Result<Value, RedisError> {
    let mut pause = FIRST_PAUSE;
    let mut answer = connection.req_packed_command(command).await;
    for _ in 1..TRIES {
        let error = match answer.and_then(Value::extract_error) {
            Err(error) if is_redirection(&error) => error,
            answer => return answer,
        };
        answer = match node_to_ask(&error) {
            Some((host, port)) => ask(target, host, port, command).await,
            None => {
                // The driver learns the new map meanwhile.
                sleep(pause).await;
                pause *= 2;
                connection.req_packed_command(command).await
            }
        };
    }
    match answer.and_then(Value::extract_error) {
        Err(error) if is_redirection(&error) => Err(slots_move(&error)),
        answer => answer,
    }
}

/// Asks the node that takes a slot over, which serves it to those who were sent. Over a connection
/// of its own: slots move one at a time, and seldom.
async fn ask(target: &Target, host: &str, port: u16, command: &Cmd) -> Result<Value, RedisError> {
    let opened = target.connect_to_node(host, port).await;
    // Nothing was sent to anybody.
    let mut node = opened.map_err(|error| slots_move(&error))?;
    let mut both = pipe();
    both.add_command(cmd("ASKING")).add_command(command.clone());
    let answers = node.req_packed_commands(&both, 1, 1).await?;
    answers.into_iter().next().ok_or_else(|| {
        let kind = ErrorKind::UnexpectedReturnType;
        (kind, "a command without an answer").into()
    })
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
