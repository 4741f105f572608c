//! How long, how many at once, and what of errors and crashes.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use idem::{Error, idempotent};
use serde::{Deserialize, Serialize};
use tokio::sync::Barrier;

use crate::{Desk, assert_runs_once};

const HOUR: Duration = Duration::from_secs(60 * 60);

#[idempotent(key = id, ttl = "1h 30m", skip(desk), engine = desk.engine)]
async fn literal_ttl(desk: &Desk, id: u8) -> Result<u32, Error> {
    let _ = id;
    Ok(desk.run())
}

#[idempotent(key = id, ttl = HOUR + hours / 2, skip(desk), lease = Duration::from_secs(10), engine = desk.engine)]
async fn computed_ttl(desk: &Desk, id: u8, hours: Duration) -> Result<u32, Error> {
    let _ = (id, hours);
    Ok(desk.run())
}

#[tokio::test]
async fn an_outcome_is_kept_for_its_ttl() {
    let desk = Desk::new();
    assert_eq!(literal_ttl(&desk, 1).await.unwrap(), 1);
    assert_eq!(computed_ttl(&desk, 1, HOUR).await.unwrap(), 2);
    desk.clock.advance(HOUR * 3 / 2 - Duration::from_secs(1));
    assert_eq!(literal_ttl(&desk, 1).await.unwrap(), 1);
    assert_eq!(computed_ttl(&desk, 1, HOUR).await.unwrap(), 2);
    desk.clock.advance(Duration::from_secs(2));
    assert_eq!(literal_ttl(&desk, 1).await.unwrap(), 3);
    assert_eq!(computed_ttl(&desk, 1, HOUR).await.unwrap(), 4);
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Failed {
    Card(u32),
    Refused(String),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Refused(error.to_string())
    }
}

#[idempotent(key = id, ttl = kept, lease = lease, skip(desk, kept, lease), engine = desk.engine)]
async fn times_of_the_caller(
    desk: &Desk,
    id: u8,
    kept: Duration,
    lease: Duration,
) -> Result<u32, Error> {
    assert_eq!(id, 1);
    Ok(desk.run())
}

#[tokio::test]
async fn a_ttl_or_a_lease_that_turns_out_to_be_zero_is_refused() {
    let desk = Desk::new();
    for (kept, lease) in [(Duration::ZERO, HOUR), (HOUR, Duration::ZERO)] {
        let refused = times_of_the_caller(&desk, 1, kept, lease).await;
        assert!(matches!(refused, Err(Error::Policy(_))), "{refused:?}");
    }
    assert_eq!(desk.runs(), 0);
    assert_runs_once!(desk, times_of_the_caller(&desk, 1, HOUR, HOUR));
}

#[idempotent(key = id, ttl = "1h", errors = "store", skip(desk), engine = desk.engine)]
async fn stores_errors(desk: &Desk, id: u8) -> Result<u32, Failed> {
    match id {
        0 => Ok(desk.run()),
        _ => Err(Failed::Card(desk.run())),
    }
}

#[idempotent(key = id, ttl = "1h", errors = "release", skip(desk), engine = desk.engine)]
async fn releases_errors(desk: &Desk, id: u8) -> Result<u32, Failed> {
    let _ = id;
    match desk.run() {
        1 => Err(Failed::Card(1)),
        run => Ok(run),
    }
}

#[tokio::test]
async fn a_stored_error_is_given_back() {
    let desk = Desk::new();
    assert_eq!(stores_errors(&desk, 1).await, Err(Failed::Card(1)));
    assert_eq!(stores_errors(&desk, 1).await, Err(Failed::Card(1)));
    assert_eq!(assert_runs_once!(desk, stores_errors(&desk, 0)), 2);
}

#[tokio::test]
async fn a_released_error_frees_the_key() {
    let desk = Desk::new();
    assert_eq!(releases_errors(&desk, 1).await, Err(Failed::Card(1)));
    assert_eq!(assert_runs_once!(desk, releases_errors(&desk, 1)), 2);
}

/// Enters the body, and leaves it when the other side has come twice.
#[derive(Clone)]
struct Gate(Arc<Barrier>);

impl Gate {
    fn new() -> Self {
        Self(Arc::new(Barrier::new(2)))
    }

    async fn pass(&self) {
        self.0.wait().await;
    }
}

#[idempotent(key = id, ttl = "1h", in_flight = "wait 5s", skip(desk, gate), engine = desk.engine)]
async fn waits(desk: Desk, gate: Gate, id: u8) -> Result<u32, Error> {
    let _ = id;
    let run = desk.run();
    gate.pass().await;
    gate.pass().await;
    Ok(run)
}

