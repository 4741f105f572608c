//! A statement with its values, and the two ways to send it. Knows nothing of records.
//!
//! Prepared, it is planned once per connection. As one message of the simple protocol, with the
//! values written into it, it is right behind a pooler that gives each transaction another session,
//! where nothing that was prepared before can be counted on.
//!
//! Whichever way it is sent, it names itself: `$1` is its name, which its text compares with its
//! own, and its row says which statement has answered. Where a pooler mixes up the prepared
//! statements of its clients another one may be executed; it then changes nothing, and its answer is
//! not taken for this one's.

use std::fmt::{self, Write as _};
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use sqlx::postgres::{PgArguments, PgConnection, PgRow, PgValueFormat};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Error, Executor, Postgres, Row, ValueRef};

/// What statements begin with on connections that are not the store's own: the server shows which
/// of them hang, and that they are this process's.
pub(super) static MARK: LazyLock<String> =
    LazyLock::new(|| format!("/* idem {:032x} */ ", rand::random::<u128>()));

/// A statement's text, and the name that it calls itself.
#[derive(Debug)]
pub(super) struct Text {
    pub(super) name: &'static str,
    pub(super) sql: &'static str,
    /// The same behind [`MARK`].
    pub(super) marked: LazyLock<String>,
}

macro_rules! text {
    ($name:literal, $file:literal) => {
        $crate::postgres::statement::Text {
            name: $name,
            sql: include_str!($file),
            marked: ::std::sync::LazyLock::new(|| {
                format!(
                    "{}{}",
                    *$crate::postgres::statement::MARK,
                    include_str!($file)
                )
            }),
        }
    };
}
pub(super) use text;

/// One of a statement's values.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'q> {
    Bytes(&'q [u8]),
    /// Bytes that are made for the statement: a fingerprint's.
    Fingerprint([u8; idem_core::Fingerprint::LEN]),
    MaybeBytes(Option<&'q [u8]>),
    Integer(i32),
    Bigint(i64),
    MaybeBigint(Option<i64>),
    Boolean(bool),
}

/// How statements are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// Prepared once per connection, which is the store's own.
    Prepared,
    /// The same, on a connection of the application's.
    PreparedMarked,
    /// As one message each.
    Simple,
}

/// What a message sets for its own transaction, so that nobody else sees anything of it who is
/// given the same session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The server gives the statement up after so long.
    pub(super) timeout: Duration,
}

/// A statement with its values.
#[derive(Clone, Debug)]
pub(super) struct Statement<'q> {
    text: &'static Text,
    values: Vec<Value<'q>>,
    is_planned_anew: bool,
}

