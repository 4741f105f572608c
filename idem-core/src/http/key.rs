//! The syntax of the key header.
//!
//! The draft asks for a structured-field string (RFC 9651): `"…"`, with `\"` and `\\`, and
//! parameters, which are ignored. Most clients send the key bare, without spaces and commas; both
//! forms name one record.

use http::HeaderValue;
use sfv::{BareItem, Item, Parser};
use uuid::Uuid;

use crate::key::KeyError;

/// The longest key, in bytes, without quotes and escapes.
const MAX_KEY_BYTES: usize = 255;

/// Which forms of the key header are accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeySyntax {
    /// A structured-field string, or 1–255 visible ASCII characters other than a comma.
    #[default]
    Lenient,
    /// A structured-field string only, as the draft has it.
    Strict,
    /// A UUID in either form; its letters' case does not count.
    Uuid,
}

/// Reads the key from the header's field lines.
///
/// # Errors
/// When the header is absent, comes more than once, or is malformed. A malformed key is never
/// taken for an absent one.
pub fn parse_key<'a>(
    lines: impl IntoIterator<Item = &'a HeaderValue>,
    syntax: KeySyntax,
) -> Result<String, KeyError> {
    let mut lines = lines.into_iter();
    let line = lines.next().ok_or(KeyError::Missing)?;
    if lines.next().is_some() {
        return Err(KeyError::Repeated);
    }
    let value = trim_optional_white_space(line.as_bytes());
    let key = match value.first() {
        None => return Err(KeyError::Empty),
        Some(b'"') => quoted(value)?,
        Some(_) if syntax == KeySyntax::Strict => return Err(KeyError::NotQuoted),
        Some(_) => bare(value)?,
    };
    match key.len() {
        0 => Err(KeyError::Empty),
        1..=MAX_KEY_BYTES if syntax == KeySyntax::Uuid => key
            .parse()
            .map(|uuid: Uuid| uuid.hyphenated().to_string())
            .map_err(|_| KeyError::NotUuid),
        1..=MAX_KEY_BYTES => Ok(key),
        _ => Err(KeyError::TooLong { max: MAX_KEY_BYTES }),
    }
}

/// The key in a header's value as a client has sent it, quoted or bare: what an operator finds in a
/// client's log. Give the result to [`Operation::resolve`](crate::Operation::resolve).
///
/// # Errors
/// When the value is malformed.
pub fn key_as_sent(value: &str) -> Result<String, KeyError> {
    let line = HeaderValue::from_str(value).map_err(|_| KeyError::Malformed)?;
    parse_key([&line], KeySyntax::Lenient)
}

fn quoted(value: &[u8]) -> Result<String, KeyError> {
    match Parser::new(value).parse::<Item>() {
        Ok(Item {
            bare_item: BareItem::String(key),
            ..
        }) => Ok(key.into()),
        _ => Err(KeyError::Malformed),
    }
}

/// A comma is no part of a bare key: an intermediary may have joined two lines by it (RFC 9110
/// §5.3), and the client that sent them would not find its key again.
fn bare(value: &[u8]) -> Result<String, KeyError> {
    let is_allowed = |byte: u8| byte.is_ascii_graphic() && byte != b',';
    match std::str::from_utf8(value) {
        Ok(key) if key.bytes().all(is_allowed) => Ok(key.to_owned()),
        _ => Err(KeyError::Malformed),
    }
}

