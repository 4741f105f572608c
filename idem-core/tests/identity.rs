//! What a record's id is made of: fixed bytes for the keys of every type that is one, and no two
//! values of one custom type that share an id.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use idem_core::{Key, KeyError, KeyPart, RecordId};
use proptest::prelude::*;
use uuid::Uuid;

fn key<K: KeyPart>(value: K) -> Key {
    Key::of(&value).unwrap()
}

fn id(scope: Option<&Key>, key: &Key) -> String {
    RecordId::derive("shop", "charges.create", scope, key).to_string()
}

/// The ids of stored records: one that changes makes every retry across an upgrade run again.
#[test]
fn ids_never_change() {
    let uuid = Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
    let fixed: &[(&str, Key, &str)] = &[
        (
            "&str",
            key("order-1"),
            "a6d50f17a04a69b24cd6fa5e9eecdd0c8ce6b159c10d621cd96b86ff7771f661",
        ),
        (
            "String",
            key(String::from("order-1")),
            "a6d50f17a04a69b24cd6fa5e9eecdd0c8ce6b159c10d621cd96b86ff7771f661",
        ),
        (
            "Cow",
            key(Cow::Borrowed("order-1")),
            "a6d50f17a04a69b24cd6fa5e9eecdd0c8ce6b159c10d621cd96b86ff7771f661",
        ),
        (
            "Arc<str>",
            key(Arc::<str>::from("order-1")),
            "a6d50f17a04a69b24cd6fa5e9eecdd0c8ce6b159c10d621cd96b86ff7771f661",
        ),
        (
            "Some(&str)",
            key(Some("order-1")),
            "a6d50f17a04a69b24cd6fa5e9eecdd0c8ce6b159c10d621cd96b86ff7771f661",
        ),
        (
            "Ok(&str)",
            key(Ok::<_, ()>("order-1")),
            "a6d50f17a04a69b24cd6fa5e9eecdd0c8ce6b159c10d621cd96b86ff7771f661",
        ),
        (
            "&[u8]",
            key(&b"order-1"[..]),
            "a6d50f17a04a69b24cd6fa5e9eecdd0c8ce6b159c10d621cd96b86ff7771f661",
        ),
        (
            "Bytes",
            key(Bytes::from_static(b"order-1")),
            "a6d50f17a04a69b24cd6fa5e9eecdd0c8ce6b159c10d621cd96b86ff7771f661",
        ),
        (
            "Uuid",
            key(uuid),
            "d4bb20b2ece02c4a3b99f1552a5f7d3c8291de919260815222d71abc39397d9e",
        ),
        (
            "u64",
            key(42_u64),
            "70ed528a7dc3c7083581a138d6fc9f1ea5527ae6cb194641e49ea323f26fc71b",
        ),
        (
            "i128",
            key(-42_i128),
            "5ecfc7404cdaf1c78d145a2548bad051b0b1897f60465f433be55e19184df9a4",
        ),
        (
            "[u8; 3]",
            key([0_u8, 1, 255]),
            "76a6981d1fc0ac1619886e3e9589bcfb487b75e157ea7feed1f21f7e52c3bde1",
        ),
        (
            "one in a tuple",
            key(("order-1",)),
            "a6d50f17a04a69b24cd6fa5e9eecdd0c8ce6b159c10d621cd96b86ff7771f661",
        ),
        (
            "(&str, u64)",
            key(("order-1", 42_u64)),
            "d761e6d652141d32d9284bb6b0aa8580c3ef5ca2580c1d2284450bff23546e53",
        ),
        (
            "nested",
            key((("order-1", 42_u64), Some(uuid))),
            "854389cc000a7878b8efe6abe867630c1c95cfdadee9d492cb21e81049512e3e",
        ),
        (
            "flat",
            key(("order-1", 42_u64, uuid)),
            "854389cc000a7878b8efe6abe867630c1c95cfdadee9d492cb21e81049512e3e",
        ),
        (
            "empty parts",
            key(("", "order-1", "")),
            "0b34397968f3cca8941da9134c22742120f4cbab522089103982547bf4012f45",
        ),
        (
            "one part of a custom type",
            key((Parts::of(&["a"]), "b")),
            "63bf67c33b0258e2f1f36ae7e2440c5d0bc87c236304b2f92f89c97d35f43999",
        ),
        (
            "a custom type alone",
            key(Parts::of(&["a", "b"])),
            "63bf67c33b0258e2f1f36ae7e2440c5d0bc87c236304b2f92f89c97d35f43999",
        ),
    ];
    for (what, key, expected) in fixed {
        assert_eq!(id(None, key), *expected, "{what}");
    }
    let scopes: &[(&str, Key, &str)] = &[
        (
            "&str",
            key("tenant-7"),
            "ce5753450caa29dae1bf6d7307ef8dc7c156cd904c54ea1644ca32ba93c82552",
        ),
        (
            "u64",
            key(7_u64),
            "94fa85b599e9d6b45595c115d1196ce556f32a474df82bb7d931e887e6529f3a",
        ),
        (
            "(u64, &str)",
            key((7_u64, "eu")),
            "3e5f3ff473d3f3de29f3152370ab878fef1a9577eddb9b08bc8b36ae86ce5c28",
        ),
    ];
    for (what, scope, expected) in scopes {
        assert_eq!(id(Some(scope), &key("order-1")), *expected, "{what}");
    }
}