#[idempotent(key = id, ttl = "1h", skip(desk, gate), engine = desk.engine)]
async fn rejects(desk: Desk, gate: Gate, id: u8) -> Result<u32, Error> {
    let _ = id;
    let run = desk.run();
    gate.pass().await;
    gate.pass().await;
    Ok(run)
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_waits_for_the_running_attempt() {
    let (desk, gate) = (Desk::new(), Gate::new());
    let first = tokio::spawn(waits(desk.clone(), gate.clone(), 1));
    gate.pass().await;
    let mut second = std::pin::pin!(waits(desk.clone(), gate.clone(), 1));
    assert!(second.as_mut().now_or_never().is_none(), "it waits");
    gate.pass().await;
    assert_eq!(second.await.unwrap(), 1);
    assert_eq!(first.await.unwrap().unwrap(), 1);
    assert_eq!(desk.runs(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_waits_no_longer_than_it_is_told() {
    let (desk, gate) = (Desk::new(), Gate::new());
    let first = tokio::spawn(waits(desk.clone(), gate.clone(), 1));
    gate.pass().await;
    let began = tokio::time::Instant::now();
    let refused = waits(desk.clone(), gate.clone(), 1).await;
    assert!(matches!(refused, Err(Error::InFlight { .. })));
    assert_eq!(began.elapsed().as_secs(), 5);
    gate.pass().await;
    assert_eq!(first.await.unwrap().unwrap(), 1);
}

#[tokio::test]
async fn a_duplicate_is_refused_unless_it_may_wait() {
    let (desk, gate) = (Desk::new(), Gate::new());
    let first = tokio::spawn(rejects(desk.clone(), gate.clone(), 1));
    gate.pass().await;
    let refused = rejects(desk.clone(), gate.clone(), 1).await;
    assert!(matches!(refused, Err(Error::InFlight { .. })));
    gate.pass().await;
    assert_eq!(first.await.unwrap().unwrap(), 1);
    assert_eq!(desk.runs(), 1);
}

#[idempotent(key = id, ttl = "1h", skip(desk), engine = desk.engine)]
async fn panics_once(desk: &Desk, id: u8) -> Result<(u32, u32), Error> {
    assert_eq!(id, 1);
    let run = desk.run();
    tokio::task::yield_now().await;
    assert!(run > 1, "the first run panics");
    Ok((run, idem::attempt().number()))
}

#[tokio::test]
async fn a_panic_is_resumed_and_the_next_call_is_the_second_attempt() {
    let desk = Desk::new();
    let panic = std::panic::AssertUnwindSafe(panics_once(&desk, 1))
        .catch_unwind()
        .await
        .unwrap_err();
    let message = panic.downcast_ref::<String>().map(String::as_str);
    let message = message.or_else(|| panic.downcast_ref::<&str>().copied());
    assert_eq!(message, Some("the first run panics"));
    assert_eq!(assert_runs_once!(desk, panics_once(&desk, 1)), (2, 2));
}

#[idempotent(key = id, ttl = "1h", on_crash = "refuse", skip(desk), engine = desk.engine)]
async fn at_most_once(desk: &Desk, id: u8) -> Result<u32, Error> {
    assert_ne!(id, 0, "on purpose");
    Ok(desk.run())
}

#[tokio::test]
async fn after_a_crash_an_operation_can_refuse_to_run_again() {
    let desk = Desk::new();
    let crashed = std::panic::AssertUnwindSafe(at_most_once(&desk, 0)).catch_unwind();
    assert!(crashed.await.is_err());
    assert!(matches!(
        at_most_once(&desk, 0).await,
        Err(Error::OutcomeUnknown { attempt: 1 })
    ));
    assert_runs_once!(desk, at_most_once(&desk, 1));
}

#[idempotent(key = id, ttl = "1h", in_flight = "wait", skip(desk, hangs), engine = desk.engine)]
async fn hangs(desk: &Desk, id: u8, hangs: bool) -> Result<(u32, u32), Error> {
    let _ = id;
    let run = desk.run();
    if hangs {
        std::future::pending::<()>().await;
    }
    Ok((run, idem::attempt().number()))
}

#[tokio::test]
async fn a_future_that_is_dropped_in_its_body_abandons_the_attempt() {
    let desk = Desk::new();
    let mut call = Box::pin(hangs(&desk, 1, true));
    while desk.runs() == 0 {
        assert!(call.as_mut().now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    drop(call);
    assert_eq!(hangs(&desk, 1, false).await.unwrap(), (2, 2));
}

#[idempotent(key = id, ttl = "1h", skip(desk), engine = desk.engine)]
async fn releases_itself(desk: &Desk, id: u8) -> Result<u32, Error> {
    let _ = id;
    let run = desk.run();
    if run == 1 {
        idem::attempt().release();
    }
    Ok(run)
}

#[tokio::test]
async fn a_body_can_say_that_nothing_happened() {
    let desk = Desk::new();
    assert_eq!(releases_itself(&desk, 1).await.unwrap(), 1);
    assert_eq!(assert_runs_once!(desk, releases_itself(&desk, 1)), 2);
}

#[idempotent(key = id, ttl = "1h")]
async fn without_engine(id: u8) -> Result<(), Error> {
    panic!("ran {id} without an engine")
}

#[tokio::test]
async fn without_any_engine_the_body_does_not_run() {
    assert!(matches!(without_engine(1).await, Err(Error::NoEngine)));
}

#[idempotent(key = id, ttl = "1h", skip(desks), engine = desks[usize::from(eu)].engine)]
async fn chosen(desks: &[Desk; 2], id: u8, eu: bool) -> Result<u32, Error> {
    let _ = id;
    Ok(desks[usize::from(eu)].run())
}

#[tokio::test]
async fn the_engine_may_be_any_expression_over_the_arguments() {
    let desks = [Desk::new(), Desk::new()];
    assert_runs_once!(desks[0], chosen(&desks, 1, false));
    assert_runs_once!(desks[1], chosen(&desks, 1, true));
}
