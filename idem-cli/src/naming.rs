//! How words name a record: the values of a key or a scope, as the application's expressions have them.
//!
//! A value is a text unless it is said to be something else. Numbers are their decimal digits and UUIDs
//! their hyphenated lower-case form, so their text is enough:
//!
//! | in the application | [`Value`] |
//! |---|---|
//! | `"a"`, `String`, `Cow<str>`, … | `Text("a")` |
//! | `42_u64`, `-7_i32` | `Text("42")`, `Text("-7")` |
//! | `Uuid` | `Text("8e03978e-40d5-43e8-bc93-6894a57f9324")` |
//! | `[0_u8, 255]`, `Vec<u8>`, `Bytes` | `Bytes(vec![0, 255])` |
//! | `("a", 42)`, also `(("a", 42),)` | two values: `Text("a")`, `Text("42")` |
//! | `Some(x)`, `Ok(x)`, `&x`, `Arc<x>` | that of `x` |
//! | a type of your own, alone | its parts, in their order |
//! | a type of your own that has more or less than one part, in a tuple | `List` of its parts |

use idem::{Key, KeyError, KeyPart, RecordId};
use serde_json::Value as Json;

/// One value of a key or of a scope.
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    /// A text, a number's digits, or a UUID.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// The parts of a type of the application's own, where it stands in a tuple.
    List(Vec<Value>),
}

impl KeyPart for Value {
    fn append_to(&self, key: &mut Key) -> Result<(), KeyError> {
        match self {
            Self::Text(text) => text.append_to(key),
            Self::Bytes(bytes) => bytes.append_to(key),
            Self::List(values) => append_all(values, key),
        }
    }
}

/// The values of a whole key or scope, one or several.
#[derive(Clone, PartialEq, Eq)]
pub struct Composite(pub Vec<Value>);

impl KeyPart for Composite {
    fn append_to(&self, key: &mut Key) -> Result<(), KeyError> {
        match &self.0[..] {
            // Alone it has no neighbours to be kept apart from.
            [alone] => alone.append_to(key),
            several => append_all(several, key),
        }
    }
}

/// A tuple's elements one after the other are those of several tuples.
fn append_all(values: &[Value], key: &mut Key) -> Result<(), KeyError> {
    values.iter().try_for_each(|value| (value,).append_to(key))
}

/// Which record is meant, as the application names it.
#[derive(Clone)]
pub struct Name {
    /// The engine's namespace; empty unless it has one.
    pub namespace: String,
    /// The operation's name.
    pub operation: String,
    /// The scope, if the operation has one.
    pub scope: Option<Composite>,
    /// The key.
    pub key: Composite,
}

impl Name {
    /// The record's id.
    ///
    /// # Errors
    /// When the key or the scope is empty.
    pub fn record_id(&self) -> Result<RecordId, KeyError> {
        let scope = self.scope.as_ref().map(Key::of).transpose()?;
        let key = Key::of(&self.key)?;
        Ok(RecordId::derive(
            &self.namespace,
            &self.operation,
            scope.as_ref(),
            &key,
        ))
    }
}

/// What no key or scope can be made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAName(&'static str);

impl std::fmt::Display for NotAName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for NotAName {}

impl Composite {
    /// Texts, one or several.
    pub fn of_texts(texts: impl IntoIterator<Item = String>) -> Self {
        Self(texts.into_iter().map(Value::Text).collect())
    }

    /// A value as JSON, or an array of values: texts, whole numbers, `{"hex": "00ff"}` for bytes, and
    /// arrays for the parts of types of the application's own.
    ///
    /// # Errors
    /// When it is anything else. The message holds nothing of it.
    pub fn of_json(json: &str) -> Result<Self, NotAName> {
        let json = serde_json::from_str(json).map_err(|_| NotAName("it is not JSON"))?;
        match json {
            Json::Array(values) => values
                .iter()
                .map(value_of)
                .collect::<Result<_, _>>()
                .map(Self),
            alone => Ok(Self(vec![value_of(&alone)?])),
        }
    }
}

