//! A message with its values, how it is sent, and its answer. Knows nothing of records.
//!
//! A message is one or more statements of the text protocol, and one round trip. A prepared statement would
//! be one statement, and a transition needs several: neither server tells what an upsert has left in the
//! row. Values are in the text, as numbers, words and hexadecimal digits, which mean the same under all
//! settings of a session.

use std::fmt::{self, Write as _};
use std::sync::LazyLock;

use bytes::Bytes;
use futures_util::TryStreamExt;
use sqlx::mysql::{MySqlConnection, MySqlRow};
use sqlx::{AssertSqlSafe, Either, Error, Row};

/// The text of a message, without its values.
pub(super) type Text = LazyLock<String>;

macro_rules! text {
    ($file:literal) => {
        ::std::sync::LazyLock::new(|| $crate::mysql::message::without_comments(include_str!($file)))
    };
}
pub(super) use text;

pub(super) fn without_comments(sql: &str) -> String {
    let lines = sql
        .lines()
        .filter(|line| !line.trim_start().starts_with("--"));
    lines.flat_map(|line| [line.trim_start(), "\n"]).collect()
}

/// One of a message's values.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Bytes(&'a [u8]),
    MaybeBytes(Option<&'a [u8]>),
    /// A word of letters.
    MaybeWord(Option<&'static str>),
    Number(u64),
    Boolean(bool),
}

impl Value<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) | Self::MaybeBytes(Some(bytes)) => 2 * bytes.len() + 3,
            _ => 20,
        }
    }
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Bytes(bytes) | Self::MaybeBytes(Some(bytes)) => {
                f.write_str("x'")?;
                bytes.iter().try_for_each(|byte| write_hex(f, *byte))?;
                f.write_str("'")
            }
            Self::MaybeWord(Some(word)) => write!(f, "'{word}'"),
            Self::MaybeBytes(None) | Self::MaybeWord(None) => f.write_str("NULL"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Boolean(true) => f.write_str("TRUE"),
            Self::Boolean(false) => f.write_str("FALSE"),
        }
    }
}

fn write_hex(f: &mut fmt::Formatter<'_>, byte: u8) -> fmt::Result {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |half: u8| char::from(DIGITS[usize::from(half & 15)]);
    f.write_char(digit(byte >> 4))?;
    f.write_char(digit(byte))
}

/// Statements that are sent together. Its `Debug` form shows no value.
#[derive(Clone)]
pub(super) struct Message(String);

impl Message {
    /// Puts the values in the places of `$1`, `$2` and so on.
    pub(super) fn new<const N: usize>(text: &Text, values: [Value<'_>; N]) -> Self {
        let room: usize = values.iter().map(Value::len).sum();
        let mut message = String::with_capacity(text.len() + 4 * room);
        let mut rest = text.as_str();
        while let Some((before, after)) = rest.split_once('$') {
            message.push_str(before);
            let digits = after.bytes().take_while(u8::is_ascii_digit).count();
            let (number, after) = after.split_at(digits);
            let value = number.parse::<usize>().ok();
            match value.and_then(|number| values.get(number.checked_sub(1)?)) {
                Some(value) => drop(write!(message, "{value}")),
                None => message.push('$'),
            }
            rest = after;
        }
        message.push_str(rest);
        Self(message)
    }

    /// Statements without values.
    pub(super) fn plain(sql: impl Into<String>) -> Self {
        Self(sql.into())
    }

    /// The same, behind other statements.
    pub(super) fn behind(mut self, first: &str) -> Self {
        self.0.insert_str(0, first);
        self
    }

    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    /// Sends it, and reads the whole answer. `seen` is told of each row as it comes.
    ///
    /// Must not be dropped before it has ended: the driver would forget that it has read the beginning of
    /// a packet (`recv_packet_part` in sqlx-mysql 0.9), and take what follows for another one.
    pub(super) async fn send(
        self,
        connection: &mut MySqlConnection,
        mut seen: impl FnMut(&MySqlRow),
    ) -> (Answer, Result<(), Error>) {
        let mut answer = Answer::default();
        let mut part = Part::default();
        let query = sqlx::raw_sql(AssertSqlSafe(self.0));
        let mut parts = query.fetch_many(connection);
        loop {
            match parts.try_next().await {
                Ok(Some(Either::Right(row))) => {
                    seen(&row);
                    part.rows.push(row);
                }
                Ok(Some(Either::Left(done))) => {
                    part.affected = done.rows_affected();
                    answer.parts.push(std::mem::take(&mut part));
                }
                Ok(None) => return (answer, Ok(())),
                Err(error) => return (answer, Err(error)),
            }
        }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({} bytes)", self.0.len())
    }
}

/// The answers to a message's statements.
#[derive(Default)]
pub(super) struct Answer {
    parts: Vec<Part>,
}

#[derive(Default)]
struct Part {
    /// The rows that a condition has found, changed or not: the driver asks for that.
    affected: u64,
    rows: Vec<MySqlRow>,
}

impl Answer {
    /// Forgets the first ones.
    pub(super) fn without_first(mut self, count: usize) -> Self {
        self.parts.drain(..count.min(self.parts.len()));
        self
    }

