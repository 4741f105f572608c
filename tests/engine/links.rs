//! Which spans of duplicates are linked to the span of the attempt.

use std::sync::{Mutex, MutexGuard, Once};
use std::time::Duration;

use idem::conformance::faults::{Fault, Method};
use idem::{Engine, Error, InFlight, Operation};
use tokio::task::JoinHandle;
use tracing::span::Id;
use tracing::{Instrument, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

use crate::bench::{
    Answer, attempt_number, faulty, must_not_run, operation_of, other_request, request,
};
use crate::works::Works;

const TARGET: &str = "idem_tests::links";
const PATIENT: InFlight = InFlight::Wait(Duration::from_secs(60));

/// Which span follows from which, by their names.
static LINKS: Mutex<Vec<(&str, &str)>> = Mutex::new(Vec::new());

static CLOSED: Mutex<Vec<&str>> = Mutex::new(Vec::new());

/// Of the whole process: subscribers of one thread race with each other for the interest of call sites.
struct Links;

impl Links {
    fn start() {
        static STARTED: Once = Once::new();
        STARTED.call_once(|| {
            let registry = Registry::default().with(Self);
            tracing::subscriber::set_global_default(registry).unwrap();
        });
    }

    fn all() -> MutexGuard<'static, Vec<(&'static str, &'static str)>> {
        LINKS.lock().unwrap()
    }

    /// What follows from a span, in order.
    fn to(name: &str) -> Vec<&'static str> {
        let links = Self::all();
        let of_this = links.iter().filter(|(_, from)| *from == name);
        of_this.map(|(follows, _)| *follows).collect()
    }

    /// What a span follows from.
    fn from(name: &str) -> Vec<&'static str> {
        let links = Self::all();
        let of_this = links.iter().filter(|(follows, _)| *follows == name);
        of_this.map(|(_, from)| *from).collect()
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Links {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.target() == TARGET
    }

    fn on_follows_from(&self, span: &Id, follows: &Id, context: Context<'_, S>) {
        // A span that is closed is nobody's.
        let name = |id| context.span(id).unwrap().metadata().name();
        Self::all().push((name(span), name(follows)));
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let span = context.span(&id).unwrap();
        CLOSED.lock().unwrap().push(span.metadata().name());
    }
}

macro_rules! span {
    ($name:literal) => {
        tracing::info_span!(target: TARGET, $name)
    };
}

fn operations(count: usize) -> Vec<Operation> {
    Links::start();
    let store = faulty();
    let engines = (0..count).map(|_| Engine::new(store.clone()));
    engines.map(|engine| operation_of(&engine)).collect()
}

/// An attempt within a span, until it is let go.
async fn start(operation: &Operation, span: tracing::Span) -> (Works, JoinHandle<Answer>) {
    let (operation, works) = (operation.clone(), Works::default());
    let inside = works.clone();
    let body = async move {
        inside.stop_here().await;
        Ok(7)
    };
    let call = async move { operation.run("k", request(), body).await };
    let running = tokio::spawn(call.instrument(span));
    works.started().await;
    (works, running)
}

async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_duplicate_that_waits_is_linked_to_the_attempt_that_it_waited_for() {
    let operation = operations(1).remove(0).in_flight(PATIENT);
    let (works, first) = start(&operation, span!("waited_for")).await;
    let waiting = tokio::spawn({
        let operation = operation.clone();
        async move { must_not_run(&operation, "k", request()).await }.instrument(span!("waits"))
    });
    settle().await;
    works.let_go();
    for answer in [first, waiting] {
        assert_eq!(answer.await.unwrap().unwrap(), 7);
    }
    assert_eq!(Links::to("waited_for"), ["waits"]);
}

#[tokio::test]
async fn a_refused_duplicate_is_linked_and_another_request_is_not() {
    let operation = operations(1).remove(0);
    let (works, first) = start(&operation, span!("holds_the_key")).await;
    let refused = must_not_run(&operation, "k", request()).instrument(span!("is_refused"));
    assert!(matches!(refused.await, Err(Error::InFlight { .. })));
    let mismatch = must_not_run(&operation, "k", other_request()).instrument(span!("is_another"));
    assert!(matches!(mismatch.await, Err(Error::Mismatch)));
    works.let_go();
    assert_eq!(first.await.unwrap().unwrap(), 7);
    // Its span is over, and what the store says of it has none.
    let late = must_not_run(&operation, "k", request()).instrument(span!("comes_late"));
    assert_eq!(late.await.unwrap(), 7);
    assert_eq!(Links::to("holds_the_key"), ["is_refused"]);
}

#[tokio::test]
async fn within_one_span_nothing_is_linked() {
    let operation = operations(1).remove(0);
    let span = span!("one_span_of_two_calls");
    let (works, first) = start(&operation, span.clone()).await;
    let refused = must_not_run(&operation, "k", request()).instrument(span);
    assert!(matches!(refused.await, Err(Error::InFlight { .. })));
    works.let_go();
    assert_eq!(first.await.unwrap().unwrap(), 7);
    assert_eq!(Links::from("one_span_of_two_calls"), [""; 0]);
}

#[tokio::test]
async fn who_runs_after_a_crash_is_not_linked_to_it() {
    let operation = operations(1).remove(0).in_flight(PATIENT);
    let (_works, first) = start(&operation, span!("crashes")).await;
    let next = tokio::spawn({
        let operation = operation.clone();
        let body = async { Ok::<u32, Error>(8) };
        async move { operation.run("k", request(), body).await }.instrument(span!("runs_next"))
    });
    settle().await;
    first.abort();
    assert_eq!(next.await.unwrap().unwrap(), 8);
    assert_eq!(Links::from("runs_next"), [""; 0]);
    assert_eq!(Links::to("crashes"), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn the_span_of_another_process_is_not_known() {
    let operations = operations(2);
    let (works, first) = start(&operations[0], span!("in_another_process")).await;
    let elsewhere = operations[1].clone().in_flight(PATIENT);
    let waiting = tokio::spawn({
        let call = async move { must_not_run(&elsewhere, "k", request()).await };
        call.instrument(span!("waits_by_the_store"))
    });
    settle().await;
    works.let_go();
    assert_eq!(first.await.unwrap().unwrap(), 7);
    assert_eq!(waiting.await.unwrap().unwrap(), 7);
    assert_eq!(Links::from("waits_by_the_store"), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_span_is_not_kept_open_for_an_end_that_the_store_does_not_take() {
    Links::start();
    let store = faulty();
    let operation = operation_of(&Engine::new(store.clone()));
    store.fail_always(Method::Complete, Fault::Unavailable);
    let first = attempt_number(&operation, "k").instrument(span!("is_answered"));
    assert_eq!(first.await.unwrap(), 1);
    settle().await;
    let refused = must_not_run(&operation, "k", request()).instrument(span!("is_kept_out"));
    assert!(matches!(refused.await, Err(Error::InFlight { .. })));
    assert!(CLOSED.lock().unwrap().contains(&"is_answered"));
    assert_eq!(Links::from("is_kept_out"), [""; 0]);
}