fn value_of(json: &Json) -> Result<Value, NotAName> {
    match json {
        Json::String(text) => Ok(Value::Text(text.clone())),
        Json::Number(number) if number.is_i64() || number.is_u64() => {
            Ok(Value::Text(number.to_string()))
        }
        Json::Number(_) => Err(NotAName(
            "a number is a whole number of 64 bits; write a longer one as the text of its digits",
        )),
        Json::Array(values) => Ok(Value::List(
            values.iter().map(value_of).collect::<Result<_, _>>()?,
        )),
        Json::Object(members) => match (members.len(), members.get("hex")) {
            (1, Some(Json::String(digits))) => bytes_of(digits).map(Value::Bytes),
            _ => Err(NotAName("an object is bytes: {\"hex\": \"00ff\"}")),
        },
        Json::Null | Json::Bool(_) => Err(NotAName(
            "a value is a text, a whole number, {\"hex\": \"…\"} or an array of these",
        )),
    }
}

fn bytes_of(digits: &str) -> Result<Vec<u8>, NotAName> {
    const MESSAGE: NotAName = NotAName("\"hex\" has an even number of hexadecimal digits");
    if !digits.len().is_multiple_of(2) || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(MESSAGE);
    }
    let byte = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(pair, 16).ok()
    };
    let bytes = digits.as_bytes().chunks_exact(2).map(byte);
    bytes.collect::<Option<_>>().ok_or(MESSAGE)
}

/// The words show no key.
macro_rules! without_content {
    ($($name:ident)*) => {$(
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )*};
}

without_content! { Value Composite Name }

#[cfg(test)]
mod tests {
    use super::*;

    fn key(json: &str) -> Key {
        Key::of(&Composite::of_json(json).unwrap()).unwrap()
    }

    fn same<K: KeyPart>(json: &str, value: K) {
        assert!(key(json) == Key::of(&value).unwrap(), "{json}");
    }

    /// Any number of parts.
    struct Folder(&'static [&'static str]);

    impl KeyPart for Folder {
        fn append_to(&self, key: &mut Key) -> Result<(), KeyError> {
            self.0.iter().try_for_each(|part| part.append_to(key))
        }
    }

    #[test]
    fn words_make_the_keys_that_expressions_make() {
        same(r#""a""#, "a");
        same(r#"["a"]"#, ("a",));
        same("42", 42_u64);
        same("-7", -7_i8);
        same(r#""340282366920938463463374607431768211455""#, u128::MAX);
        same(r#"{"hex": "00FF7f"}"#, [0_u8, 255, 127]);
        same(
            r#"["a", 42, {"hex": ""}]"#,
            ("a", 42_i128, Vec::<u8>::new()),
        );
        same(r#"["a", "b", "c"]"#, (("a", "b"), "c"));
        same(r#"["a"]"#, Some(Some("a")));
        // Types of one's own: alone, and in a tuple.
        same(r#"["a", "b"]"#, Folder(&["a", "b"]));
        same(r#"[["a", "b"], "c"]"#, (Folder(&["a", "b"]), "c"));
        same(r#"["a", "c"]"#, (Folder(&["a"]), "c"));
        same(r#"["a", []]"#, ("a", Folder(&[])));
        assert!(key(r#"["a", "bc"]"#) != key(r#"["ab", "c"]"#));
        assert!(key(r#"[["a", "b"], "c"]"#) != key(r#"["a", "b", "c"]"#));
    }

    #[test]
    fn what_is_no_name_is_refused_without_repeating_it() {
        for json in [
            "",
            "secret",
            "null",
            "true",
            "1.5",
            "1e3",
            r#"{"hex": "0"}"#,
            r#"{"hex": "+1"}"#,
            r#"{"secret": 1}"#,
            r#"["a", null]"#,
            "18446744073709551616",
        ] {
            let error = Composite::of_json(json).unwrap_err();
            assert!(!error.to_string().contains("secret"), "{json}");
        }
        let empty = Composite::of_json("[]").unwrap();
        assert_eq!(Key::of(&empty), Err(KeyError::Empty));
    }
}
