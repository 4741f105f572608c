//! Methods of traits: native ones and those of `#[async_trait]`.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use async_trait::async_trait;
use idem::{Error, idempotent};
use serde::{Deserialize, Serialize};

use crate::{Desk, assert_runs_once};

trait Native {
    fn desk(&self) -> &Desk;

    async fn settle(&self, id: &str, cents: u32) -> Result<u32, Error>;

    #[idempotent(key = id, ttl = "1h", name = "traits.settle_by_default", engine = self.desk().engine)]
    async fn settle_by_default(&self, id: &str, cents: u32) -> Result<(u32, u32), Error> {
        assert!(!id.is_empty());
        Ok((self.desk().run(), cents))
    }
}

struct Bank(Desk);

impl Native for Bank {
    fn desk(&self) -> &Desk {
        &self.0
    }

    #[idempotent(key = id, ttl = "1h", name = "traits.settle", engine = self.0.engine)]
    async fn settle(&self, id: &str, cents: u32) -> Result<u32, Error> {
        assert!(!id.is_empty());
        self.0.run();
        Ok(cents)
    }
}

#[tokio::test]
async fn a_native_async_trait_method_runs_once() {
    let bank = Bank(Desk::new());
    assert_eq!(assert_runs_once!(bank.0, bank.settle("k", 5)), 5);
}

#[tokio::test]
async fn a_default_method_runs_once() {
    let bank = Bank(Desk::new());
    let once = assert_runs_once!(bank.0, bank.settle_by_default("k", 5));
    assert_eq!(once, (1, 5));
}

#[derive(Clone, Serialize, Deserialize, PartialEq, Debug)]
struct Transfer {
    id: String,
    cents: u32,
}

fn transfer(id: &str, cents: u32) -> Transfer {
    Transfer {
        id: id.to_owned(),
        cents,
    }
}

#[async_trait]
trait Boxed: Send + Sync {
    fn desk(&self) -> &Desk;

    async fn by_reference(&self, transfer: &Transfer) -> Result<u32, Error>;

    async fn by_mutable_reference(&mut self, id: String) -> Result<u32, Error>;

    async fn taken_apart(
        &self,
        transfer: Transfer,
        pair: (u8, u8),
        ignored: Opaque,
    ) -> Result<(u32, u8), Error>;

    async fn keyed_by_self(&self) -> Result<u32, Error>;

    async fn generic<T>(&self, id: u8, value: T) -> Result<(u32, T), Error>
    where
        T: Serialize + serde::de::DeserializeOwned + Clone + Send + Sync,
        Self: Sized;

    async fn early(&self, id: &str) -> Result<u32, Error>;

    #[idempotent(key = id, ttl = "1h", name = "traits.by_default", skip(extra), engine = self.desk().engine)]
    async fn by_default(&self, id: u8, mut extra: Vec<u8>) -> Result<Vec<u8>, Error> {
        assert_eq!(id, 1);
        self.desk().run();
        extra.push(id);
        Ok(extra)
    }
}

struct Opaque;

struct Account {
    desk: Desk,
    number: String,
    settled: u32,
}

#[async_trait]
impl Boxed for Account {
    fn desk(&self) -> &Desk {
        &self.desk
    }

    #[idempotent(key = transfer.id, scope = self.number, ttl = "1h", name = "traits.by_reference", engine = self.desk.engine)]
    async fn by_reference(&self, transfer: &Transfer) -> Result<u32, Error> {
        self.desk.run();
        Ok(transfer.cents)
    }

    #[idempotent(key = id, ttl = "1h", name = "traits.by_mutable_reference", engine = self.desk.engine)]
    async fn by_mutable_reference(&mut self, mut id: String) -> Result<u32, Error> {
        id.clear();
        self.desk.run();
        self.settled += 1;
        Ok(self.settled)
    }

    #[idempotent(key = id, ttl = "1h", name = "traits.taken_apart", engine = self.desk.engine)]
    async fn taken_apart(
        &self,
        Transfer { id, mut cents }: Transfer,
        (first, _): (u8, u8),
        _: Opaque,
    ) -> Result<(u32, u8), Error> {
        assert!(!id.is_empty());
        self.desk.run();
        cents += 1;
        Ok((cents, first))
    }

    #[idempotent(key = self.number, ttl = "1h", name = "traits.keyed_by_self", engine = self.desk.engine)]
    async fn keyed_by_self(&self) -> Result<u32, Error> {
        Ok(self.desk.run())
    }

    #[idempotent(key = id, ttl = "1h", name = "traits.generic", engine = self.desk.engine)]
    async fn generic<T>(&self, id: u8, value: T) -> Result<(u32, T), Error>
    where
        T: Serialize + serde::de::DeserializeOwned + Clone + Send + Sync,
    {
        assert_eq!(id, 1);
        Ok((self.desk.run(), value))
    }

