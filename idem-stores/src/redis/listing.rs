//! Records page by page: `SCAN`, node by node, over a connection that is opened for the page. Knows
//! nothing of claims, which go on over theirs meanwhile.
//!
//! What `SCAN` promises is what a listing promises: a record that stands from the first page to the
//! last is on one of them, and may be on two if the server's table grows or shrinks meanwhile. `SCAN`'s
//! cursor is good for one server: after a restart or a failover the listing ends with an error. In a
//! cluster a record whose slot moves meanwhile may be missed.
//!
//! A cursor is `1.NODE.RUN.CURSOR`, and then, where a page has ended within an answer to `SCAN`, the
//! beginnings of the ids that were on pages already.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use idem_core::{Cursor, Listed, Listing, Page, RecordId, StoreError};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{RedisError, Value, cmd, pipe};
use tokio::time::{Instant, timeout_at};

use super::NAME;
use super::backend::Backend;
use super::errors::{CallError, UNREADABLE};
use super::record;
use super::redirects;
use super::target::{Node, Target};

/// How many keys one `SCAN` looks at: the server serves nobody else meanwhile.
const KEYS_PER_SCAN: usize = 100;

/// The most answers to `SCAN` for one page. Keys that are no records, or are not asked for, count too.
const MAX_SCANS: usize = 100;

/// How much of an id is in a cursor.
const ID_PREFIX: usize = 8;

/// One page.
pub(super) async fn page(backend: &Backend, listing: &Listing) -> Result<Page, StoreError> {
    let target = &*backend.target;
    let deadline = Instant::now() + target.command_timeout;
    let _permit = backend.lanes.listing(deadline).await?;
    let page = timeout_at(deadline, scan(backend, listing, deadline)).await;
    page.unwrap_or_else(|_| {
        let silent = RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
        Err(StoreError::unavailable(NAME, silent))
    })
}

async fn scan(backend: &Backend, listing: &Listing, deadline: Instant) -> Result<Page, StoreError> {
    let mut place = match &listing.after {
        Some(cursor) => Some(Place::read(cursor.as_str()).ok_or_else(no_cursor)?),
        None => None,
    };
    let nodes = nodes(backend).await?;
    let at = match &place {
        Some(place) => nodes.iter().position(|node| node.hash() == place.node),
        None => Some(0),
    };
    // A node has gone, and with it the way through its records.
    let (at, node) = at
        .and_then(|at| Some((at, nodes.get(at)?)))
        .ok_or_else(interrupted)?;
    let mut connection = opened(&backend.target, node).await?;
    let run = run_of(&mut connection).await;
    if place.as_ref().is_some_and(|place| place.run != run) {
        return Err(interrupted());
    }
    let mut place = place.take().unwrap_or_else(|| Place::beginning(node, run));
    let enough = deadline - backend.target.command_timeout / 2;
    let mut records = Vec::new();
    for _ in 0..MAX_SCANS {
        let (next, ids) = batch(&mut connection, &backend.prefix, place.cursor).await?;
        let found = look(&mut connection, backend, ids, |listed| {
            listing.includes(listed.state, &listed.operation)
                && !place.seen.contains(&prefix_of(&listed.id))
        });
        let mut found = found.await?;
        let room = listing.limit() - records.len();
        if found.len() > room {
            // Rather the page before is short than that an answer is told in two.
            if records.is_empty() {
                found.sort_unstable_by_key(|listed| listed.id);
                found.truncate(room);
                let seen = found.iter().map(|listed| prefix_of(&listed.id));
                place.seen.extend(seen);
                records = found;
            }
            return Ok(Page::new(records, Some(place.cursor())));
        }
        records.extend(found);
        place.cursor = next;
        place.seen.clear();
        if next == 0 {
            let next = nodes.get(at + 1);
            let next = next.map(|node| Cursor::new(format!("1.{:08x}.*.0", node.hash())));
            return Ok(Page::new(records, next));
        }
        if records.len() == listing.limit() || Instant::now() >= enough {
            break;
        }
    }
    Ok(Page::new(records, Some(place.cursor())))
}

