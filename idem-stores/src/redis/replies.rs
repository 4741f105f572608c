//! Splits what a server sends into replies (RESP 2).

use redis::{RedisError, Value, parse_redis_value};

/// How deep arrays may lie in arrays. The store's own replies have two levels.
const MAX_DEPTH: usize = 16;

/// The longest string, as servers have it unless they are told otherwise.
const MAX_STRING: usize = 512 * 1024 * 1024;

/// What is known of the first reply.
#[derive(Debug, PartialEq)]
pub(super) enum Reply {
    /// It is whole, and so many bytes long.
    Whole(Value, usize),
    /// It has so many bytes at least.
    NeedsAtLeast(usize),
}

/// Reads the first reply. An error that the server answers is a value.
///
/// # Errors
/// When the bytes are no reply.
pub(super) fn first(bytes: &[u8]) -> Result<Reply, RedisError> {
    let needs = match end(bytes, 0)? {
        End::At(end) => return Ok(Reply::Whole(value(&bytes[..end])?, end)),
        End::After(needs) => needs,
    };
    Ok(Reply::NeedsAtLeast(needs))
}

fn value(reply: &[u8]) -> Result<Value, RedisError> {
    if let [b'$', rest @ ..] = reply
        && let Some(line) = line(rest)?
    {
        let body = rest.get(line.len() + 2..rest.len().saturating_sub(2));
        return Ok(match body {
            Some(body) if !line.starts_with(b"-") => Value::BulkString(body.to_vec()),
            _ => Value::Nil,
        });
    }
    // Rare, or short.
    match reply {
        [b':', rest @ .., b'\r', b'\n'] => number(rest).map(Value::Int),
        _ => parse_redis_value(reply),
    }
}

enum End {
    /// The reply ends here.
    At(usize),
    /// It does not end before.
    After(usize),
}

fn end(bytes: &[u8], depth: usize) -> Result<End, RedisError> {
    let Some((mark, rest)) = bytes.split_first() else {
        return Ok(End::After(1));
    };
    let Some(line) = line(rest)? else {
        return Ok(End::After(bytes.len() + 1));
    };
    let head = 1 + line.len() + 2;
    match mark {
        b'+' | b'-' | b':' => Ok(End::At(head)),
        b'$' => match usize::try_from(number(line)?) {
            Ok(length) if length > MAX_STRING => Err(malformed()),
            Ok(length) => match head + length + 2 {
                end if end <= bytes.len() => Ok(End::At(end)),
                end => Ok(End::After(end)),
            },
            Err(_) => Ok(End::At(head)),
        },
        b'*' if depth < MAX_DEPTH => {
            let mut at = head;
            for _ in 0..number(line)?.max(0) {
                match end(&bytes[at..], depth + 1)? {
                    End::At(end) => at += end,
                    End::After(needs) => return Ok(End::After(at.saturating_add(needs))),
                }
            }
            Ok(End::At(at))
        }
        _ => Err(malformed()),
    }
}

/// What comes before the line's end, if that is there.
fn line(bytes: &[u8]) -> Result<Option<&[u8]>, RedisError> {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\r') else {
        return Ok(None);
    };
    match bytes.get(end + 1) {
        Some(b'\n') => Ok(Some(&bytes[..end])),
        Some(_) => Err(malformed()),
        None => Ok(None),
    }
}

fn number(digits: &[u8]) -> Result<i64, RedisError> {
    let number = std::str::from_utf8(digits)
        .ok()
        .and_then(|digits| digits.parse().ok());
    number.ok_or_else(malformed)
}

fn malformed() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::InvalidData).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(bytes: &[u8]) -> Value {
        match first(bytes).unwrap() {
            Reply::Whole(value, length) if length == bytes.len() => value,
            other => panic!("{other:?}"),
        }
    }

    const REPLIES: &[&[u8]] = &[
        b"+OK\r\n",
        b"+PONG\r\n",
        b":0\r\n",
        b":-12\r\n",
        b"$-1\r\n",
        b"*-1\r\n",
        b"$0\r\n\r\n",
        b"$4\r\n\r\n\r\n\r\n",
        b"*0\r\n",
        b"*2\r\n$6\r\nrecord\r\n:12\r\n",
        b"*2\r\n*1\r\n+a\r\n*-1\r\n",
        b"-NOSCRIPT No matching script.\r\n",
    ];

    #[test]
    fn replies_are_read_as_the_driver_reads_them() {
        for reply in REPLIES {
            assert_eq!(whole(reply), parse_redis_value(reply).unwrap(), "{reply:?}");
        }
    }

    #[test]
    fn a_reply_is_read_when_its_last_byte_is_there() {
        for reply in REPLIES {
            for length in 0..reply.len() {
                match first(&reply[..length]) {
                    Ok(Reply::NeedsAtLeast(needs)) => {
                        assert!(needs > length && needs <= reply.len(), "{reply:?} {length}");
                    }
                    other => panic!("{other:?}: {reply:?} {length}"),
                }
            }
            let more = [reply, &b"+more"[..]].concat();
            assert!(matches!(first(&more), Ok(Reply::Whole(_, length)) if length == reply.len()));
        }
    }

    #[test]
    fn what_is_no_reply_is_an_error() {
        let deep = [&b"*1\r\n".repeat(10_000)[..], b"+OK\r\n"].concat();
        for bytes in [
            b"HTTP/1.1 400\r\n".as_slice(),
            b"$x\r\n",
            b"$9223372036854775807\r\n",
            b":1e3\r\n",
            b"\0\r\n",
            b"+O\rK\r\n",
            &deep,
        ] {
            let read = first(bytes);
            assert!(read.is_err(), "{read:?}: {bytes:?}");
        }
    }
}
