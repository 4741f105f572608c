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
}

impl Refunds {
    #[idempotent(key = id, ttl = "1h", name = "payments.create", engine = self.0.engine)]
    async fn create(&self, id: u8) -> Result<u32, Error> {
        assert_eq!(id, 1);
        Ok(self.0.run())
    }
}

#[tokio::test]
async fn the_first_function_of_a_name_is_refused_as_the_second_is() {
    let desk = Desk::new();
    assert_name_taken(&desk, Charges(desk.clone()).create(1).await);
    let desk = Desk::new();
    assert_name_taken(&desk, Refunds(desk.clone()).create(1).await);
}
