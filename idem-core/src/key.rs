//! Keys and scopes: what names one intended operation, and inside whose account.
//!
//! A [`Key`] is a list of parts. Every part is written with its length before it, so that
//! no two different lists share one encoding: `("a", "bc")` and `("ab", "c")` are two keys. A value
//! in a tuple that has not always as many parts is written as a group, with the group's length
//! before it, so that none of its parts can pass for one of its neighbour's.
//! This file knows nothing of HTTP; the header syntax is in [`crate::http`].

use std::borrow::Cow;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use uuid::Uuid;

use crate::fingerprint::Fingerprint;

/// A key or a scope, encoded as length-delimited parts.
///
/// Its `Debug` form shows no content: keys often are personal data.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key {
    encoded: Vec<u8>,
    has_content: bool,
    request: Option<KeyRequest>,
}

/// The request that a key came with, for keys that know it, such as a header's. It names no other
/// operation: it is what a call under the key is compared by.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyRequest {
    /// What was asked for, apart from its body.
    pub target: Fingerprint,
    /// Who asks.
    pub caller: Fingerprint,
}

impl Key {
    /// Encodes a value by reference.
    ///
    /// # Errors
    /// [`KeyError::Missing`] for a `None`, [`KeyError::Incomplete`] for a `None` inside of a
    /// tuple, [`KeyError::Rejected`] for an `Err`, and [`KeyError::Empty`] when there is no byte
    /// in any part.
    pub fn of<K: KeyPart + ?Sized>(value: &K) -> Result<Self, KeyError> {
        let mut key = Self {
            encoded: Vec::new(),
            has_content: false,
            request: None,
        };
        value.append_to(&mut key)?;
        if key.has_content {
            Ok(key)
        } else {
            Err(KeyError::Empty)
        }
    }

    /// Adds one part.
    pub fn push(&mut self, part: &[u8]) {
        self.encoded.reserve_exact(LENGTH_BYTES + part.len());
        self.encoded.extend_from_slice(&length(part));
        self.encoded.extend_from_slice(part);
        self.has_content |= !part.is_empty();
    }

    /// Adds a value that has neighbours. One part stands for itself, as those of the types do that
    /// always have as many; anything else becomes a group.
    fn push_element<K: KeyPart + ?Sized>(&mut self, element: &K) -> Result<(), KeyError> {
        let start = self.encoded.len();
        element.append_to(self)?;
        let added = &self.encoded[start..];
        let is_one_part = added
            .split_first_chunk()
            .is_some_and(|(given, part)| *given == length(part));
        if !element.has_fixed_parts(Sealed) && !is_one_part {
            let header = [GROUP, length(added)].concat();
            self.encoded.splice(start..start, header);
        }
        Ok(())
    }

    /// Says which request the key came with.
    #[doc(hidden)]
    pub const fn set_request(&mut self, request: KeyRequest) {
        self.request = Some(request);
    }

    #[doc(hidden)]
    pub const fn request(&self) -> Option<KeyRequest> {
        self.request
    }

    pub(crate) fn encoded(&self) -> &[u8] {
        &self.encoded
    }
}

const LENGTH_BYTES: usize = size_of::<u64>();

/// What begins a group: no part is that long.
const GROUP: [u8; LENGTH_BYTES] = u64::MAX.to_le_bytes();

const fn length(bytes: &[u8]) -> [u8; LENGTH_BYTES] {
    (bytes.len() as u64).to_le_bytes()
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").finish_non_exhaustive()
    }
}

/// Why a key was not accepted. Never holds the key itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyError {
    /// There is no key: the header is absent or the expression is `None`.
    Missing,
    /// A part of a composite key is absent, and the rest alone would name something else.
    Incomplete,
    /// The key has no content.
    Empty,
    /// The key is longer than `max` bytes.
    TooLong {
        /// The longest accepted key, in bytes.
        max: usize,
    },
    /// The header came more than once.
    Repeated,
    /// The header's value is neither a structured-field string nor a bare key, or it holds two
    /// keys that were joined by a comma.
    Malformed,
    /// The engine accepts structured-field strings only, and this key is bare.
    NotQuoted,
    /// The engine accepts UUIDs only, and this is none.
    NotUuid,
    /// The key expression was an `Err`.
    Rejected,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("there is no key; send one, the same on every retry"),
            Self::Incomplete => f.write_str("a part of the key is missing"),
            Self::Empty => f.write_str("the key is empty; send at least one character"),
            Self::TooLong { max } => write!(f, "the key is longer than {max} bytes; send a shorter one"),
            Self::Repeated => f.write_str("the key header came more than once; send it once"),
            Self::Malformed => f.write_str(
                "the key is malformed; send visible ASCII characters without spaces and commas, or a quoted string \"…\"",
            ),
            Self::NotQuoted => f.write_str("the key is not quoted; send it as \"…\""),
            Self::NotUuid => f.write_str("the key is not a UUID; send one"),
            Self::Rejected => f.write_str("the key could not be derived from the request"),
        }
    }
}

