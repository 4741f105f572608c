//! Under and over other attributes: `#[tracing::instrument]`, lints, `#[must_use]`, `#[cfg]`.

use std::sync::{Mutex, Once};

use async_trait::async_trait;
use idem::{Error, idempotent};
use tracing::instrument;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::{Desk, assert_runs_once};

static SPANS: Mutex<Vec<&str>> = Mutex::new(Vec::new());

/// How often a span of this name was opened. Each name belongs to one test.
fn spans_named(name: &str) -> usize {
    let names = SPANS.lock().unwrap();
    names.iter().filter(|noted| **noted == name).count()
}

/// Notes the names of all spans, for the whole process: a subscriber of one thread would race
/// with those of other tests for the cached interest of the call sites.
struct Notes;

impl Notes {
    fn start() {
        static STARTED: Once = Once::new();
        STARTED.call_once(|| tracing::subscriber::set_global_default(Self).unwrap());
    }
}

impl Subscriber for Notes {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span()
    }
    fn new_span(&self, span: &Attributes<'_>) -> Id {
        SPANS.lock().unwrap().push(span.metadata().name());
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[idempotent(key = id, ttl = "1h", skip(desk), engine = desk.engine)]
#[instrument(skip(desk))]
async fn above_instrument(desk: &Desk, id: &str) -> Result<u32, Error> {
    Ok(desk.run())
}

#[instrument(skip(desk), err)]
#[idempotent(key = id, ttl = "1h", skip(desk), engine = desk.engine)]
async fn below_instrument(desk: &Desk, id: &str) -> Result<u32, Error> {
    Ok(desk.run())
}

#[async_trait]
trait Boxed {
    async fn above(&self, id: &str, pair: (u8, u8)) -> Result<u32, Error>;
    async fn below(&self, id: &str, pair: (u8, u8)) -> Result<u32, Error>;
}

#[async_trait]
impl Boxed for Desk {
    #[idempotent(key = (id, first), ttl = "1h", name = "attributes.above", skip(second), engine = self.engine)]
    #[instrument(skip(self))]
    async fn above(&self, id: &str, (first, second): (u8, u8)) -> Result<u32, Error> {
        Ok(self.run() + u32::from(first + second))
    }

    #[instrument(skip(self))]
    #[idempotent(key = (id, first), ttl = "1h", name = "attributes.below", skip(second), engine = self.engine)]
    async fn below(&self, id: &str, (first, second): (u8, u8)) -> Result<u32, Error> {
        Ok(self.run() + u32::from(first + second))
    }
}

#[tokio::test]
async fn under_instrument_only_the_run_has_a_span() {
    Notes::start();
    let desk = Desk::new();
    assert_runs_once!(desk, below_instrument(&desk, "k"));
    // `#[instrument]` is expanded first, so its span is inside of the body.
    assert_eq!(spans_named("below_instrument"), 1);
}

#[tokio::test]
async fn over_instrument_every_call_has_a_span() {
    Notes::start();
    let desk = Desk::new();
    assert_runs_once!(desk, above_instrument(&desk, "k"));
    assert_eq!(spans_named("above_instrument"), 2);
}

#[tokio::test]
async fn over_and_under_instrument_an_async_trait_method_runs_once() {
    Notes::start();
    let desk = Desk::new();
    assert_eq!(assert_runs_once!(desk, desk.above("k", (1, 2))), 4);
    assert_eq!(assert_runs_once!(desk, desk.below("k", (1, 2))), 5);
    // Skipped by the name that the pattern binds.
    assert_eq!(desk.above("k", (1, 9)).await.unwrap(), 4);
    assert_eq!(desk.below("k", (1, 9)).await.unwrap(), 5);
    assert_eq!(spans_named("below"), 1);
    assert_eq!(spans_named("above"), 3);
}

/// Documented.
#[must_use = "a receipt"]
#[allow(clippy::unused_async)]
#[idempotent(key = id, ttl = "1h", skip(desk), engine = desk.engine)]
#[inline]
#[allow(clippy::needless_pass_by_value)]
async fn decorated(
    desk: &Desk,
    #[cfg(panic = "unwind")] id: u8,
    #[allow(unused_variables)] spare: u8,
) -> Result<u32, Error> {
    assert_eq!(id, 1);
    Ok(desk.run())
}

#[deny(unused_variables)]
#[idempotent(key = (id, kind), ttl = "1h", skip(desk, absent), engine = desk.engine)]
async fn conditional(
    desk: &Desk,
    #[cfg(panic = "unwind")] id: u8,
    #[cfg(not(panic = "unwind"))] id: Missing,
    #[cfg(any())] absent: Missing,
    #[cfg(any())]
    #[allow(unused_variables)]
    Missing { kind, .. }: Missing,
    #[cfg(panic = "unwind")] kind: &str,
    #[cfg_attr(all(), allow(unused_variables))] spare: u8,
) -> Result<u32, Error> {
    assert!(id == 1 && kind == "kind");
    Ok(desk.run())
}

#[async_trait]
trait Conditional {
    async fn conditional(&self, #[cfg(any())] absent: Missing, id: u8) -> Result<u32, Error>;
}

#[async_trait]
impl Conditional for Desk {
    #[idempotent(key = id, ttl = "1h", name = "attributes.conditional", engine = self.engine)]
    async fn conditional(&self, #[cfg(any())] absent: Missing, id: u8) -> Result<u32, Error> {
        assert_eq!(id, 1);
        Ok(self.run())
    }
}

#[tokio::test]
async fn an_argument_that_is_not_compiled_is_none() {
    let desk = Desk::new();
    assert_runs_once!(desk, conditional(&desk, 1, "kind", 2));
    assert_runs_once!(desk, Conditional::conditional(&desk, 1));
    let other = conditional(&desk, 1, "kind", 3).await;
    assert!(matches!(other, Err(Error::Mismatch)), "it counts");
}

#[tokio::test]
async fn other_attributes_of_the_function_and_its_arguments_stay() {
    let desk = Desk::new();
    assert_runs_once!(desk, decorated(&desk, 1, 2));
}