    /// How many rows the statements have found to change.
    pub(super) fn affected(&self) -> u64 {
        let changes = self.parts.iter().filter(|part| part.rows.is_empty());
        changes.map(|part| part.affected).sum()
    }

    /// How many rows one of them has found to change.
    pub(super) fn affected_by(&self, statement: usize) -> u64 {
        self.parts.get(statement).map_or(0, |part| part.affected)
    }

    /// The last statement's rows.
    pub(super) fn rows(&self) -> &[MySqlRow] {
        self.parts.last().map_or(&[], |part| &part.rows)
    }

    pub(super) fn into_rows(mut self) -> Vec<MySqlRow> {
        self.parts.pop().map_or_else(Vec::new, |part| part.rows)
    }

    /// One statement's first row.
    pub(super) fn row_of(&self, statement: usize) -> Option<&MySqlRow> {
        self.parts.get(statement)?.rows.first()
    }

    /// How many statements were answered.
    pub(super) const fn len(&self) -> usize {
        self.parts.len()
    }
}

/// A number of a row. Not null.
pub(super) fn number(row: &MySqlRow, column: &str) -> Result<i64, Error> {
    maybe_number(row, column)?.ok_or_else(|| Error::ColumnDecode {
        index: column.to_owned(),
        source: "null".into(),
    })
}

pub(super) fn maybe_number(row: &MySqlRow, column: &str) -> Result<Option<i64>, Error> {
    // Servers differ in which type of number an expression has.
    row.try_get_unchecked(column)
}

/// Whether a condition holds. Null: it does not.
pub(super) fn is(row: &MySqlRow, column: &str) -> Result<bool, Error> {
    Ok(maybe_number(row, column)? == Some(1))
}

pub(super) fn word<'r>(row: &'r MySqlRow, column: &str) -> Result<&'r str, Error> {
    row.try_get_unchecked(column)
}

pub(super) fn bytes_of(row: &MySqlRow, column: &str) -> Result<Option<Bytes>, Error> {
    let bytes: Option<&[u8]> = row.try_get_unchecked(column)?;
    Ok(bytes.map(Bytes::copy_from_slice))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_digits_and_words() {
        let text = Text::new(|| {
            without_comments("-- $1 bytes\n  a = $1 AND b = $2\n    AND c = $3 OR d = $4 $10 $")
        });
        let values = [
            Value::Bytes(&[0, 0x27, 0xff]),
            Value::MaybeBytes(None),
            Value::Number(u64::MAX),
            Value::MaybeWord(Some("running")),
        ];
        let message = Message::new(&text, values);
        assert_eq!(
            message.0,
            "a = x'0027ff' AND b = NULL\nAND c = 18446744073709551615 OR d = 'running' $ $\n"
        );
        assert_eq!(
            format!("{message:?}"),
            format!("Message({} bytes)", message.len())
        );
    }
}