impl std::error::Error for KeyError {}

/// A value that can be, or be part of, a key or a scope.
///
/// Numbers are written in decimal and UUIDs in their hyphenated form, so that a key keeps
/// its identity when its type changes from `u64` to `String` and back.
///
/// A type of your own adds the parts of which it is made, one or more. Two values with the same
/// list of parts are the same key, alone and in a tuple; two with different lists never are.
///
/// ```
/// use idem_core::{Key, KeyError, KeyPart};
///
/// struct Iban(String);
///
/// impl KeyPart for Iban {
///     fn append_to(&self, key: &mut Key) -> Result<(), KeyError> {
///         self.0.append_to(key)
///     }
/// }
///
/// /// Any number of parts.
/// struct Folder(Vec<String>);
///
/// impl KeyPart for Folder {
///     fn append_to(&self, key: &mut Key) -> Result<(), KeyError> {
///         self.0.iter().try_for_each(|part| part.append_to(key))
///     }
/// }
///
/// /// Made of several values: a tuple keeps their parts apart.
/// struct Move { from: Folder, to: Folder }
///
/// impl KeyPart for Move {
///     fn append_to(&self, key: &mut Key) -> Result<(), KeyError> {
///         (&self.from, &self.to).append_to(key)
///     }
/// }
///
/// let folder = |parts: &[&str]| Folder(parts.iter().map(|&part| part.to_owned()).collect());
/// let one = Move { from: folder(&["a", "b"]), to: folder(&["c"]) };
/// let other = Move { from: folder(&["a"]), to: folder(&["b", "c"]) };
/// assert_ne!(Key::of(&one)?, Key::of(&other)?);
/// # Ok::<(), KeyError>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be used as a key or a scope",
    label = "not a key",
    note = "use `&str`, `String`, `Uuid`, an integer, bytes, an `Option` or `Result` of those, or a tuple of them",
    note = "for another type give its text: `key = value.to_string()`"
)]
pub trait KeyPart {
    /// Adds this value's parts to `key`: with [`Key::push`], or by calling `append_to` of **one**
    /// other value. To add several values, call it of a tuple of them: the parts of values that
    /// are appended one after the other are one list, as if they were of one value.
    ///
    /// # Errors
    /// When the value holds no key ([`KeyError::Missing`]) or an invalid one.
    fn append_to(&self, key: &mut Key) -> Result<(), KeyError>;

    /// Whether all values of this type have as many parts. Those of this crate do, and are written
    /// one after the other; nobody else can say so.
    #[doc(hidden)]
    fn has_fixed_parts(&self, _: Sealed) -> bool {
        false
    }
}

mod sealed {
    /// Cannot be named outside of this crate.
    #[derive(Debug)]
    pub struct Sealed;
}
use sealed::Sealed;

