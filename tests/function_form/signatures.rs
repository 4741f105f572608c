//! Free functions: generics, lifetimes, `impl Trait`, return types.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::{Debug, Display};
use std::marker::PhantomData;
use std::time::Duration;

use idem::{Error, idempotent};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Desk, assert_runs_once};

#[idempotent(key = id, ttl = "1h", skip(desk), engine = desk.engine)]
async fn owned(desk: Desk, id: u64) -> Result<u32, Error> {
    let _ = id;
    Ok(desk.run())
}

#[tokio::test]
async fn a_free_function_runs_once_and_replays() {
    let desk = Desk::new();
    assert_eq!(assert_runs_once!(desk, owned(desk.clone(), 7)), 1);
    assert_eq!(owned(desk.clone(), 8).await.unwrap(), 2, "another key runs");
}

#[idempotent(key = id, ttl = "1h", skip(desk), engine = desk.engine)]
pub(crate) async fn lifetimes<'a, 'b>(
    desk: &'a Desk,
    id: &'b str,
    note: Option<&'a str>,
) -> Result<Cow<'a, str>, Error>
where
    'b: 'a,
{
    desk.run();
    Ok(Cow::Owned(format!("{id} {}", note.unwrap_or_default())))
}

#[tokio::test]
async fn borrowed_arguments_and_named_lifetimes_stay() {
    let desk = Desk::new();
    let id = String::from("k");
    let said = assert_runs_once!(desk, lifetimes(&desk, &id, Some("hello")));
    assert_eq!(said, "k hello");
}

#[idempotent(key = id, ttl = "1h", skip(desk), engine = desk.engine)]
async fn elided(desk: &Desk, id: &str) -> Result<Cow<'static, str>, Error> {
    desk.run();
    Ok(id.to_owned().into())
}

#[tokio::test]
async fn elided_lifetimes_stay() {
    let desk = Desk::new();
    assert_eq!(assert_runs_once!(desk, elided(&desk, "k")), "k");
}

#[idempotent(key = id, ttl = "1h", name = "signatures.generic", skip(desk), engine = desk.engine)]
async fn generic<K, T>(desk: &Desk, id: K, payload: T) -> Result<(u32, T), Error>
where
    K: idem::KeyPart + Serialize + Display,
    T: Serialize + DeserializeOwned + Clone,
{
    assert!(!id.to_string().is_empty());
    Ok((desk.run(), payload.clone()))
}

#[tokio::test]
async fn generics_with_bounds_and_a_where_clause_stay() {
    let desk = Desk::new();
    let (_, payload) = assert_runs_once!(desk, generic(&desk, "k", vec![1, 2]));
    assert_eq!(payload, [1, 2]);
    let (_, payload) = assert_runs_once!(desk, generic::<u64, String>(&desk, 9, "x".to_owned()));
    assert_eq!(payload, "x");
}

#[idempotent(key = id, ttl = "1h", name = "signatures.const_generic", fingerprint(id.as_slice()), engine = desk.engine)]
async fn const_generic<const N: usize, const LOUD: bool>(
    desk: &Desk,
    id: [u8; N],
) -> Result<(u32, usize, bool), Error> {
    assert_eq!(id.len(), N);
    Ok((desk.run(), N, LOUD))
}

#[tokio::test]
async fn const_generics_stay() {
    let desk = Desk::new();
    let once = assert_runs_once!(desk, const_generic::<3, true>(&desk, [1, 2, 3]));
    assert_eq!(once, (1, 3, true));
}

#[idempotent(key = id.as_ref(), ttl = "1h", name = "signatures.impl_arguments", skip(desk), engine = desk.engine)]
async fn impl_arguments(
    desk: &Desk,
    id: impl AsRef<str> + Serialize,
    extra: impl Serialize + Debug,
) -> Result<String, Error> {
    desk.run();
    Ok(format!("{} {extra:?}", id.as_ref()))
}

#[tokio::test]
async fn impl_trait_arguments_stay() {
    let desk = Desk::new();
    let once = assert_runs_once!(desk, impl_arguments(&desk, "k", Some(1)));
    assert_eq!(once, "k Some(1)");
}

#[derive(Debug)]
struct Failed;

impl From<Error> for Failed {
    fn from(_: Error) -> Self {
        Self
    }
}

impl From<std::num::ParseIntError> for Failed {
    fn from(_: std::num::ParseIntError) -> Self {
        Self
    }
}

#[idempotent(key = id, ttl = "1h", skip(desk), engine = desk.engine)]
async fn impl_return(
    desk: &Desk,
    id: &str,
) -> Result<impl Serialize + DeserializeOwned + PartialEq + Debug + use<>, Failed> {
    let number: u32 = id.parse()?;
    if number == 0 {
        return Err("nothing".parse::<u8>().unwrap_err().into());
    }
    Ok((number, desk.run()))
}

#[tokio::test]
async fn an_impl_trait_value_is_stored_and_given_back() {
    let desk = Desk::new();
    assert_runs_once!(desk, impl_return(&desk, "7"));
    assert!(
        impl_return(&desk, "x").await.is_err(),
        "`?` knows the error type"
    );
    assert!(impl_return(&desk, "0").await.is_err());
}

type Answer<T> = std::result::Result<T, Failed>;

