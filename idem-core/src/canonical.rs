//! One byte form for a serialisable value, whatever the order of its maps.
//!
//! Every value is a tag followed by content of known length, so no two different values
//! share an encoding. Integers are written by value (a `u8` that becomes a `u64` keeps its
//! fingerprint), entries of a map are sorted by their encoded keys, fields of a struct keep
//! the order of their declaration.

use std::fmt;

use serde::ser::{self, Serialize};

/// An argument's `Serialize` implementation failed, so the request has no fingerprint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FingerprintError;

impl fmt::Display for FingerprintError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an argument could not be serialised for the fingerprint; skip it, or name what must be equal with fingerprint(…)")
    }
}

impl std::error::Error for FingerprintError {}

/// Appends the canonical form of `value`.
pub(crate) fn write<T: Serialize + ?Sized>(
    value: &T,
    out: &mut Vec<u8>,
) -> Result<(), FingerprintError> {
    value.serialize(Writer { out })
}

impl ser::Error for FingerprintError {
    // The message may quote the value: it is dropped.
    fn custom<T: std::fmt::Display>(_: T) -> Self {
        Self
    }
}

struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

impl Writer<'_> {
    fn tag(&mut self, tag: u8) {
        self.out.push(tag);
    }

    fn length(&mut self, length: usize) {
        self.out.extend_from_slice(&(length as u64).to_le_bytes());
    }

    fn bytes(&mut self, tag: u8, bytes: &[u8]) {
        self.tag(tag);
        self.length(bytes.len());
        self.out.extend_from_slice(bytes);
    }

    fn variant(&mut self, name: &str) {
        self.bytes(b'V', name.as_bytes());
    }
}

impl<'a> Writer<'a> {
    fn open(self, tag: u8) -> Open<'a> {
        let Self { out } = self;
        out.push(tag);
        let count_at = out.len();
        out.extend_from_slice(&[0; 8]);
        Open {
            out,
            count_at,
            count: 0,
        }
    }
}

macro_rules! scalar {
    ($($method:ident($ty:ty) => $tag:literal, |$value:ident| $bytes:expr;)*) => {$(
        fn $method(mut self, $value: $ty) -> Result<(), FingerprintError> {
            self.tag($tag);
            self.out.extend_from_slice(&$bytes);
            Ok(())
        }
    )*};
}

impl<'a> ser::Serializer for Writer<'a> {
    type Ok = ();
    type Error = FingerprintError;
    type SerializeSeq = Open<'a>;
    type SerializeTuple = Open<'a>;
    type SerializeTupleStruct = Open<'a>;
    type SerializeTupleVariant = Open<'a>;
    type SerializeMap = OpenMap<'a>;
    type SerializeStruct = Open<'a>;
    type SerializeStructVariant = Open<'a>;

    scalar! {
        serialize_bool(bool) => b'b', |value| [u8::from(value)];
        serialize_i8(i8) => b'i', |value| i128::from(value).to_le_bytes();
        serialize_i16(i16) => b'i', |value| i128::from(value).to_le_bytes();
        serialize_i32(i32) => b'i', |value| i128::from(value).to_le_bytes();
        serialize_i64(i64) => b'i', |value| i128::from(value).to_le_bytes();
        serialize_i128(i128) => b'i', |value| value.to_le_bytes();
        serialize_u8(u8) => b'i', |value| i128::from(value).to_le_bytes();
        serialize_u16(u16) => b'i', |value| i128::from(value).to_le_bytes();
        serialize_u32(u32) => b'i', |value| i128::from(value).to_le_bytes();
        serialize_u64(u64) => b'i', |value| i128::from(value).to_le_bytes();
        serialize_f32(f32) => b'f', |value| f64::from(value).to_bits().to_le_bytes();
        serialize_f64(f64) => b'f', |value| value.to_bits().to_le_bytes();
    }

