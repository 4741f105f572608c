//! What it costs: calls, bytes and write units, beside the item of AWS Lambda Powertools.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use bytes::Bytes;
use idem::store::{Lease, Store};
use idem::stores::dynamodb::TableOptions;
use idem::{EngineBuilder, Error, Fingerprint, InFlight, Operation};
use idem_tests::{DynamoDb, Emulator};
use tokio::sync::Notify;

use crate::clock::claim_of;
use crate::proxy::{Proxy, counts};

pub(crate) async fn run(operation: &Operation, key: &str) -> Result<u32, Error> {
    let fingerprint = Fingerprint::of(&key).unwrap();
    operation
        .run(key, fingerprint, async { Ok(idem::attempt().number()) })
        .await
}

#[tokio::test]
async fn a_first_call_is_two_calls_and_a_replay_one() {
    for emulator in Emulator::installed() {
        if emulator != Emulator::Local {
            continue;
        }
        let server = DynamoDb::start(emulator).await;
        let proxy = Proxy::to(&server);
        let engine = EngineBuilder::new(Arc::new(proxy.store().await)).build();
        let operation = engine.operation("op");
        proxy.passed();
        assert_eq!(run(&operation, "k").await.unwrap(), 1);
        let first = counts(&[("PutItem", 1), ("UpdateItem", 1)]);
        assert_eq!(proxy.counts(), first);
        assert_eq!(run(&operation, "k").await.unwrap(), 1);
        // The failed write carries the item.
        assert_eq!(proxy.counts(), counts(&[("PutItem", 1)]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_duplicates_in_one_process_are_two_calls_in_all() {
    let Some(emulator) = Emulator::best() else {
        return;
    };
    let server = DynamoDb::start(emulator).await;
    let proxy = Proxy::to(&server);
    let engine = EngineBuilder::new(Arc::new(proxy.store().await)).build();
    let operation = engine
        .operation("op")
        .in_flight(InFlight::Wait(Duration::from_secs(60)));
    proxy.passed();
    let (started, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let first = tokio::spawn({
        let (operation, started, go_on) = (operation.clone(), started.clone(), go_on.clone());
        async move {
            let body = async {
                started.notify_one();
                go_on.notified().await;
                Ok::<_, Error>(7)
            };
            operation
                .run("k", Fingerprint::of("k").unwrap(), body)
                .await
        }
    });
    started.notified().await;
    let others: Vec<_> = (0..1000)
        .map(|_| {
            let operation = operation.clone();
            tokio::spawn(async move {
                let body = async { Ok::<_, Error>(8) };
                operation
                    .run("k", Fingerprint::of("k").unwrap(), body)
                    .await
            })
        })
        .collect();
    go_on.notify_one();
    assert_eq!(first.await.unwrap().unwrap(), 7);
    for other in others {
        assert_eq!(other.await.unwrap().unwrap(), 7);
    }
    let calls = proxy.counts();
    assert_eq!(calls["UpdateItem"], 1);
    // Those that came after its end found it finished.
    assert_eq!(calls.len(), 2, "{calls:?}");
}

fn units(proxy: &Proxy) -> Vec<f64> {
    let passed = proxy.passed();
    passed.iter().filter_map(|it| it.units()).collect()
}

/// Bytes as DynamoDB counts them: names and values; a number is half its digits, and one.
fn size_of(item: &serde_json::Value) -> usize {
    let attributes = item.as_object().unwrap();
    let sizes = attributes.iter().map(|(name, value)| {
        let (kind, value) = value.as_object().unwrap().iter().next().unwrap();
        let text = value.as_str().unwrap_or_default();
        name.len()
            + match kind.as_str() {
                "N" => text.len().div_ceil(2) + 1,
                "B" => text.trim_end_matches('=').len() * 3 / 4,
                _ => text.len(),
            }
    });
    sizes.sum()
}

#[tokio::test]
async fn a_first_call_costs_what_powertools_costs_and_the_index_as_much_again() {
    let Some(Emulator::Local) = Emulator::best() else {
        return;
    };
    let server = DynamoDb::start_with(Emulator::Local, TableOptions::new()).await;
    let proxy = Proxy::to(&server);
    let store = proxy.store().await;
    let with_index = DynamoDb::start(Emulator::Local).await;
    let indexed_proxy = Proxy::to(&with_index);
    let indexed = indexed_proxy.store().await;
    proxy.passed();
    indexed_proxy.passed();

    let claim = claim_of(1).operation(idem::store::OperationName::new("charges.create"));
    let lease = Lease::of(&claim, 1);
    let outcome = Bytes::from(vec![b'x'; 350]);
    store.claim(&claim).await.unwrap();
    let claimed = proxy.passed();
    assert_eq!(claimed[0].units(), Some(1.0));
    let running = size_of(&claimed[0].request.body["Item"]);
    let _ = store.renew(&lease).await.unwrap();
    assert_eq!(units(&proxy), [1.0]);
    let _ = store.complete(&lease, outcome.clone()).await.unwrap();
    assert_eq!(units(&proxy), [1.0]);
    let client = server.client();
    let key = AttributeValue::B(aws_sdk_dynamodb::primitives::Blob::new([1; 32]));
    let item = client
        .get_item()
        .table_name(server.table())
        .key("id", key)
        .send();
    let item = item.await.unwrap().item.unwrap();
    let as_json = |value: &AttributeValue| match value {
        AttributeValue::N(text) => serde_json::json!({ "N": text }),
        AttributeValue::S(text) => serde_json::json!({ "S": text }),
        AttributeValue::B(bytes) => {
            serde_json::json!({ "S": "x".repeat(bytes.as_ref().len()) })
        }
        _ => panic!("{value:?}"),
    };
    let item: serde_json::Map<_, _> = item
        .iter()
        .map(|(name, value)| (name.clone(), as_json(value)))
        .collect();
    let finished = size_of(&item.into()) - outcome.len();

    // What Powertools for Python writes, for an answer of as many bytes.
    let powertools = serde_json::json!({
        "id": { "S": "payments-prod.app.charges.create#0123456789abcdef0123456789abcdef" },
        "expiration": { "N": "1795971046" },
        "in_progress_expiration": { "N": "1795971046123" },
        "status": { "S": "COMPLETED" },
        "validation": { "S": "0123456789abcdef0123456789abcdef" },
        "data": { "S": "" },
    });
    let theirs = size_of(&powertools);
    println!(
        "beside the outcome: running {running} B, finished {finished} B, Powertools {theirs} B"
    );
    assert!(running <= 170 && finished <= 150, "{running} {finished}");

    indexed.claim(&claim).await.unwrap();
    let _ = indexed.renew(&lease).await.unwrap();
    let _ = indexed.complete(&lease, outcome).await.unwrap();
    // The claim enters the index, and the end leaves it. A renewal does not touch it.
    assert_eq!(units(&indexed_proxy), [2.0, 1.0, 2.0]);
}

#[tokio::test]
async fn a_checkpoint_and_a_takeover_are_a_call_each() {
    let Some(emulator) = Emulator::best() else {
        return;
    };
    let server = DynamoDb::start(emulator).await;
    let proxy = Proxy::to(&server);
    let store = proxy.store().await;
    let claim = claim_of(1);
    store.claim(&claim).await.unwrap();
    proxy.passed();
    let lease = Lease::of(&claim, 1);
    let _ = store
        .checkpoint(&lease, 0, Bytes::from_static(b"a"))
        .await
        .unwrap();
    let _ = store
        .checkpoint(&lease, 1, Bytes::from_static(b"b"))
        .await
        .unwrap();
    assert_eq!(proxy.counts(), counts(&[("UpdateItem", 2)]));
    let _ = store.suspend(&claim.id, &claim.token).await.unwrap();
    assert_eq!(proxy.counts(), counts(&[("UpdateItem", 1)]));
    store.claim(&claim.by_another()).await.unwrap();
    assert_eq!(proxy.counts(), counts(&[("PutItem", 1), ("UpdateItem", 1)]));
}