/// Where a listing goes on.
struct Place {
    node: u32,
    run: Run,
    cursor: u64,
    /// Beginnings of ids.
    seen: HashSet<String>,
}

/// Which run of a server a cursor is good for.
#[derive(Clone, Copy, Debug, Eq)]
enum Run {
    /// Of any: its first `SCAN` is still to come.
    Any,
    Of(u32),
}

impl PartialEq for Run {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Of(one), Self::Of(other)) => one == other,
            _ => true,
        }
    }
}

impl Place {
    fn beginning(node: &Node, run: Run) -> Self {
        Self {
            node: node.hash(),
            run,
            cursor: 0,
            seen: HashSet::new(),
        }
    }

    fn read(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let hex = |text: Option<&str>| u32::from_str_radix(text?, 16).ok();
        if parts.next() != Some("1") {
            return None;
        }
        let node = hex(parts.next())?;
        let run = match parts.next() {
            Some("*") => Run::Any,
            run => Run::Of(hex(run)?),
        };
        let cursor = parts.next()?.parse().ok()?;
        Some(Self {
            node,
            run,
            cursor,
            seen: parts.map(str::to_owned).collect(),
        })
    }

    fn cursor(&self) -> Cursor {
        let run = match self.run {
            Run::Any => "*".to_owned(),
            Run::Of(run) => format!("{run:08x}"),
        };
        let mut text = format!("1.{:08x}.{run}.{}", self.node, self.cursor);
        for seen in &self.seen {
            text.push('.');
            text.push_str(seen);
        }
        Cursor::new(text)
    }
}

fn prefix_of(id: &RecordId) -> String {
    let encoded = record::encoded_id(id);
    String::from_utf8_lossy(&encoded[..ID_PREFIX]).into_owned()
}

/// The servers that take writes, in the order in which they are listed.
async fn nodes(backend: &Backend) -> Result<Vec<Node>, StoreError> {
    if !backend.target.is_cluster() {
        return Ok(vec![Node::Primary]);
    }
    let mut slots = cmd("CLUSTER");
    slots.arg("SLOTS");
    let slots = backend.lanes.claim_link().send(&slots).await?;
    let mut nodes = Node::of_slots(slots);
    nodes.sort_unstable_by_key(Node::hash);
    nodes.dedup();
    Ok(nodes)
}

async fn opened(target: &Target, node: &Node) -> Result<MultiplexedConnection, StoreError> {
    let opened = target.connect_to(node).await;
    opened.map_err(|error| CallError::from_opening(error).into())
}

fn failed(error: RedisError) -> StoreError {
    CallError::from_command(error).into()
}

async fn ask(
    connection: &mut MultiplexedConnection,
    command: &redis::Cmd,
) -> Result<Value, StoreError> {
    let answer = connection.req_packed_command(command).await;
    answer.and_then(Value::extract_error).map_err(failed)
}

/// Which run of the server this is, where the login may know.
async fn run_of(connection: &mut MultiplexedConnection) -> Run {
    let info = ask(connection, cmd("INFO").arg("server")).await;
    let text = match info {
        Ok(Value::BulkString(text)) => String::from_utf8(text).unwrap_or_default(),
        _ => return Run::Any,
    };
    let mut lines = text.lines();
    match lines.find_map(|line| line.strip_prefix("run_id:")) {
        Some(run) => Run::Of(crc32fast::hash(run.trim().as_bytes())),
        None => Run::Any,
    }
}

/// One answer to `SCAN`: the next cursor, and the ids of records.
async fn batch(
    connection: &mut MultiplexedConnection,
    prefix: &[u8],
    cursor: u64,
) -> Result<(u64, Vec<RecordId>), StoreError> {
    let mut scan = cmd("SCAN");
    scan.arg(cursor).arg("MATCH").arg(pattern(prefix));
    scan.arg("COUNT")
        .arg(KEYS_PER_SCAN)
        .arg("TYPE")
        .arg("string");
    let answer = ask(connection, &scan).await?;
    let (next, keys): (u64, Vec<Vec<u8>>) =
        redis::from_redis_value(answer).map_err(|_| UNREADABLE)?;
    let ids = keys.iter().filter_map(|key| record::id_of(prefix, key));
    // One answer may have a key twice.
    let ids: HashSet<RecordId> = ids.collect();
    Ok((next, ids.into_iter().collect()))
}