impl<'q> Statement<'q> {
    pub(super) fn new<const N: usize>(text: &'static Text, values: [Value<'q>; N]) -> Self {
        Self {
            text,
            values: values.into(),
            is_planned_anew: false,
        }
    }

    /// Planned each time that it is sent: its plan depends on what there is.
    pub(super) const fn planned_anew(mut self) -> Self {
        self.is_planned_anew = true;
        self
    }

    /// How long the server may take over it, of the time that a call has. What is planned anew is
    /// long work that can be divided, so that it is known in time that it must be.
    pub(super) fn may_take(&self, timeout: Duration) -> Duration {
        match self.is_planned_anew {
            true => timeout / 2,
            false => timeout,
        }
    }

    /// Sends it, and gives its one row.
    pub(super) async fn ask(
        &self,
        connection: &mut PgConnection,
        protocol: Protocol,
        limits: Option<Limits>,
    ) -> Result<PgRow, Error> {
        let row = match protocol {
            _ if self.is_planned_anew => self.send(connection, limits).await,
            Protocol::Prepared => connection.fetch_optional(self.query(self.text.sql)).await,
            Protocol::PreparedMarked => {
                connection
                    .fetch_optional(self.query(&self.text.marked))
                    .await
            }
            Protocol::Simple => self.send(connection, limits).await,
        };
        let row = row?.ok_or_else(another_statement)?;
        // By its place: of another statement's row nothing else is known.
        match row.try_get::<&str, _>(0) {
            Ok(name) if name == self.text.name => Ok(row),
            _ => Err(another_statement()),
        }
    }

    async fn send(
        &self,
        connection: &mut PgConnection,
        limits: Option<Limits>,
    ) -> Result<Option<PgRow>, Error> {
        let message = AssertSqlSafe(self.message(limits));
        sqlx::raw_sql(message).fetch_optional(connection).await
    }

    fn query(&self, sql: &'static str) -> Query<'static, Postgres, PgArguments> {
        let named = sqlx::query(sql).bind(self.text.name);
        self.values.iter().fold(named, |query, value| match *value {
            Value::Bytes(bytes) => query.bind(bytes),
            Value::Fingerprint(bytes) => query.bind(bytes),
            Value::MaybeBytes(bytes) => query.bind(bytes),
            Value::Integer(number) => query.bind(number),
            Value::Bigint(number) => query.bind(number),
            Value::MaybeBigint(number) => query.bind(number),
            Value::Boolean(boolean) => query.bind(boolean),
        })
    }

    /// The statement with its values, which are numbers and hexadecimal digits, so that nothing in
    /// them can mean anything else whatever the session's settings.
    fn message(&self, limits: Option<Limits>) -> String {
        let bytes = self.values.iter().map(|value| match value {
            Value::Bytes(bytes) | Value::MaybeBytes(Some(bytes)) => bytes.len(),
            _ => 0,
        });
        let room = self.text.sql.len() + 256 + 2 * bytes.sum::<usize>();
        let mut message = String::with_capacity(room);
        if let Some(limits) = limits {
            message.push_str(&MARK);
            // A session that was made for somebody else may plan otherwise.
            let _ = write!(
                message,
                "SET LOCAL enable_seqscan = off; SET LOCAL jit = off; SET LOCAL statement_timeout = {}; ",
                in_settings(limits.timeout)
            );
        }
        for line in self.text.sql.lines() {
            if line.trim_start().starts_with("--") {
                continue;
            }
            self.write_line(&mut message, line);
            message.push('\n');
        }
        message
    }

    fn write_line(&self, message: &mut String, mut line: &str) {
        while let Some((before, after)) = line.split_once('$') {
            let digits = after.bytes().take_while(u8::is_ascii_digit).count();
            let (number, rest) = after.split_at(digits);
            message.push_str(before);
            match number.parse::<usize>() {
                Ok(1) => {
                    let _ = write!(message, "'{}'", self.text.name);
                }
                Ok(number) => self.values[number - 2].write(message),
                Err(_) => message.push('$'),
            }
            line = rest;
        }
        message.push_str(line);
    }
}

impl Value<'_> {
    fn write(&self, message: &mut String) {
        let _ = match *self {
            Self::Bytes(bytes) | Self::MaybeBytes(Some(bytes)) => {
                write!(message, "decode('{}', 'hex')", Hex(bytes))
            }
            Self::Fingerprint(bytes) => write!(message, "decode('{}', 'hex')", Hex(&bytes)),
            Self::MaybeBytes(None) => write!(message, "NULL::bytea"),
            Self::Integer(number) => write!(message, "({number})"),
            Self::Bigint(number) | Self::MaybeBigint(Some(number)) => {
                write!(message, "({number})")
            }
            Self::MaybeBigint(None) => write!(message, "NULL"),
            Self::Boolean(boolean) => write!(message, "{boolean}"),
        };
    }
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A time in milliseconds, as the server's settings count.
pub(super) fn in_settings(time: Duration) -> u128 {
    time.as_millis().clamp(1, 2_147_483_647)
}

/// Bytes of a row, however it was asked for.
pub(super) fn bytes_of(row: &PgRow, column: &str) -> Result<Option<Bytes>, Error> {
    let value = row.try_get_raw(column)?;
    if value.is_null() {
        return Ok(None);
    }
    let decode = |error| Error::ColumnDecode {
        index: column.to_owned(),
        source: error,
    };
    let format = value.format();
    let bytes = value.as_bytes().map_err(decode)?;
    Ok(Some(match format {
        PgValueFormat::Binary => Bytes::copy_from_slice(bytes),
        PgValueFormat::Text => of_text(bytes)
            .ok_or_else(|| decode("no bytea".into()))?
            .into(),
    }))
}

