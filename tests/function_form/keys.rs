//! Every type that can be a key, and what is none.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use idem::{Error, KeyError, idempotent};
use uuid::Uuid;

use crate::{Desk, assert_runs_once};

#[idempotent(key = key, ttl = "1h", name = "keys.keyed", skip(desk, key), engine = desk.engine)]
async fn keyed<K: idem::KeyPart>(desk: &Desk, key: K) -> Result<u32, Error> {
    let _ = key;
    Ok(desk.run())
}

macro_rules! assert_is_key {
    ($($key:expr),* $(,)?) => {$({
        let desk = Desk::new();
        assert_runs_once!(desk, keyed(&desk, $key));
    })*};
}

#[tokio::test]
async fn text_numbers_ids_bytes_and_what_holds_them_are_keys() {
    assert_is_key![
        "text",
        "text".to_owned(),
        Cow::Borrowed("text"),
        Cow::<str>::Owned("text".to_owned()),
        Box::<str>::from("text"),
        Uuid::from_u128(7),
        7_u64,
        -7_i128,
        7_usize,
        [1_u8, 2, 3],
        &[0_u8, 255][..],
        vec![0_u8, 255],
        Some("text"),
        Some(Some(7)),
        Ok::<_, ()>("text"),
        ("tenant", 7),
        ("tenant", Some(Uuid::from_u128(7)), (1, "x")),
        &&"text",
    ];
}

#[tokio::test]
async fn the_identity_of_a_key_is_in_its_content_not_in_its_type() {
    let desk = Desk::new();
    let shared: Arc<str> = "7".into();
    assert_eq!(keyed(&desk, 7_u8).await.unwrap(), 1);
    assert_eq!(keyed(&desk, shared).await.unwrap(), 1);
    assert_eq!(keyed(&desk, Bytes::from_static(b"7")).await.unwrap(), 1);
    assert_eq!(keyed(&desk, ("7",)).await.unwrap(), 1);
    assert_eq!(keyed(&desk, ("7", "7")).await.unwrap(), 2);
}

#[tokio::test]
async fn no_key_is_an_error_and_nothing_runs() {
    let desk = Desk::new();
    let error = |result: Result<u32, Error>| match result {
        Err(Error::Key(error)) => error,
        other => panic!("no key was accepted: {other:?}"),
    };
    assert_eq!(error(keyed(&desk, None::<u8>).await), KeyError::Missing);
    assert_eq!(
        error(keyed(&desk, ("a", None::<u8>)).await),
        KeyError::Incomplete
    );
    assert_eq!(
        error(keyed(&desk, Err::<u8, _>("why")).await),
        KeyError::Rejected
    );
    assert_eq!(error(keyed(&desk, "").await), KeyError::Empty);
    assert_eq!(desk.runs(), 0);
}

struct Message {
    headers: Vec<(&'static str, &'static str)>,
    id: u32,
}

impl Message {
    fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers
            .find(|(found, _)| *found == name)
            .map(|found| found.1)
    }

    fn try_id(&self) -> Result<u32, std::num::TryFromIntError> {
        u8::try_from(self.id).map(u32::from)
    }
}

#[idempotent(key = message.header("id"), ttl = "1h", fingerprint(message.id), engine = desk.engine)]
async fn optional(desk: &Desk, message: &Message) -> Result<u32, Error> {
    let _ = message;
    Ok(desk.run())
}

#[idempotent(key = { let id = message.try_id(); id.ok() }, ttl = "1h", fingerprint(message.id), engine = desk.engine)]
async fn fallible(desk: &Desk, message: &Message) -> Result<u32, Error> {
    let _ = message;
    Ok(desk.run())
}

#[idempotent(key = format!("{}-{}", message.id, "x"), ttl = "1h", fingerprint(message.id), engine = desk.engine)]
async fn computed(desk: &Desk, message: &Message) -> Result<u32, Error> {
    let _ = message;
    Ok(desk.run())
}

#[idempotent(key = format!("{id}"), ttl = "1h", skip(desk), engine = desk.engine)]
async fn formatted(desk: &Desk, id: u32) -> Result<u32, Error> {
    let _ = id;
    Ok(desk.run())
}

#[tokio::test]
async fn a_format_string_names_arguments() {
    let desk = Desk::new();
    assert_runs_once!(desk, formatted(&desk, 1));
    assert_runs_once!(desk, formatted(&desk, 2));
}

#[tokio::test]
async fn a_key_may_be_any_expression_over_the_arguments() {
    let desk = Desk::new();
    let message = |headers, id| Message { headers, id };
    let with = message(vec![("id", "m-1")], 1);
    assert_runs_once!(desk, optional(&desk, &with));
    assert_runs_once!(desk, fallible(&desk, &with));
    assert_runs_once!(desk, computed(&desk, &with));

    let without = message(vec![], 1000);
    assert!(matches!(
        optional(&desk, &without).await,
        Err(Error::Key(KeyError::Missing))
    ));
    assert!(matches!(
        fallible(&desk, &without).await,
        Err(Error::Key(KeyError::Missing))
    ));
    assert_eq!(desk.runs(), 3);
}

fn header(name: &str) -> String {
    format!("header of {name}")
}

#[idempotent(key = header(name), ttl = "1h", skip(desk), engine = desk.engine)]
async fn calls_a_function_named_header(desk: &Desk, name: &str) -> Result<u32, Error> {
    assert!(!name.is_empty());
    Ok(desk.run())
}

#[tokio::test]
async fn a_function_of_the_users_may_be_called_header() {
    let desk = Desk::new();
    assert_runs_once!(desk, calls_a_function_named_header(&desk, "k"));
}
