//! A statement with its values, and the two ways to send it. Knows nothing of records.
//!
//! A prepared statement is planned once per connection. Behind a pooler that gives each transaction
//! another session, nothing stays prepared. There a statement is one message of the simple protocol, with
//! its values in the text.
//!
//! Either way, a statement names itself: `$1` is its name, which its text compares with its own, and its
//! row says which statement has answered. If a pooler mixes up the prepared statements of its clients,
//! another one may be executed. It then changes nothing, and its answer is not taken for this one's.

use std::fmt::{self, Write as _};
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use sqlx::postgres::{PgArguments, PgConnection, PgRow, PgValueFormat};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Error, Executor, Postgres, Row, ValueRef};

/// What statements begin with on connections that are not the store's own. By it the server shows which
/// statements are this process's, and hang.
pub(super) static MARK: LazyLock<String> =
    LazyLock::new(|| format!("/* idem {:032x} */ ", rand::random::<u128>()));

/// A statement's text, and its name.
#[derive(Debug)]
pub(super) struct Text {
    pub(super) name: &'static str,
    pub(super) sql: &'static str,
    /// The text behind [`MARK`].
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
    /// Bytes that are owned.
    Fingerprint([u8; idem_core::Fingerprint::LEN]),
    MaybeBytes(Option<&'q [u8]>),
    /// A word of letters.
    MaybeWord(Option<&'static str>),
    Integer(i32),
    Bigint(i64),
    MaybeBigint(Option<i64>),
    Boolean(bool),
}

/// How statements are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// Prepared once per connection of the store's own.
    Prepared,
    /// Prepared, with [`MARK`], on a connection of the application.
    PreparedMarked,
    /// One message of the simple protocol.
    Simple,
}

/// What a message sets for its own transaction only: the session may be shared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// After this time the server gives the statement up.
    pub(super) timeout: Duration,
}

/// A statement with its values.
#[derive(Clone, Debug)]
pub(super) struct Statement<'q> {
    text: &'static Text,
    values: Vec<Value<'q>>,
    is_replanned: bool,
}

impl<'q> Statement<'q> {
    pub(super) fn new<const N: usize>(text: &'static Text, values: [Value<'q>; N]) -> Self {
        Self {
            text,
            values: values.into(),
            is_replanned: false,
        }
    }

    /// Makes it be planned each time: the best plan depends on the data.
    pub(super) const fn replanned(mut self) -> Self {
        self.is_replanned = true;
        self
    }

    /// How long the server may take, of the time that a call has. A replanned statement is long work that
    /// can be divided, and must leave time to notice that.
    pub(super) fn time_limit(&self, timeout: Duration) -> Duration {
        match self.is_replanned {
            true => timeout / 2,
            false => timeout,
        }
    }

    /// Sends it, and returns its one row.
    pub(super) async fn run(
        &self,
        connection: &mut PgConnection,
        protocol: Protocol,
        limits: Option<Limits>,
    ) -> Result<PgRow, Error> {
        let row = match protocol {
            _ if self.is_replanned => self.send(connection, limits).await,
            Protocol::Prepared => connection.fetch_optional(self.query(self.text.sql)).await,
            Protocol::PreparedMarked => {
                connection
                    .fetch_optional(self.query(&self.text.marked))
                    .await
            }
            Protocol::Simple => self.send(connection, limits).await,
        };
        self.recognise(row?)
    }

    /// Sends it, and returns its rows: one at least.
    pub(super) async fn run_for_rows(
        &self,
        connection: &mut PgConnection,
        protocol: Protocol,
        limits: Option<Limits>,
    ) -> Result<Vec<PgRow>, Error> {
        let rows = match protocol {
            Protocol::Prepared => connection.fetch_all(self.query(self.text.sql)).await,
            Protocol::PreparedMarked => connection.fetch_all(self.query(&self.text.marked)).await,
            Protocol::Simple => {
                let message = AssertSqlSafe(self.message(limits));
                sqlx::raw_sql(message).fetch_all(connection).await
            }
        };
        let mut rows = rows?.into_iter();
        let first = self.recognise(rows.next())?;
        Ok(std::iter::once(first).chain(rows).collect())
    }

    /// The first row of an answer, if it is this statement's.
    fn recognise(&self, first: Option<PgRow>) -> Result<PgRow, Error> {
        let first = first.ok_or_else(another_statement)?;
        // By its position: another statement's row may have other columns.
        match first.try_get::<&str, _>(0) {
            Ok(name) if name == self.text.name => Ok(first),
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
            Value::MaybeWord(word) => query.bind(word),
            Value::Integer(number) => query.bind(number),
            Value::Bigint(number) => query.bind(number),
            Value::MaybeBigint(number) => query.bind(number),
            Value::Boolean(boolean) => query.bind(boolean),
        })
    }

    /// The statement with its values. They are numbers, letters and hexadecimal digits, which mean the same
    /// under all settings of a session.
    fn message(&self, limits: Option<Limits>) -> String {
        let bytes = self.values.iter().map(|value| match value {
            Value::Bytes(bytes) | Value::MaybeBytes(Some(bytes)) => bytes.len(),
            _ => 0,
        });
        let room = self.text.sql.len() + 256 + 2 * bytes.sum::<usize>();
        let mut message = String::with_capacity(room);
        if let Some(limits) = limits {
            message.push_str(&MARK);
            // A shared session may have other settings.
            let _ = write!(
                message,
                "SET LOCAL enable_seqscan = off; SET LOCAL jit = off; SET LOCAL statement_timeout = {}; ",
                setting_millis(limits.timeout)
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
            Self::MaybeWord(Some(word)) => write!(message, "'{word}'"),
            Self::MaybeWord(None) => write!(message, "NULL::text"),
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

/// A time in the milliseconds of the server's settings.
pub(super) fn setting_millis(time: Duration) -> u128 {
    time.as_millis().clamp(1, 2_147_483_647)
}

/// Bytes of a row, in either protocol.
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
        PgValueFormat::Text => parse_bytea(bytes)
            .ok_or_else(|| decode("no bytea".into()))?
            .into(),
    }))
}

/// Bytes as the server writes them in text. `bytea_output` is the session's, and has two values.
/// <https://www.postgresql.org/docs/current/datatype-binary.html>
fn parse_bytea(text: &[u8]) -> Option<Vec<u8>> {
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

/// Why statements are mixed up, and what to do.
pub(super) const SHARED_SESSIONS: &str = "a pooler in between gives each transaction another session: \
    set pooler=transaction in the store's URL, or Pooler::Transaction with a pool, or \
    let the pooler pool sessions";

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
            is_replanned: false,
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
        assert_eq!(parse_bytea(hex.as_bytes()), Some(all.clone()));
        let escaped: Vec<u8> = all
            .iter()
            .flat_map(|byte| match byte {
                b'\\' => b"\\\\".to_vec(),
                0x20..=0x7e => vec![*byte],
                byte => format!("\\{byte:03o}").into_bytes(),
            })
            .collect();
        assert_eq!(parse_bytea(&escaped), Some(all));
        for wrong in ["\\x0", "\\x0g", "\\", "\\4", "\\400", "\\8"] {
            assert_eq!(parse_bytea(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(parse_bytea(b""), Some(Vec::new()));
    }
}