    fn serialize_u128(mut self, value: u128) -> Result<(), FingerprintError> {
        // Only what an i128 cannot hold has a form of its own.
        match i128::try_from(value) {
            Ok(value) => self.serialize_i128(value),
            Err(_) => {
                self.tag(b'u');
                self.out.extend_from_slice(&value.to_le_bytes());
                Ok(())
            }
        }
    }

    fn serialize_char(self, value: char) -> Result<(), FingerprintError> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(mut self, value: &str) -> Result<(), FingerprintError> {
        self.bytes(b's', value.as_bytes());
        Ok(())
    }

    fn serialize_bytes(mut self, value: &[u8]) -> Result<(), FingerprintError> {
        self.bytes(b'y', value);
        Ok(())
    }

    fn serialize_none(mut self) -> Result<(), FingerprintError> {
        self.tag(b'0');
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(mut self, value: &T) -> Result<(), FingerprintError> {
        self.tag(b'1');
        value.serialize(self)
    }

    fn serialize_unit(mut self) -> Result<(), FingerprintError> {
        self.tag(b'z');
        Ok(())
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<(), FingerprintError> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(
        mut self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
    ) -> Result<(), FingerprintError> {
        self.variant(variant);
        self.serialize_unit()
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        value: &T,
    ) -> Result<(), FingerprintError> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        mut self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), FingerprintError> {
        self.variant(variant);
        value.serialize(self)
    }

    fn serialize_seq(self, _len: Option<usize>) -> Result<Open<'a>, FingerprintError> {
        Ok(self.open(b'['))
    }

    fn serialize_tuple(self, _len: usize) -> Result<Open<'a>, FingerprintError> {
        Ok(self.open(b'('))
    }

    fn serialize_tuple_struct(
        self,
        _name: &'static str,
        _len: usize,
    ) -> Result<Open<'a>, FingerprintError> {
        Ok(self.open(b'('))
    }

    fn serialize_tuple_variant(
        mut self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        _len: usize,
    ) -> Result<Open<'a>, FingerprintError> {
        self.variant(variant);
        Ok(self.open(b'('))
    }

    fn serialize_map(self, _len: Option<usize>) -> Result<OpenMap<'a>, FingerprintError> {
        Ok(OpenMap {
            out: self.out,
            entries: Vec::new(),
            key: Vec::new(),
        })
    }

    fn serialize_struct(
        self,
        _name: &'static str,
        _len: usize,
    ) -> Result<Open<'a>, FingerprintError> {
        Ok(self.open(b'{'))
    }

    fn serialize_struct_variant(
        mut self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        _len: usize,
    ) -> Result<Open<'a>, FingerprintError> {
        self.variant(variant);
        Ok(self.open(b'{'))
    }

    fn is_human_readable(&self) -> bool {
        // Types with two forms (times, addresses) have the more stable one as text.
        true
    }
}

/// An open sequence, tuple or struct; the count is written when it closes.
struct Open<'a> {
    out: &'a mut Vec<u8>,
    count_at: usize,
    count: u64,
}

impl Open<'_> {
    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), FingerprintError> {
        self.count += 1;
        write(value, self.out)
    }

    fn field<T: Serialize + ?Sized>(
        &mut self,
        name: &str,
        value: &T,
    ) -> Result<(), FingerprintError> {
        Writer { out: self.out }.bytes(b'F', name.as_bytes());
        self.element(value)
    }

    fn close(self) -> Result<(), FingerprintError> {
        self.out[self.count_at..self.count_at + 8].copy_from_slice(&self.count.to_le_bytes());
        Ok(())
    }
}

macro_rules! elements {
    ($($trait:ident::$method:ident)*) => {$(
        impl ser::$trait for Open<'_> {
            type Ok = ();
            type Error = FingerprintError;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), FingerprintError> {
                self.element(value)
            }

            fn end(self) -> Result<(), FingerprintError> {
                self.close()
            }
        }
    )*};
}

elements! {
    SerializeSeq::serialize_element
    SerializeTuple::serialize_element
    SerializeTupleStruct::serialize_field
    SerializeTupleVariant::serialize_field
}