macro_rules! key_part_through {
    ($($(#[$meta:meta])* [$($generics:tt)*] $ty:ty, |$value:ident| $bytes:expr;)*) => {$(
        $(#[$meta])*
        impl<$($generics)*> KeyPart for $ty {
            fn append_to(&self, key: &mut Key) -> Result<(), KeyError> {
                let $value = self;
                key.push($bytes);
                Ok(())
            }

            fn has_fixed_parts(&self, _: Sealed) -> bool {
                true
            }
        }
    )*};
}

key_part_through! {
    [] str, |value| value.as_bytes();
    [] String, |value| value.as_bytes();
    [] [u8], |value| value;
    [] Vec<u8>, |value| value;
    [const N: usize] [u8; N], |value| value;
    [] bytes::Bytes, |value| value;
    [] Uuid, |value| value.hyphenated().encode_lower(&mut Uuid::encode_buffer()).as_bytes();
}

macro_rules! key_part_for_integers {
    ($($ty:ty)*) => {$(
        impl KeyPart for $ty {
            fn append_to(&self, key: &mut Key) -> Result<(), KeyError> {
                key.push(self.to_string().as_bytes());
                Ok(())
            }

            fn has_fixed_parts(&self, _: Sealed) -> bool {
                true
            }
        }
    )*};
}

key_part_for_integers! { u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize }

macro_rules! key_part_behind_pointers {
    ($([$($generics:tt)*] $ty:ty;)*) => {$(
        impl<$($generics)*> KeyPart for $ty {
            fn append_to(&self, key: &mut Key) -> Result<(), KeyError> {
                (**self).append_to(key)
            }

            fn has_fixed_parts(&self, sealed: Sealed) -> bool {
                (**self).has_fixed_parts(sealed)
            }
        }
    )*};
}

key_part_behind_pointers! {
    [T: KeyPart + ?Sized] &T;
    [T: KeyPart + ?Sized] &mut T;
    [T: KeyPart + ?Sized] Box<T>;
    [T: KeyPart + ?Sized] Rc<T>;
    [T: KeyPart + ?Sized] Arc<T>;
    ['a, T: KeyPart + ToOwned + ?Sized] Cow<'a, T>;
}

impl<T: KeyPart> KeyPart for Option<T> {
    fn append_to(&self, key: &mut Key) -> Result<(), KeyError> {
        self.as_ref().ok_or(KeyError::Missing)?.append_to(key)
    }

    fn has_fixed_parts(&self, sealed: Sealed) -> bool {
        self.as_ref().is_none_or(|it| it.has_fixed_parts(sealed))
    }
}

impl<T: KeyPart, E> KeyPart for Result<T, E> {
    fn append_to(&self, key: &mut Key) -> Result<(), KeyError> {
        self.as_ref()
            .map_err(|_| KeyError::Rejected)?
            .append_to(key)
    }

    fn has_fixed_parts(&self, sealed: Sealed) -> bool {
        self.as_ref().map_or(true, |it| it.has_fixed_parts(sealed))
    }
}

macro_rules! key_part_for_tuples {
    ($(($($name:ident)+))*) => {$(
        impl<$($name: KeyPart),+> KeyPart for ($($name,)+) {
            fn append_to(&self, key: &mut Key) -> Result<(), KeyError> {
                #[allow(non_snake_case)]
                let ($($name,)+) = self;
                $(
                    key.push_element($name).map_err(|error| match error {
                        KeyError::Missing => KeyError::Incomplete,
                        error => error,
                    })?;
                )+
                Ok(())
            }

            fn has_fixed_parts(&self, _: Sealed) -> bool {
                true
            }
        }
    )*};
}

key_part_for_tuples! { (A) (A B) (A B C) (A B C D) (A B C D E) (A B C D E F) }

#[cfg(test)]
mod tests {
    use super::*;

    fn key<K: KeyPart>(value: K) -> Key {
        Key::of(&value).unwrap()
    }

    #[test]
    fn parts_are_never_confused() {
        assert_ne!(key(("a", "bc")), key(("ab", "c")));
        assert_ne!(key(("a", "")), key(("", "a")));
        assert_ne!(key("abc"), key(("a", "bc")));
        assert_ne!(key([0_u8, 1]), key(([0_u8], [1_u8])));
    }

    #[test]
    fn one_identity_in_every_type_that_can_carry_it() {
        assert_eq!(key(42_u64), key("42"));
        assert_eq!(key(42_i8), key(String::from("42")));
        assert_eq!(key(Some("k")), key("k"));
        assert_eq!(key(Ok::<_, ()>("k")), key(Arc::from("k") as Arc<str>));
        let uuid = Uuid::from_u128(7);
        assert_eq!(key(uuid), key(uuid.to_string()));
    }

    #[test]
    fn nothing_is_not_a_key() {
        assert_eq!(Key::of(&None::<&str>), Err(KeyError::Missing));
        assert_eq!(Key::of(&("a", None::<&str>)), Err(KeyError::Incomplete));
        assert_eq!(Key::of(&Err::<&str, _>("why")), Err(KeyError::Rejected));
        assert_eq!(Key::of(""), Err(KeyError::Empty));
        assert_eq!(Key::of(&("", "")), Err(KeyError::Empty));
    }

    #[test]
    fn debug_shows_no_content() {
        assert!(!format!("{:?}", key("card-4242")).contains("4242"));
    }
}
