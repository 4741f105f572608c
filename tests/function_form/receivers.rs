//! Methods: every receiver, associated functions, and their names.

use std::pin::Pin;
use std::sync::Arc;

use idem::{Error, idempotent};

use crate::{Desk, assert_runs_once};

#[derive(Clone)]
struct Shop {
    desk: Desk,
    region: String,
    sold: u32,
}

impl Shop {
    fn new() -> Self {
        Self {
            desk: Desk::new(),
            region: "eu".to_owned(),
            sold: 0,
        }
    }

    #[idempotent(key = id, ttl = "1h", name = "receivers.by_reference", scope = self.region, engine = self.desk.engine)]
    async fn by_reference(&self, id: &str, cents: u32) -> Result<(u32, u32), Error> {
        assert!(!id.is_empty());
        Ok((self.desk.run(), cents))
    }

    #[idempotent(key = id, ttl = "1h", name = "receivers.by_mutable_reference", engine = self.desk.engine)]
    async fn by_mutable_reference(&mut self, id: &str) -> Result<u32, Error> {
        assert!(!id.is_empty());
        self.sold += 1;
        self.desk.run();
        Ok(self.sold)
    }

    #[idempotent(key = id, ttl = "1h", name = "receivers.by_value", engine = self.desk.engine)]
    async fn by_value(self, id: &str) -> Result<String, Error> {
        assert!(!id.is_empty());
        self.desk.run();
        Ok(self.region)
    }

    #[idempotent(key = id, ttl = "1h", name = "receivers.by_mutable_value", engine = self.desk.engine)]
    async fn by_mutable_value(mut self, id: &str) -> Result<String, Error> {
        assert!(!id.is_empty());
        self.desk.run();
        self.region.push('!');
        Ok(self.region)
    }

    #[idempotent(key = id, ttl = "1h", name = "receivers.behind_arc", engine = self.desk.engine)]
    async fn behind_arc(self: Arc<Self>, id: &str) -> Result<u32, Error> {
        assert!(!id.is_empty());
        Ok(self.desk.run())
    }

    #[idempotent(key = id, ttl = "1h", name = "receivers.behind_pin", engine = self.desk.engine)]
    async fn behind_pin(self: Pin<&mut Self>, id: &str) -> Result<u32, Error> {
        assert!(!id.is_empty());
        Ok(self.desk.run())
    }

    #[idempotent(key = self.region, ttl = "1h", name = "receivers.keyed_by_self", engine = self.desk.engine)]
    async fn keyed_by_self(&self) -> Result<u32, Error> {
        Ok(self.desk.run())
    }

    #[idempotent(key = id, ttl = "1h", skip(desk), engine = desk.engine)]
    async fn without_receiver(desk: &Desk, id: &str) -> Result<u32, Error> {
        assert!(!id.is_empty());
        Ok(desk.run())
    }

    #[idempotent(key = id, ttl = "1h", name = "receivers.counting_self", fingerprint(self.region, cents), engine = self.desk.engine)]
    async fn counting_self(&self, id: &str, cents: u32) -> Result<u32, Error> {
        assert!(!id.is_empty() && cents > 0);
        Ok(self.desk.run())
    }
}

#[tokio::test]
async fn a_method_by_reference_runs_once() {
    let shop = Shop::new();
    let once = assert_runs_once!(shop.desk, shop.by_reference("k", 5));
    assert_eq!(once, (1, 5));
}

#[tokio::test]
async fn a_method_by_mutable_reference_runs_once_and_changes_self_once() {
    let mut shop = Shop::new();
    let desk = shop.desk.clone();
    assert_eq!(assert_runs_once!(desk, shop.by_mutable_reference("k")), 1);
    assert_eq!(shop.sold, 1);
}

#[tokio::test]
async fn a_method_by_value_runs_once() {
    let shop = Shop::new();
    assert_eq!(
        assert_runs_once!(shop.desk, shop.clone().by_value("k")),
        "eu"
    );
    assert_eq!(
        assert_runs_once!(shop.desk, shop.clone().by_mutable_value("k")),
        "eu!"
    );
}

#[tokio::test]
async fn a_method_behind_a_smart_pointer_runs_once() {
    let mut shop = Shop::new();
    let shared = Arc::new(shop.clone());
    assert_runs_once!(shop.desk, Arc::clone(&shared).behind_arc("k"));
    let desk = shop.desk.clone();
    assert_runs_once!(desk, Pin::new(&mut shop).behind_pin("k"));
}

#[tokio::test]
async fn a_key_of_self_makes_every_object_its_own_operation() {
    let shop = Shop::new();
    let elsewhere = Shop {
        region: "us".to_owned(),
        ..shop.clone()
    };
    assert_eq!(assert_runs_once!(shop.desk, shop.keyed_by_self()), 1);
    assert_eq!(assert_runs_once!(shop.desk, elsewhere.keyed_by_self()), 2);
}

#[tokio::test]
async fn an_associated_function_without_receiver_runs_once() {
    let desk = Desk::new();
    assert_runs_once!(desk, Shop::without_receiver(&desk, "k"));
}

#[tokio::test]
async fn self_is_no_part_of_the_request_unless_it_is_named() {
    let shop = Shop::new();
    let busy = Shop {
        sold: 9,
        ..shop.clone()
    };
    assert_eq!(shop.by_reference("k", 5).await.unwrap(), (1, 5));
    assert_eq!(busy.by_reference("k", 5).await.unwrap(), (1, 5));

    let elsewhere = Shop {
        region: "us".to_owned(),
        ..shop.clone()
    };
    assert_eq!(shop.counting_self("k", 5).await.unwrap(), 2);
    assert_eq!(busy.counting_self("k", 5).await.unwrap(), 2);
    assert!(matches!(
        elsewhere.counting_self("k", 5).await,
        Err(Error::Mismatch)
    ));
}

struct Mails(Desk);
struct Letters(Desk);

impl Mails {
    #[idempotent(key = id, ttl = "1h", name = "mails.send", engine = self.0.engine)]
    async fn send(&self, id: u8) -> Result<u32, Error> {
        assert_eq!(id, 1);
        Ok(self.0.run())
    }
}

impl Letters {
    #[idempotent(key = id, ttl = "1h", name = "letters.send", engine = self.0.engine)]
    async fn send(&self, id: u8) -> Result<u32, Error> {
        assert_eq!(id, 1);
        Ok(self.0.run())
    }
}

#[tokio::test]
async fn a_name_of_its_own_keeps_each_of_two_methods_apart() {
    let desk = Desk::new();
    assert_runs_once!(desk, Mails(desk.clone()).send(1));
    assert_runs_once!(desk, Letters(desk.clone()).send(1));
    assert_eq!(desk.runs(), 2);
}

struct Till(Desk);

impl Till {
    #[idempotent(key = id, ttl = "1h", name = "charges.create", engine = self.0.engine)]
    async fn charge(&self, id: u8) -> Result<u32, Error> {
        let _ = id;
        Ok(self.0.run())
    }
}

#[tokio::test]
async fn a_name_is_the_records_wherever_the_function_stands() {
    let desk = Desk::new();
    Till(desk.clone()).charge(1).await.unwrap();
    let operation = desk.engine.operation("charges.create");
    assert!(operation.inspect(&1_u8).await.unwrap().is_some());
}
