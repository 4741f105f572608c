//! Names that two functions share. Each test calls one of the two only: in production the other
//! may be called in another process.

use idem::{Error, idempotent};

use crate::{Desk, assert_name_taken};

struct Charges(Desk);
struct Refunds(Desk);

impl Charges {
    #[idempotent(key = id, ttl = "1h", name = "payments.create", engine = self.0.engine)]
    async fn create(&self, id: u8) -> Result<u32, Error> {
        assert_eq!(id, 1);
        Ok(self.0.run())
    }

    #[idempotent(key = id, ttl = "1h", skip(desk), engine = desk.engine)]
    async fn settle(desk: &Desk, id: u8) -> Result<u32, Error> {
        assert_eq!(id, 1);
        Ok(desk.run())
    }
}

impl Refunds {
    #[idempotent(key = id, ttl = "1h", name = "payments.create", engine = self.0.engine)]
    async fn create(&self, id: u8) -> Result<u32, Error> {
        assert_eq!(id, 1);
        Ok(self.0.run())
    }

    #[allow(dead_code, reason = "that it is there is enough")]
    #[idempotent(key = id, ttl = "1h", skip(desk), engine = desk.engine)]
    async fn settle(desk: &Desk, id: u8) -> Result<u32, Error> {
        assert_eq!(id, 1);
        Ok(desk.run())
    }
}

#[tokio::test]
async fn the_first_function_of_a_name_is_refused_as_the_second_is() {
    let desk = Desk::new();
    assert_name_taken(&desk, Charges(desk.clone()).create(1).await);
    assert_name_taken(&desk, Refunds(desk.clone()).create(1).await);
}

#[tokio::test]
async fn associated_functions_of_one_derived_name_are_refused() {
    let desk = Desk::new();
    assert_name_taken(&desk, Charges::settle(&desk, 1).await);
}

#[tokio::test]
async fn functions_within_functions_of_one_derived_name_are_refused() {
    #[allow(dead_code, reason = "that it is there is enough")]
    fn elsewhere() {
        #[idempotent(key = id, ttl = "1h", skip(desk), engine = desk.engine)]
        async fn inner(desk: &Desk, id: u8) -> Result<u32, Error> {
            assert_eq!(id, 1);
            Ok(desk.run())
        }
    }

    #[idempotent(key = id, ttl = "1h", skip(desk), engine = desk.engine)]
    async fn inner(desk: &Desk, id: u8) -> Result<u32, Error> {
        assert_eq!(id, 1);
        Ok(desk.run())
    }

    let desk = Desk::new();
    assert_name_taken(&desk, inner(&desk, 1).await);
}

macro_rules! services {
    ($($service:ident $module:ident)*) => {$(
        struct $service(Desk);

        #[allow(dead_code, reason = "one of them is called")]
        impl $service {
            #[idempotent(key = id, ttl = "1h", name = "services.pay", engine = self.0.engine)]
            async fn pay(&self, id: u8) -> Result<u32, Error> {
                assert_eq!(id, 1);
                Ok(self.0.run())
            }

            #[idempotent(key = id, ttl = "1h", skip(desk), engine = desk.engine)]
            async fn refund(desk: &Desk, id: u8) -> Result<u32, Error> {
                assert_eq!(id, 1);
                Ok(desk.run())
            }
        }

        #[allow(dead_code, reason = "one of them is called")]
        mod $module {
            use super::*;

            #[idempotent(key = id, ttl = "1h", name = "services.hold", skip(desk), engine = desk.engine)]
            pub(super) async fn hold(desk: &Desk, id: u8) -> Result<u32, Error> {
                assert_eq!(id, 1);
                Ok(desk.run())
            }
        }
    )*};
}

services! { Cards cards Transfers transfers }

#[tokio::test]
async fn functions_that_one_macro_call_declares_are_not_confused() {
    let desk = Desk::new();
    assert_name_taken(&desk, Cards(desk.clone()).pay(1).await);
    assert_name_taken(&desk, Transfers(desk.clone()).pay(1).await);
    assert_name_taken(&desk, Cards::refund(&desk, 1).await);
    assert_name_taken(&desk, transfers::hold(&desk, 1).await);
}

#[tokio::test]
async fn the_engine_may_be_told_apart_and_the_name_is_taken_all_the_same() {
    let (desk, other) = (Desk::new(), Desk::new());
    assert_name_taken(&desk, Cards(desk.clone()).pay(1).await);
    assert_name_taken(&other, Cards(other.clone()).pay(1).await);
}
