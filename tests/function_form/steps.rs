//! Steps in the attribute's function form: also in functions that the body calls, and in nested calls.

use std::sync::atomic::{AtomicU32, Ordering};

use idem::{Error, idempotent};

use crate::Desk;

/// A part of a body in a function of its own.
async fn charge(charges: &AtomicU32, cents: u32) -> Result<u32, Error> {
    idem::step("charge", async {
        charges.fetch_add(1, Ordering::SeqCst);
        Ok(cents)
    })
    .await
}

#[idempotent(key = order, ttl = "1h", skip(desk, charges, fails), engine = desk.engine)]
async fn pay(
    desk: &Desk,
    charges: &AtomicU32,
    order: u32,
    cents: u32,
    fails: bool,
) -> Result<u32, Error> {
    desk.run();
    let charged = charge(charges, cents).await?;
    if fails {
        return Err(Error::NoEngine);
    }
    Ok(charged)
}

/// The inner call has a record and steps of its own.
#[idempotent(key = order, ttl = "1h", skip(desk, charges), engine = desk.engine)]
async fn pay_within(desk: &Desk, charges: &AtomicU32, order: u32) -> Result<u32, Error> {
    let fee = idem::step("fee", async {
        charges.fetch_add(1, Ordering::SeqCst);
        Ok::<_, Error>(1)
    })
    .await?;
    Ok(fee + pay(desk, charges, order, 5, false).await?)
}

#[tokio::test]
async fn a_call_that_failed_after_a_step_continues_with_its_value() {
    let (desk, charges) = (Desk::new(), AtomicU32::new(0));
    let failed = pay(&desk, &charges, 1, 5, true).await;
    assert!(matches!(failed, Err(Error::NoEngine)));
    // The key is kept, for this request.
    let other = pay(&desk, &charges, 1, 6, false).await;
    assert!(matches!(other, Err(Error::Mismatch)));
    assert_eq!(pay(&desk, &charges, 1, 5, false).await.unwrap(), 5);
    assert_eq!(pay(&desk, &charges, 1, 5, false).await.unwrap(), 5);
    assert_eq!((desk.runs(), charges.load(Ordering::SeqCst)), (2, 1));
}

#[tokio::test]
async fn nested_calls_have_steps_of_their_own() {
    let (desk, charges) = (Desk::new(), AtomicU32::new(0));
    for _ in 0..2 {
        assert_eq!(pay_within(&desk, &charges, 1).await.unwrap(), 6);
    }
    assert_eq!((desk.runs(), charges.load(Ordering::SeqCst)), (1, 2));
}