/// Bytes as the server writes them in text: `bytea_output` is the session's, and may be either.
/// <https://www.postgresql.org/docs/current/datatype-binary.html>
fn of_text(text: &[u8]) -> Option<Vec<u8>> {
    if let Some(digits) = text.strip_prefix(b"\\x") {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        return digits
            .chunks(2)
            .map(|pair| match *pair {
                [high, low] => u8::try_from(digit(high)? * 16 + digit(low)?).ok(),
                _ => None,
            })
            .collect();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter().copied();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => match rest.next()? {
                b'\\' => b'\\',
                high => {
                    let digit = |byte: u8| char::from(byte).to_digit(8);
                    let [high, middle, low] = [high, rest.next()?, rest.next()?].map(digit);
                    u8::try_from(high? * 64 + middle? * 8 + low?).ok()?
                }
            },
            byte => byte,
        });
    }
    Some(bytes)
}

/// What is wrong where statements are mixed up, and what to do.
pub(super) const SHARED_SESSIONS: &str = "a pooler in between gives each transaction another session: \
    say pooler=transaction in the store's URL, or Pooler::Transaction where a pool is given, or \
    have the pooler pool sessions";

/// The answer was that of another statement.
#[derive(Debug)]
pub(super) struct AnotherStatement;

impl fmt::Display for AnotherStatement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the server has answered another statement than the one that was sent; {SHARED_SESSIONS}"
        )
    }
}

impl std::error::Error for AnotherStatement {}

fn another_statement() -> Error {
    Error::Decode(Box::new(AnotherStatement))
}

#[cfg(test)]
mod tests {
    use super::*;

    static TEXT: Text = Text {
        name: "test 1",
        sql: "-- $1 name, $2 bytes\nSELECT 'test 1' AS statement\n  -- and $3\nWHERE $1 = 'x' AND a = $2 AND b = $3::bigint AND c = $4 AND d = $11",
        marked: LazyLock::new(String::new),
    };

    fn statement() -> Statement<'static> {
        let mut values = vec![Value::Boolean(true); 10];
        values[0] = Value::Bytes(&[0, 0x27, 0xff]);
        values[1] = Value::MaybeBigint(None);
        values[2] = Value::MaybeBytes(None);
        values[9] = Value::Bigint(-5);
        Statement {
            text: &TEXT,
            values,
            is_planned_anew: false,
        }
    }

    #[test]
    fn values_are_digits_in_a_message_and_comments_are_left_out() {
        assert_eq!(
            statement().message(None),
            "SELECT 'test 1' AS statement\nWHERE 'test 1' = 'x' AND a = decode('0027ff', 'hex') \
             AND b = NULL::bigint AND c = NULL::bytea AND d = (-5)\n"
        );
    }

    #[test]
    fn what_a_message_sets_ends_with_it() {
        let limits = Limits {
            timeout: Duration::from_millis(1500),
        };
        let message = statement().message(Some(limits));
        assert!(message.starts_with(MARK.as_str()), "{message}");
        assert!(
            message.contains("SET LOCAL statement_timeout = 1500;"),
            "{message}"
        );
        assert_eq!(
            message.matches("SET ").count(),
            message.matches("SET LOCAL ").count()
        );
    }

    #[test]
    fn bytes_are_read_in_both_ways_that_servers_write_them() {
        let all: Vec<u8> = (0..=255).collect();
        let hex = format!("\\x{}", Hex(&all));
        assert_eq!(of_text(hex.as_bytes()), Some(all.clone()));
        let escaped: Vec<u8> = all
            .iter()
            .flat_map(|byte| match byte {
                b'\\' => b"\\\\".to_vec(),
                0x20..=0x7e => vec![*byte],
                byte => format!("\\{byte:03o}").into_bytes(),
            })
            .collect();
        assert_eq!(of_text(&escaped), Some(all));
        for wrong in ["\\x0", "\\x0g", "\\", "\\4", "\\400", "\\8"] {
            assert_eq!(of_text(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(of_text(b""), Some(Vec::new()));
    }
}