macro_rules! fields {
    ($($trait:ident)*) => {$(
        impl ser::$trait for Open<'_> {
            type Ok = ();
            type Error = FingerprintError;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), FingerprintError> {
                self.field(name, value)
            }

            fn end(self) -> Result<(), FingerprintError> {
                self.close()
            }
        }
    )*};
}

fields! { SerializeStruct SerializeStructVariant }

/// An open map: entries are kept until it closes, then written in the order of their keys.
struct OpenMap<'a> {
    out: &'a mut Vec<u8>,
    entries: Vec<(Vec<u8>, Vec<u8>)>,
    key: Vec<u8>,
}

impl ser::SerializeMap for OpenMap<'_> {
    type Ok = ();
    type Error = FingerprintError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), FingerprintError> {
        self.key.clear();
        write(key, &mut self.key)
    }

    fn serialize_value<T: Serialize + ?Sized>(
        &mut self,
        value: &T,
    ) -> Result<(), FingerprintError> {
        let mut encoded = Vec::new();
        write(value, &mut encoded)?;
        self.entries.push((std::mem::take(&mut self.key), encoded));
        Ok(())
    }

    fn end(mut self) -> Result<(), FingerprintError> {
        self.entries.sort_unstable();
        let mut writer = Writer { out: self.out };
        writer.tag(b'm');
        writer.length(self.entries.len());
        for (key, value) in self.entries {
            writer.out.extend_from_slice(&key);
            writer.out.extend_from_slice(&value);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use proptest::prelude::*;
    use serde::Serialize;

    use super::{ser, write};

    fn form<T: Serialize>(value: T) -> Vec<u8> {
        let mut out = Vec::new();
        write(&value, &mut out).unwrap();
        out
    }

    proptest! {
        #[test]
        fn the_order_of_a_map_does_not_count(entries: HashMap<String, (u8, Option<i32>)>) {
            let sorted: BTreeMap<_, _> = entries.clone().into_iter().collect();
            let again: HashMap<_, _> = entries.clone().into_iter().collect();
            prop_assert_eq!(form(&entries), form(&sorted));
            prop_assert_eq!(form(&entries), form(&again));
        }

        #[test]
        fn different_values_have_different_forms(
            a: (Vec<String>, Option<Vec<u8>>, BTreeMap<i64, String>),
            b: (Vec<String>, Option<Vec<u8>>, BTreeMap<i64, String>),
        ) {
            prop_assert_eq!(a == b, form(&a) == form(&b));
        }
    }

    #[test]
    fn shapes_that_look_alike_are_told_apart() {
        #[derive(Serialize)]
        enum Shape {
            Unit,
            New(u8),
            Tuple(u8, u8),
            Struct { a: u8 },
        }
        let forms = [
            form(()),
            form(None::<u8>),
            form(Some(None::<u8>)),
            form(""),
            form(0_u8),
            form(false),
            form(0.0_f64),
            form("0"),
            form(Vec::<u8>::new()),
            form(HashMap::<u8, u8>::new()),
            form([[1_u8, 2], [3, 4]]),
            form((vec![1_u8, 2], vec![3_u8, 4])),
            form((vec![1_u8], vec![2_u8, 3, 4])),
            form(Shape::Unit),
            form(Shape::New(1)),
            form(Shape::Tuple(1, 1)),
            form(Shape::Struct { a: 1 }),
        ];
        for (i, a) in forms.iter().enumerate() {
            for b in &forms[i + 1..] {
                assert_ne!(a, b);
            }
        }
    }

    #[test]
    fn the_width_of_an_integer_does_not_count() {
        assert_eq!(form(7_u8), form(7_i64));
        assert_eq!(form(7_u128), form(7_i8));
        assert_ne!(form(u128::MAX), form(-1_i128));
    }

    #[test]
    fn a_failing_serialisation_is_an_error_without_its_message() {
        struct Broken;
        impl Serialize for Broken {
            fn serialize<S: ser::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                Err(ser::Error::custom("secret"))
            }
        }
        let error = write(&Broken, &mut Vec::new()).unwrap_err();
        assert!(!error.to_string().contains("secret"));
    }
}