#[idempotent(key = id, ttl = "1h", skip(desk), engine = desk.engine)]
async fn aliased(desk: &Desk, id: &str) -> Answer<u32> {
    let _: u8 = id.parse()?;
    Ok(desk.run())
}

#[tokio::test]
async fn an_alias_of_result_is_a_result() {
    let desk = Desk::new();
    assert_runs_once!(desk, aliased(&desk, "7"));
    assert!(aliased(&desk, "k").await.is_err());
}

#[idempotent(key = id, ttl = "1h", skip(desk), engine = desk.engine)]
async fn unit(desk: &Desk, id: u8) -> Result<(), Error> {
    assert!(id > 0);
    desk.run();
    Ok(())
}

#[idempotent(key = id, ttl = "1h", skip(desk), engine = desk.engine)]
async fn optional(desk: &Desk, id: u8) -> Result<Option<u32>, Error> {
    desk.run();
    Ok((id > 1).then_some(id.into()))
}

#[tokio::test]
async fn unit_and_none_are_values_too() {
    let desk = Desk::new();
    assert_runs_once!(desk, unit(&desk, 1));
    let desk = Desk::new();
    assert_eq!(assert_runs_once!(desk, optional(&desk, 1)), None);
    assert_eq!(assert_runs_once!(desk, optional(&desk, 2)), Some(2));
}

#[derive(Serialize, Deserialize, PartialEq, Debug, Clone)]
struct Receipt {
    id: String,
    lines: Vec<(String, i64)>,
    paid: Option<Duration>,
    notes: HashMap<String, Vec<u8>>,
}

#[idempotent(key = receipt.id, ttl = "1h", skip(desk), engine = desk.engine)]
async fn echo(desk: &Desk, receipt: Receipt) -> Result<Receipt, Error> {
    desk.run();
    Ok(receipt)
}

#[tokio::test]
async fn a_user_type_comes_back_as_it_was_stored() {
    let desk = Desk::new();
    let receipt = Receipt {
        id: "r-1".to_owned(),
        lines: vec![("tea \"green\"\n".to_owned(), -250)],
        paid: Some(Duration::new(3, 7)),
        notes: [("n".to_owned(), vec![0, 255])].into(),
    };
    let back = assert_runs_once!(desk, echo(&desk, receipt.clone()));
    assert_eq!(back, receipt);
}

#[idempotent(key = orders.len() as u64, ttl = "1h", skip(desk), engine = desk.engine)]
async fn maps(desk: &Desk, orders: HashMap<String, u32>) -> Result<u32, Error> {
    assert_eq!(orders.len(), 64);
    Ok(desk.run())
}

#[tokio::test]
async fn the_order_of_a_hash_map_argument_does_not_matter() {
    let desk = Desk::new();
    let entries = || (0..64_u32).map(|n| (format!("order {n}"), n));
    // Every map has its own random order, and these two differ in their capacity as well.
    let mut other = HashMap::with_capacity(4096);
    other.extend(entries().rev());
    assert_eq!(maps(&desk, entries().collect()).await.unwrap(), 1);
    assert_eq!(maps(&desk, other).await.unwrap(), 1);
    let changed = entries().map(|(name, n)| (name, n.max(1))).collect();
    assert!(matches!(maps(&desk, changed).await, Err(Error::Mismatch)));
}

mod elsewhere {
    pub(crate) use idem as reexported;
}

#[idempotent(crate = crate::signatures::elsewhere::reexported, key = id, ttl = "1h", skip(desk), engine = desk.engine)]
async fn through_a_reexport(desk: &Desk, id: u8) -> Result<u32, Error> {
    assert_eq!(id, 1);
    Ok(desk.run())
}

#[tokio::test]
async fn the_crate_can_be_reached_by_another_path() {
    let desk = Desk::new();
    assert_runs_once!(desk, through_a_reexport(&desk, 1));
}

struct Repository<T> {
    desk: Desk,
    marker: PhantomData<T>,
}

impl<T: Serialize + DeserializeOwned + Clone> Repository<T> {
    #[idempotent(key = id, ttl = "1h", name = "signatures.save", engine = self.desk.engine)]
    async fn save(&self, id: u8, value: T) -> Result<(u32, T), Error> {
        assert_eq!(id, 1);
        Ok((self.desk.run(), value))
    }
}

#[tokio::test]
async fn a_method_of_a_generic_type_runs_once() {
    let repository = Repository {
        desk: Desk::new(),
        marker: PhantomData,
    };
    let once = assert_runs_once!(repository.desk, repository.save(1, "v".to_owned()));
    assert_eq!(once, (1, "v".to_owned()));
}

macro_rules! declare {
    ($name:ident, $argument:ident: $ty:ty => $body:expr) => {
        #[idempotent(key = $argument, ttl = "1h", skip(desk), engine = desk.engine)]
        async fn $name(desk: &Desk, $argument: $ty) -> Result<u32, Error> {
            desk.run();
            Ok($body)
        }
    };
}

declare!(declared, amount: u32 => amount + 1);

#[tokio::test]
async fn a_function_that_a_macro_declares_runs_once() {
    let desk = Desk::new();
    assert_eq!(assert_runs_once!(desk, declared(&desk, 4)), 5);
}
