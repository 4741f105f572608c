//! Destructured arguments, and names that look like generated ones.

use idem::{Error, idempotent};
use serde::{Deserialize, Serialize};

use crate::{Desk, assert_runs_once};

#[idempotent(key = (tenant, id), ttl = "1h", skip(desk), engine = desk.engine)]
async fn tuple(
    desk: &Desk,
    (tenant, id): (String, u64),
    cents: u32,
) -> Result<(String, u64, u32), Error> {
    desk.run();
    Ok((tenant, id, cents))
}

#[tokio::test]
async fn a_tuple_is_taken_apart_and_its_names_make_the_key() {
    let desk = Desk::new();
    let call = |tenant: &str, cents| tuple(&desk, (tenant.to_owned(), 7), cents);
    let once = assert_runs_once!(desk, call("a", 1));
    assert_eq!(once, ("a".to_owned(), 7, 1));
    assert!(matches!(call("a", 2).await, Err(Error::Mismatch)));
    call("b", 2).await.unwrap();
    assert_eq!(desk.runs(), 2);
}

#[derive(Clone, Serialize, Deserialize, PartialEq, Debug)]
struct Order {
    id: String,
    lines: (u32, u32),
    note: Option<String>,
}

fn order(id: &str) -> Order {
    Order {
        id: id.to_owned(),
        lines: (1, 2),
        note: None,
    }
}

#[idempotent(key = order_id, ttl = "1h", skip(desk), engine = desk.engine)]
async fn nested(
    desk: &Desk,
    Order {
        id: order_id,
        lines: (mut first, second),
        mut note,
    }: Order,
) -> Result<(String, u32, Option<String>), Error> {
    desk.run();
    first += second;
    note.get_or_insert_default().push('!');
    Ok((order_id, first, note))
}

#[tokio::test]
async fn a_struct_is_taken_apart_to_any_depth_with_mutable_names() {
    let desk = Desk::new();
    let once = assert_runs_once!(desk, nested(&desk, order("o")));
    assert_eq!(once, ("o".to_owned(), 3, Some("!".to_owned())));
    let other = Order {
        lines: (1, 3),
        ..order("o")
    };
    assert!(matches!(nested(&desk, other).await, Err(Error::Mismatch)));
}

struct Opaque;

#[idempotent(key = id, ttl = "1h", skip(desk), engine = desk.engine)]
async fn wildcards(
    desk: &Desk,
    _: Opaque,
    Order { id, .. }: Order,
    (_, kept): (Opaque, u8),
) -> Result<(String, u8), Error> {
    desk.run();
    Ok((id, kept))
}

#[tokio::test]
async fn what_no_name_binds_is_no_part_of_the_request() {
    let desk = Desk::new();
    let once = assert_runs_once!(desk, wildcards(&desk, Opaque, order("o"), (Opaque, 1)));
    assert_eq!(once, ("o".to_owned(), 1));
    let changed = Order {
        note: Some("other".to_owned()),
        ..order("o")
    };
    let same = wildcards(&desk, Opaque, changed, (Opaque, 1)).await;
    assert_eq!(same.unwrap(), once);
    let other = wildcards(&desk, Opaque, order("o"), (Opaque, 2)).await;
    assert!(matches!(other, Err(Error::Mismatch)));
}

#[allow(clippy::toplevel_ref_arg, reason = "such a pattern is what is tested")]
#[idempotent(key = whole.id, ttl = "1h", skip(desk, lines), engine = desk.engine)]
async fn bound_and_referenced(
    desk: &Desk,
    ref whole: Order,
    [first, rest @ ..]: [u8; 3],
    &(lines, _): &(u8, u8),
) -> Result<(Order, u8, usize, u8), Error> {
    desk.run();
    Ok((whole.clone(), first, rest.len(), lines))
}

#[tokio::test]
async fn references_slices_and_bindings_are_patterns_too() {
    let desk = Desk::new();
    let call = |lines: u8| async move {
        let desk = Desk::new();
        let pair = (lines, 0);
        bound_and_referenced(&desk, order("o"), [1, 2, 3], &pair).await
    };
    assert_eq!(call(4).await.unwrap(), (order("o"), 1, 2, 4));
    assert_runs_once!(
        desk,
        bound_and_referenced(&desk, order("o"), [1, 2, 3], &(9, 9))
    );
}

#[idempotent(key = r#type, ttl = "1h", skip(r#in, desk), engine = desk.engine)]
async fn r#move(desk: &Desk, r#type: &str, r#in: Opaque, r#ref: u8) -> Result<u8, Error> {
    let Opaque = r#in;
    desk.run();
    Ok(r#ref + u8::try_from(r#type.len()).unwrap_or_default())
}

#[tokio::test]
async fn raw_identifiers_stay_raw() {
    let desk = Desk::new();
    assert_eq!(assert_runs_once!(desk, r#move(&desk, "k", Opaque, 1)), 2);
    assert!(matches!(
        r#move(&desk, "k", Opaque, 2).await,
        Err(Error::Mismatch)
    ));
}

/// Each of these is a name that generated code is tempted to use.
#[idempotent(key = key, ttl = "1h", skip(engine), engine = engine.engine)]
#[allow(clippy::too_many_arguments)]
async fn tempting(
    engine: &Desk,
    key: &str,
    e: u8,
    x: u8,
    result: u8,
    call: u8,
    parts: u8,
    value: u8,
    body: u8,
    operation: u8,
    fingerprint: u8,
    scope: u8,
    __idem_call: u8,
    __idem_returned: u8,
) -> Result<u32, Error> {
    assert_eq!(key, "k");
    engine.run();
    let sum = [e, x, result, call, parts, value, body, operation];
    let more = [fingerprint, scope, __idem_call, __idem_returned];
    Ok(sum.into_iter().chain(more).map(u32::from).sum())
}

#[tokio::test]
async fn no_name_of_the_users_is_captured() {
    let desk = Desk::new();
    let once = assert_runs_once!(
        desk,
        tempting(&desk, "k", 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1)
    );
    assert_eq!(once, 12);
    // Each of them counts: change the last.
    let other = tempting(&desk, "k", 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2).await;
    assert!(matches!(other, Err(Error::Mismatch)));
}

mod shadowed {
    //! A module where the prelude's names mean something else.
    #![allow(
        dead_code,
        non_upper_case_globals,
        non_camel_case_types,
        non_snake_case
    )]

    use idem::Error;

    use crate::Desk;

    const Ok: u8 = 1;
    const Err: u8 = 2;
    const None: u8 = 3;
    const Some: u8 = 4;
    struct Result;
    struct Option;
    struct Box;
    struct Pin;
    struct Duration;
    struct Clone;
    mod core {}
    mod std {}
    const e: u8 = 5;
    const parts: u8 = 6;

    #[::idem::idempotent(key = id, ttl = "1h", scope = "s", lease = "10s", in_flight = "wait 1s", skip(desk), engine = desk.engine)]
    pub(crate) async fn shadowing(desk: &Desk, id: u8) -> ::core::result::Result<u32, Error> {
        let _ = id;
        ::core::result::Result::Ok(desk.run())
    }
}

#[tokio::test]
async fn shadowed_prelude_names_do_not_matter() {
    let desk = Desk::new();
    assert_runs_once!(desk, shadowed::shadowing(&desk, 1));
}
