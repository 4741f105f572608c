//! What counts on a retry: `skip`, `fingerprint`, `scope`.

use std::collections::HashSet;

use idem::{Error, KeyError, idempotent};
use serde::{Serialize, Serializer};

use crate::{Desk, assert_runs_once};

#[derive(Clone, Serialize)]
struct Order {
    id: u32,
    cents: u32,
    trace: String,
}

fn order(id: u32, cents: u32, trace: &str) -> Order {
    Order {
        id,
        cents,
        trace: trace.to_owned(),
    }
}

#[idempotent(key = order.id, ttl = "1h", skip(desk), engine = desk.engine)]
async fn everything(desk: &Desk, order: Order, priority: bool) -> Result<u32, Error> {
    let _ = (order, priority);
    Ok(desk.run())
}

#[tokio::test]
async fn every_argument_counts_unless_something_else_is_said() {
    let desk = Desk::new();
    assert_runs_once!(desk, everything(&desk, order(1, 5, "a"), true));
    for (order, priority) in [
        (order(1, 6, "a"), true),
        (order(1, 5, "b"), true),
        (order(1, 5, "a"), false),
    ] {
        assert!(matches!(
            everything(&desk, order, priority).await,
            Err(Error::Mismatch)
        ));
    }
    assert_eq!(desk.runs(), 1);
}

#[idempotent(key = order.id, ttl = "1h", skip(desk, note), engine = desk.engine)]
async fn skipping(desk: &Desk, order: Order, note: &str) -> Result<String, Error> {
    let _ = order;
    Ok(format!("{note} {}", desk.run()))
}

#[tokio::test]
async fn a_skipped_argument_may_change() {
    let desk = Desk::new();
    let first = skipping(&desk, order(1, 5, "a"), "first").await.unwrap();
    let again = skipping(&desk, order(1, 5, "a"), "again").await.unwrap();
    assert_eq!((&*first, &*again), ("first 1", "first 1"));
}

#[idempotent(key = order.id, ttl = "1h", fingerprint(order.cents, account), engine = desk.engine)]
async fn selecting(desk: &Desk, order: Order, account: &str, at: u64) -> Result<u32, Error> {
    let _ = (order, account, at);
    Ok(desk.run())
}

#[tokio::test]
async fn with_fingerprint_only_what_it_names_counts() {
    let desk = Desk::new();
    assert_runs_once!(desk, selecting(&desk, order(1, 5, "a"), "x", 1));
    let same = selecting(&desk, order(1, 5, "other"), "x", 2).await;
    assert_eq!(same.unwrap(), 1);
    for (cents, account) in [(6, "x"), (5, "y")] {
        let other = selecting(&desk, order(1, cents, "a"), account, 1).await;
        assert!(matches!(other, Err(Error::Mismatch)));
    }
}

#[idempotent(key = id, scope = (tenant, shop), ttl = "1h", skip(desk), engine = desk.engine)]
async fn scoped(desk: &Desk, tenant: Option<&str>, shop: &str, id: u32) -> Result<u32, Error> {
    let _ = (tenant, shop, id);
    Ok(desk.run())
}

#[tokio::test]
async fn two_scopes_never_share_an_outcome() {
    let desk = Desk::new();
    assert_eq!(
        assert_runs_once!(desk, scoped(&desk, Some("a"), "bc", 1)),
        1
    );
    assert_eq!(
        assert_runs_once!(desk, scoped(&desk, Some("ab"), "c", 1)),
        2
    );
    assert_eq!(
        assert_runs_once!(desk, scoped(&desk, Some("b"), "bc", 1)),
        3
    );
}

#[idempotent(key = id, scope = tenant.parse::<u32>(), ttl = "1h", skip(desk), engine = desk.engine)]
async fn scope_that_can_fail(desk: &Desk, tenant: &str, id: u32) -> Result<u32, Error> {
    let _ = (tenant, id);
    Ok(desk.run())
}

#[tokio::test]
async fn a_scope_that_cannot_be_derived_is_an_error_and_nothing_runs() {
    let desk = Desk::new();
    assert!(matches!(
        scope_that_can_fail(&desk, "x", 1).await,
        Err(Error::Scope(KeyError::Rejected))
    ));
    assert_eq!(desk.runs(), 0);
    assert_runs_once!(desk, scope_that_can_fail(&desk, "7", 1));
}

struct Unserialisable;

impl Serialize for Unserialisable {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("on purpose"))
    }
}

#[idempotent(key = id, ttl = "1h", skip(desk), engine = desk.engine)]
async fn unserialisable(desk: &Desk, id: u32, value: Unserialisable) -> Result<u32, Error> {
    let _ = (id, value);
    Ok(desk.run())
}

#[tokio::test]
async fn an_argument_that_fails_to_serialise_is_an_error_and_nothing_runs() {
    let desk = Desk::new();
    assert!(matches!(
        unserialisable(&desk, 1, Unserialisable).await,
        Err(Error::Fingerprint(_))
    ));
    assert_eq!(desk.runs(), 0);
}

#[idempotent(key = id, ttl = "1h", fingerprint(sorted(&tags)), engine = desk.engine)]
async fn derived(desk: &Desk, id: u32, tags: HashSet<String>) -> Result<u32, Error> {
    let _ = (id, tags);
    Ok(desk.run())
}

fn sorted(tags: &HashSet<String>) -> Vec<&String> {
    let mut tags: Vec<_> = tags.iter().collect();
    tags.sort();
    tags
}

#[tokio::test]
async fn a_fingerprint_may_be_computed() {
    let desk = Desk::new();
    let tags = |tags: &[&str]| tags.iter().copied().map(str::to_owned).collect();
    assert_eq!(derived(&desk, 1, tags(&["a", "b", "c"])).await.unwrap(), 1);
    assert_eq!(derived(&desk, 1, tags(&["c", "b", "a"])).await.unwrap(), 1);
    let other = derived(&desk, 1, tags(&["a", "b"])).await;
    assert!(matches!(other, Err(Error::Mismatch)));
}