/// A key of any number of parts, as a path is.
#[derive(Clone, Debug, PartialEq)]
struct Parts(Vec<String>);

impl Parts {
    fn of(parts: &[&str]) -> Self {
        Self(parts.iter().map(|&part| part.to_owned()).collect())
    }
}

impl KeyPart for Parts {
    fn append_to(&self, key: &mut Key) -> Result<(), KeyError> {
        self.0.iter().for_each(|part| key.push(part.as_bytes()));
        Ok(())
    }
}

/// A part that is absent in some values, and takes its delimiter with it.
struct Maybe(Option<&'static str>);

impl KeyPart for Maybe {
    fn append_to(&self, key: &mut Key) -> Result<(), KeyError> {
        if let Some(part) = self.0 {
            key.push(part.as_bytes());
        }
        Ok(())
    }
}

/// A type made of two of a varying number of parts.
struct Pair(Parts, Parts);

impl KeyPart for Pair {
    fn append_to(&self, key: &mut Key) -> Result<(), KeyError> {
        (&self.0, &self.1).append_to(key)
    }
}

#[test]
fn values_of_varying_numbers_of_parts_never_share_a_key() {
    let all_different = |what: &str, keys: &[Key]| {
        for (at, one) in keys.iter().enumerate() {
            let others = &keys[at + 1..];
            assert!(!others.contains(one), "{what}: number {at}");
        }
    };
    let splits: [(&[&str], &[&str]); 4] = [
        (&["a", "b"], &["c"]),
        (&["a"], &["b", "c"]),
        (&["a", "b", "c"], &[]),
        (&[], &["a", "b", "c"]),
    ];
    let pairs = splits.map(|(one, other)| key((Parts::of(one), Parts::of(other))));
    all_different("a pair", &pairs);
    let behind = splits.map(|(one, other)| {
        let other: Box<dyn KeyPart> = Box::new(Parts::of(other));
        key((Some(Arc::new(Parts::of(one))), Ok::<_, ()>(&other)))
    });
    assert_eq!(pairs, behind, "a pointer to a value is the value");
    let nested = splits.map(|(one, other)| key(((Parts::of(one), "-"), (Parts::of(other),))));
    all_different("nested", &nested);
    let within =
        splits.map(|(one, other)| key((Pair(Parts::of(one), Parts::of(other)), Parts::of(&["d"]))));
    all_different("within a custom type", &within);
    let alone = splits.map(|(one, other)| key(Pair(Parts::of(one), Parts::of(other))));
    all_different("a custom type alone", &alone);
    let absent = [
        key((Maybe(None), Maybe(Some("a")))),
        key((Maybe(Some("a")), Maybe(None))),
        key((Maybe(Some("a")), Maybe(Some("a")))),
    ];
    all_different("absent parts", &absent);
}

#[test]
fn a_part_cannot_pass_for_the_delimiter_of_several() {
    let several = key((Parts::of(&["a", "b"]), "c"));
    let parts = Parts::of(&["\u{fffd}\u{fffd}", "a", "b"]);
    assert_ne!(several, key((parts, "c")));
    assert_ne!(several, key(([0xff_u8; 16], "a", "b", "c")));
}

#[test]
fn a_key_without_content_is_none_however_many_values_it_is_of() {
    for empty in [
        Key::of(&(Parts::of(&[]), Parts::of(&[]))),
        Key::of(&(Parts::of(&["", ""]), "")),
        Key::of(&Parts::of(&[])),
    ] {
        assert_eq!(empty, Err(KeyError::Empty));
    }
}

proptest! {
    #[test]
    fn keys_are_equal_where_values_are(
        one in proptest::array::uniform3(proptest::collection::vec("[ab]{0,2}", 0..4)),
        other in proptest::array::uniform3(proptest::collection::vec("[ab]{0,2}", 0..4)),
    ) {
        let key = |parts: &[Vec<String>; 3]| {
            let [first, second, third] = parts.clone().map(Parts);
            Key::of(&("-", first, (second, third)))
        };
        prop_assert_eq!(key(&one) == key(&other), one == other);
    }
}