/// A glob pattern of the prefix and an encoded id.
fn pattern(prefix: &[u8]) -> Vec<u8> {
    let mut pattern = Vec::with_capacity(2 * prefix.len() + 43);
    for byte in prefix {
        if b"*?[]^\\".contains(byte) {
            pattern.push(b'\\');
        }
        pattern.push(*byte);
    }
    pattern.extend_from_slice(&[b'?'; 43]);
    pattern
}

/// What is asked for of these records. One that has gone, or cannot be read, is left out.
async fn look(
    connection: &mut MultiplexedConnection,
    backend: &Backend,
    ids: Vec<RecordId>,
    is_asked_for: impl Fn(&Listed) -> bool,
) -> Result<Vec<Listed>, StoreError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let script = &backend.scripts.listed;
    let mut listed = Vec::new();
    let by_hash = looks(backend, &ids, "EVALSHA", script.hash());
    let mut answers = send_all(connection, &by_hash).await?;
    let is_unknown = |answer: &Value| match answer {
        Value::ServerError(error) => error.code() == "NOSCRIPT",
        _ => false,
    };
    if answers.iter().any(is_unknown) {
        let by_text = looks(backend, &ids, "EVAL", script.text());
        answers = send_all(connection, &by_text).await?;
    }
    for (id, answer) in ids.into_iter().zip(answers) {
        let parts = match answer {
            Value::Array(parts) => parts,
            Value::ServerError(error) => match RedisError::from(error) {
                // It is another node's by now.
                error if redirects::is_redirection(&error) => continue,
                error => return Err(failed(error)),
            },
            _ => continue,
        };
        let [
            Value::BulkString(head),
            Value::Int(length),
            Value::BulkString(tail),
            Value::Int(left),
        ] = &parts[..]
        else {
            continue;
        };
        let (Ok(length), Ok(left)) = (usize::try_from(*length), u64::try_from(*left)) else {
            continue;
        };
        let found = record::listed(id, head, length, tail, Duration::from_millis(left));
        listed.extend(found.filter(&is_asked_for));
    }
    Ok(listed)
}

fn looks(backend: &Backend, ids: &[RecordId], name: &str, script: &str) -> redis::Pipeline {
    let mut looks = pipe();
    for id in ids {
        let key = record::key(&backend.prefix, id);
        looks.cmd(name).arg(script).arg(1).arg(key);
    }
    looks
}

async fn send_all(
    connection: &mut MultiplexedConnection,
    commands: &redis::Pipeline,
) -> Result<Vec<Value>, StoreError> {
    let answers = connection.req_packed_commands(commands, 0, commands.len());
    answers.await.map_err(failed)
}

fn no_cursor() -> StoreError {
    StoreError::rejected(NAME, NoCursor)
}

fn interrupted() -> StoreError {
    StoreError::not_ready(NAME, Interrupted)
}

#[derive(Debug)]
struct NoCursor;

impl fmt::Display for NoCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the cursor is none that this store has made")
    }
}

impl std::error::Error for NoCursor {}

#[derive(Debug)]
struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the server was restarted or replaced while its records were listed; list them from the beginning",
        )
    }
}

impl std::error::Error for Interrupted {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_is_written() {
        let seen = HashSet::from(["AAAA-_09".to_owned(), "BBBBBBBB".to_owned()]);
        for (run, seen) in [(Run::Any, HashSet::new()), (Run::Of(7), seen)] {
            let place = Place {
                node: 0xdead_beef,
                run,
                cursor: u64::MAX,
                seen,
            };
            let read = Place::read(place.cursor().as_str()).unwrap();
            assert_eq!((read.node, read.cursor), (place.node, place.cursor));
            assert_eq!(read.seen, place.seen);
            assert_eq!(read.cursor().as_str().len(), place.cursor().as_str().len());
        }
        for text in ["", "1", "2.0.0.0", "1.x.*.0", "1.0.*.-1", "1.0.*."] {
            assert!(Place::read(text).is_none(), "{text}");
        }
    }
}
