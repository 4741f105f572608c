//! The idempotency key: made once, and the same on every try.

use std::fmt;

use http::HeaderValue;
use uuid::Uuid;

/// The longest key, in bytes.
const MAX_KEY_BYTES: usize = 255;

/// The name space of derived keys.
const DERIVED: Uuid = Uuid::from_u128(0x6f0c_8f2a_41a3_5c0e_9d4b_27c1_53e8_b6a4);

/// How a key stands in its header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyForm {
    /// `"key"`, a structured-field string, as the IETF draft asks for.
    #[default]
    Quoted,
    /// `key`, as Stripe and most APIs have it.
    Bare,
}

/// The name of one intended operation.
///
/// Make it once for each operation, before the first try, and keep it until there is an answer: in
/// a variable, in a job's record, in the `journal`. A second key is a second operation.
///
/// ```
/// use idem_client::IdempotencyKey;
///
/// // One click, one key.
/// let key = IdempotencyKey::random();
/// // A job that forgets everything when it crashes finds its key again.
/// let key = IdempotencyKey::derived("invoices.send", ["tenant-7", "invoice-2093"]);
/// assert_eq!(key, IdempotencyKey::derived("invoices.send", ["tenant-7", "invoice-2093"]));
/// # Ok::<(), idem_client::KeyError>(())
/// ```
///
/// A key has 1 to 255 visible ASCII characters other than commas, quotes and backslashes, so that
/// it is one key in either [`KeyForm`]. Its `Debug` form does not show it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(Box<str>);

/// Why a text is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyError {
    /// It has no characters.
    Empty,
    /// It has more than 255 characters.
    TooLong,
    /// It has a character that is not visible ASCII, a comma, a quote or a backslash; or its header
    /// is malformed.
    Malformed,
    /// The request has several header lines with a key.
    Repeated,
    /// The request's header and its extension have two different keys.
    Contradictory,
}

impl IdempotencyKey {
    /// A new key, a UUID of version 7.
    pub fn random() -> Self {
        Self::uuid(Uuid::now_v7())
    }

    /// The key of a job whose identity is known: the same identity has the same key, after a crash
    /// and in another process. It is a UUID of version 5.
    ///
    /// `operation` tells apart what is done with one thing: `"invoices.send"`, `"invoices.void"`.
    /// The parts are length-delimited: `["ab", "c"]` and `["a", "bc"]` have two keys.
    pub fn derived<P: AsRef<[u8]>>(operation: &str, identity: impl IntoIterator<Item = P>) -> Self {
        let mut name = Vec::new();
        let mut append = |part: &[u8]| {
            name.extend_from_slice(&(part.len() as u64).to_be_bytes());
            name.extend_from_slice(part);
        };
        append(operation.as_bytes());
        for part in identity {
            append(part.as_ref());
        }
        Self::uuid(Uuid::new_v5(&DERIVED, &name))
    }

    fn uuid(uuid: Uuid) -> Self {
        Self(uuid.hyphenated().to_string().into_boxed_str())
    }

    /// A key that was made elsewhere.
    ///
    /// # Errors
    /// When the text is empty, too long, or has a character that no key has.
    pub fn new(key: impl Into<String>) -> Result<Self, KeyError> {
        let key = key.into();
        let in_both_forms =
            |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b',' | b'"' | b'\\');
        match key.len() {
            0 => Err(KeyError::Empty),
            1..=MAX_KEY_BYTES if key.bytes().all(in_both_forms) => Ok(Self(key.into_boxed_str())),
            1..=MAX_KEY_BYTES => Err(KeyError::Malformed),
            _ => Err(KeyError::TooLong),
        }
    }

    /// The key in a header's value, quoted or bare. A quoted key's parameters are an error.
    ///
    /// # Errors
    /// As [`IdempotencyKey::new`].
    pub fn from_header_value(value: &HeaderValue) -> Result<Self, KeyError> {
        let text = value.to_str().map_err(|_| KeyError::Malformed)?.trim();
        let bare = text
            .strip_prefix('"')
            .map_or(Some(text), |rest| rest.strip_suffix('"'));
        Self::new(bare.ok_or(KeyError::Malformed)?)
    }

    /// The header's value.
    pub fn header_value(&self, form: KeyForm) -> HeaderValue {
        let text = match form {
            KeyForm::Quoted => format!("\"{}\"", self.0),
            KeyForm::Bare => self.0.to_string(),
        };
        // Visible ASCII is always a value.
        let mut value =
            HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""));
        value.set_sensitive(true);
        value
    }

    /// The key itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdempotencyKey(…)")
    }
}

impl From<Uuid> for IdempotencyKey {
    fn from(uuid: Uuid) -> Self {
        Self::uuid(uuid)
    }
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the idempotency key is empty",
            Self::TooLong => "the idempotency key has more than 255 characters",
            Self::Malformed => {
                "the idempotency key is no visible ASCII without commas, quotes and backslashes"
            }
            Self::Repeated => "the request has several idempotency keys; send one",
            Self::Contradictory => {
                "the request's header and its extension have different idempotency keys; give one"
            }
        })
    }
}

impl std::error::Error for KeyError {}

#[cfg(test)]
mod tests {
    use idem_core::http::{KeySyntax, parse_key};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_derived_key_knows_where_its_parts_end() {
        let key = |parts: &[&str]| IdempotencyKey::derived("send", parts);
        assert_eq!(key(&["ab", "c"]), key(&["ab", "c"]));
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_ne!(key(&["ab", "c"]), key(&["abc"]));
        let other = IdempotencyKey::derived("void", ["ab", "c"]);
        assert_ne!(key(&["ab", "c"]), other);
        // Keys of jobs that wait while a program is upgraded.
        assert_eq!(
            key(&["ab", "c"]).as_str(),
            "c1134b5d-d9cf-5846-9c16-f849881620df"
        );
    }

    #[test]
    fn no_text_is_a_key_in_one_form_alone() {
        for text in ["a b", "a,b", "a\"b", "a\\b", "ä", "\u{7f}", "a\nb"] {
            assert_eq!(
                IdempotencyKey::new(text),
                Err(KeyError::Malformed),
                "{text}"
            );
        }
        assert_eq!(IdempotencyKey::new(""), Err(KeyError::Empty));
        assert_eq!(IdempotencyKey::new("a".repeat(256)), Err(KeyError::TooLong));
        assert!(IdempotencyKey::new("a".repeat(255)).is_ok());
        for value in ["\"a", "\"", "\"\"", "a\"", "\"a\";p=1"] {
            let value = HeaderValue::from_static(value);
            assert!(
                IdempotencyKey::from_header_value(&value).is_err(),
                "{value:?}"
            );
        }
    }

    #[test]
    fn a_key_is_in_no_debug_form() {
        let key = IdempotencyKey::random();
        let shown = format!("{key:?} {:?}", key.header_value(KeyForm::Quoted));
        assert!(!shown.contains(key.as_str()), "{shown}");
    }

    proptest! {
        #[test]
        fn the_server_reads_the_key_that_was_sent_in_either_form(text in "[!#-+\\--\\[\\]-~]{1,255}") {
            let key = IdempotencyKey::new(text).unwrap();
            for form in [KeyForm::Quoted, KeyForm::Bare] {
                let value = key.header_value(form);
                let read = parse_key([&value], KeySyntax::Lenient).unwrap();
                prop_assert_eq!(&read, key.as_str());
                prop_assert_eq!(&IdempotencyKey::from_header_value(&value).unwrap(), &key);
            }
        }
    }
}