    #[idempotent(key = id, ttl = "1h", name = "traits.early", engine = self.desk.engine)]
    async fn early(&self, id: &str) -> Result<u32, Error> {
        let run = self.desk.run();
        if id == "early" {
            return Ok(run * 100);
        }
        let failed: Result<u32, Error> = Err(Error::NoEngine);
        failed?;
        Ok(run)
    }
}

fn account() -> Account {
    Account {
        desk: Desk::new(),
        number: "DE1".to_owned(),
        settled: 0,
    }
}

#[tokio::test]
async fn an_async_trait_method_runs_once_behind_a_trait_object() {
    let account = account();
    let desk = account.desk.clone();
    let boxed: Box<dyn Boxed> = Box::new(account);
    let order = transfer("t", 5);
    assert_eq!(assert_runs_once!(desk, boxed.by_reference(&order)), 5);
    let other = transfer("t", 6);
    assert!(matches!(
        boxed.by_reference(&other).await,
        Err(Error::Mismatch)
    ));
}

#[tokio::test]
async fn an_async_trait_method_by_mutable_reference_changes_self_once() {
    let mut account = account();
    let desk = account.desk.clone();
    assert_runs_once!(desk, account.by_mutable_reference("k".to_owned()));
    assert_eq!(account.settled, 1);
}

#[tokio::test]
async fn an_async_trait_method_takes_its_arguments_apart_by_the_users_names() {
    let account = account();
    let desk = &account.desk;
    let call = |cents, ignored| account.taken_apart(transfer("t", cents), (1, ignored), Opaque);
    assert_eq!(assert_runs_once!(desk, call(5, 2)), (6, 1));
    assert_eq!(call(5, 3).await.unwrap(), (6, 1), "`_` does not count");
    assert!(matches!(call(6, 2).await, Err(Error::Mismatch)));
}

#[tokio::test]
async fn an_async_trait_method_can_be_keyed_by_self() {
    let account = account();
    assert_runs_once!(account.desk, account.keyed_by_self());
}

#[tokio::test]
async fn a_generic_async_trait_method_runs_once() {
    let account = account();
    let once = assert_runs_once!(account.desk, account.generic(1, vec!["v".to_owned()]));
    assert_eq!(once, (1, vec!["v".to_owned()]));
}

#[tokio::test]
async fn an_async_trait_method_returns_early_and_fails_as_written() {
    let account = account();
    assert_eq!(assert_runs_once!(account.desk, account.early("early")), 100);
    assert!(matches!(account.early("late").await, Err(Error::NoEngine)));
}

#[tokio::test]
async fn a_default_async_trait_method_runs_once() {
    let account = account();
    let once = assert_runs_once!(account.desk, account.by_default(1, vec![7]));
    assert_eq!(once, [7, 1]);
}

#[tokio::test]
async fn an_async_trait_future_is_send() {
    let account = std::sync::Arc::new(account());
    let shared = std::sync::Arc::clone(&account);
    let task = tokio::spawn(async move { shared.by_reference(&transfer("t", 5)).await });
    assert_eq!(task.await.unwrap().unwrap(), 5);
    assert_eq!(account.desk.runs(), 1);
}

#[async_trait(?Send)]
trait Local {
    async fn tally(&self, id: &str, by: BTreeMap<String, u32>) -> Result<u32, Error>;
}

struct Tally {
    desk: Desk,
    sum: Rc<Cell<u32>>,
}

#[async_trait(?Send)]
impl Local for Tally {
    #[idempotent(key = id, ttl = "1h", name = "traits.tally", engine = self.desk.engine)]
    async fn tally(&self, id: &str, by: BTreeMap<String, u32>) -> Result<u32, Error> {
        assert!(!id.is_empty());
        self.desk.run();
        let sum = Rc::clone(&self.sum);
        tokio::task::yield_now().await;
        sum.set(sum.get() + by.values().sum::<u32>());
        Ok(sum.get())
    }
}

#[tokio::test]
async fn an_async_trait_method_that_is_not_send_runs_once() {
    let tally = Tally {
        desk: Desk::new(),
        sum: Rc::default(),
    };
    let by = BTreeMap::from([("a".to_owned(), 3)]);
    assert_eq!(
        assert_runs_once!(tally.desk, tally.tally("k", by.clone())),
        3
    );
    assert_eq!(tally.sum.get(), 3);
}

/// What `#[async_trait]` writes can be written by hand as well.
#[idempotent(key = id, ttl = "1h", skip(desk), engine = desk.engine)]
fn by_hand<'a>(
    desk: &'a Desk,
    id: &'a str,
) -> std::pin::Pin<Box<dyn Future<Output = Result<u32, Error>> + Send + 'a>> {
    Box::pin(async move {
        assert!(!id.is_empty());
        Ok(desk.run())
    })
}

#[tokio::test]
async fn a_boxed_future_written_by_hand_runs_once() {
    let desk = Desk::new();
    assert_runs_once!(desk, by_hand(&desk, "k"));
}