/// Strips what RFC 9110 §5.5 says is no part of a field's value.
fn trim_optional_white_space(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "8e03978e-40d5-43e8-bc93-6894a57f9324";

    fn parse(value: &[u8], syntax: KeySyntax) -> Result<String, KeyError> {
        // What hyper would not let through at all is malformed as well.
        let Ok(value) = HeaderValue::from_bytes(value) else {
            return Err(KeyError::Malformed);
        };
        parse_key([&value], syntax)
    }

    #[test]
    fn keys_after_rfc_9651_and_bare() {
        let long = "k".repeat(255);
        let quoted_long = format!("\"{long}\"");
        // 255 characters after unescaping, 510 before.
        let escaped_long = format!("\"{}\"", "\\\"".repeat(255));
        let escaped_long_key = "\"".repeat(255);
        let quoted_uuid = format!("\"{UUID}\"");
        let accepted: &[(&str, &str)] = &[
            // Quoted, RFC 9651 §3.3.3.
            ("\"a\"", "a"),
            ("\"abc\"", "abc"),
            (&quoted_uuid, UUID),
            ("\"with space\"", "with space"),
            ("\" leading\"", " leading"),
            ("\" \"", " "),
            ("\"a\\\"b\"", "a\"b"),
            ("\"a\\\\b\"", "a\\b"),
            ("\"\\\\\"", "\\"),
            ("\"\\\"\"", "\""),
            ("\"~!@#$%^&*()\"", "~!@#$%^&*()"),
            ("\"a;b=c\"", "a;b=c"),
            ("\"a,b\"", "a,b"),
            ("\"a:b\"", "a:b"),
            (&quoted_long, &long),
            (&escaped_long, &escaped_long_key),
            // White space around the value is no part of it.
            ("  \"abc\"", "abc"),
            ("\"abc\"  ", "abc"),
            ("\t\"abc\"\t", "abc"),
            // Parameters are ignored.
            ("\"abc\";a", "abc"),
            ("\"abc\";a=1", "abc"),
            ("\"abc\"; a=1; b=?0", "abc"),
            ("\"abc\";a=\"x\"", "abc"),
            ("\"abc\";a=tok", "abc"),
            ("\"abc\";a=:YQ==:", "abc"),
            ("\"abc\";a=1.5;*b", "abc"),
            // Bare.
            ("a", "a"),
            ("abc", "abc"),
            (UUID, UUID),
            ("order-42", "order-42"),
            ("order_42", "order_42"),
            ("a.b", "a.b"),
            ("a:b", "a:b"),
            ("a/b", "a/b"),
            ("a=b", "a=b"),
            ("YWJj==", "YWJj=="),
            ("{a}", "{a}"),
            ("~", "~"),
            ("!", "!"),
            ("42", "42"),
            ("-1", "-1"),
            ("?1", "?1"),
            (":YWJj:", ":YWJj:"),
            ("a;b", "a;b"),
            ("  abc  ", "abc"),
            (&long, &long),
        ];
        for (value, key) in accepted {
            assert_eq!(
                parse(value.as_bytes(), KeySyntax::Lenient).as_deref(),
                Ok(*key),
                "{value}"
            );
        }

        let too_long = "k".repeat(256);
        let quoted_too_long = format!("\"{too_long}\"");
        let rejected: &[&[u8]] = &[
            b"",
            b" ",
            b"\t",
            b"\"\"",
            b"\"\";a=1",
            // Unterminated.
            b"\"",
            b"\"abc",
            b"\"abc\\\"",
            b"\"abc\\",
            // Escapes other than \" and \\.
            b"\"a\\b\"",
            b"\"a\\n\"",
            b"\"a\\ \"",
            // Trailing text.
            b"\"abc\"x",
            b"\"abc\" x",
            b"\"abc\"\"def\"",
            b"\"abc\", \"def\"",
            b"\"abc\",",
            // Parameters must be parameters.
            b"\"abc\";",
            b"\"abc\";A=1",
            b"\"abc\";a=",
            b"\"abc\";a=\"x",
            b"\"abc\" ;a=1",
            // Control characters and other than ASCII.
            b"\"a\tb\"",
            b"\"a\x7fb\"",
            b"\"a\xc3\xa9\"",
            b"\"a\xff\"",
            b"a\xc3\xa9",
            b"a\xff",
            b"a\x7f",
            b"\x01",
            b"a\rb",
            b"a\nb",
            b"a\0b",
            // White space inside a bare key.
            b"a b",
            b"a\tb",
            b"abc, def",
            // A comma joins two lines (RFC 9110 §5.3).
            b"abc,abc",
            b"abc,def",
            b"abc,",
            b",",
            // Length.
            too_long.as_bytes(),
            quoted_too_long.as_bytes(),
        ];
        for value in rejected {
            assert!(
                parse(value, KeySyntax::Lenient).is_err(),
                "{}",
                String::from_utf8_lossy(value)
            );
        }
        assert!(accepted.len() + rejected.len() >= 60);
    }

    #[test]
    fn quoted_and_bare_name_one_key() {
        for key in ["abc", UUID, "a\"b"] {
            let quoted = format!("\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\""));
            assert_eq!(
                parse(quoted.as_bytes(), KeySyntax::Lenient),
                parse(key.as_bytes(), KeySyntax::Lenient)
            );
        }
    }

    #[test]
    fn strict_and_uuid_only() {
        use KeySyntax::{Strict, Uuid};
        assert_eq!(parse(b"abc", Strict), Err(KeyError::NotQuoted));
        assert_eq!(parse(b"\"abc\"", Strict).as_deref(), Ok("abc"));
        assert_eq!(parse(b"abc", Uuid), Err(KeyError::NotUuid));
        assert_eq!(parse(UUID.as_bytes(), Uuid).as_deref(), Ok(UUID));
        let upper = format!("\"{}\"", UUID.to_uppercase());
        assert_eq!(parse(upper.as_bytes(), Uuid).as_deref(), Ok(UUID));
    }

    #[test]
    fn absent_and_repeated() {
        assert_eq!(parse_key([], KeySyntax::Lenient), Err(KeyError::Missing));
        let line = HeaderValue::from_static("abc");
        assert_eq!(
            parse_key([&line, &line], KeySyntax::Lenient),
            Err(KeyError::Repeated)
        );
    }
}
