//! What stands in the table: items of the first version, items that nobody can read, items at the limit, and
//! tables without an index.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use bytes::Bytes;
use idem::store::{Change, Claimed, Forgotten, Lease, Listing, RecordState, Store, Token};
use idem::stores::dynamodb::{MAX_OUTCOME_BYTES, TableOptions};
use idem::{EngineBuilder, Error, Fingerprint, Phase, StoreError};
use idem_tests::{DynamoDb, Emulator};

use crate::clock::claim_of;

type Item = HashMap<String, AttributeValue>;

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

fn n(number: i64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

fn s(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

fn b(bytes: impl Into<Vec<u8>>) -> AttributeValue {
    AttributeValue::B(Blob::new(bytes))
}

fn item(parts: &[(&str, AttributeValue)]) -> Item {
    parts
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect()
}

async fn put(server: &DynamoDb, item: Item) {
    let put = server.client().put_item().table_name(server.table());
    put.set_item(Some(item)).send().await.unwrap();
}

/// What the first version has written, attribute by attribute.
fn version_1(number: u8, state: &str, rest: &[(&str, AttributeValue)]) -> Item {
    let fingerprint = Fingerprint::of("request").unwrap().to_bytes();
    let mut all = item(&[
        ("id", b([number; 32])),
        ("v", n(1)),
        ("s", s(state)),
        ("f", b(fingerprint.as_slice())),
        ("n", n(2)),
        ("t", b([9; 16])),
        ("expires", n(now() + 3600)),
        ("c", n(1_795_971_046_123)),
        ("o", s("charges.create")),
    ]);
    all.extend(item(rest));
    all
}

#[tokio::test]
async fn items_of_the_first_version_are_read() {
    for emulator in Emulator::installed() {
        let server = DynamoDb::start(emulator).await;
        let store = server.store().await;
        let unfinished = [("k", n(3600)), ("unfinished", b([0; 4]))];
        let steps = AttributeValue::L(vec![b("one"), b("two")]);
        let running = [&unfinished[..], &[("l", n(now() + 600)), ("z", n(0))]].concat();
        put(&server, version_1(1, "r", &running)).await;
        let crashed = [
            &unfinished[..],
            &[("l", n(now() - 9)), ("z", n(6)), ("p", steps.clone())],
        ];
        put(&server, version_1(2, "r", &crashed.concat())).await;
        let suspended = [&unfinished[..], &[("z", n(6)), ("p", steps)]].concat();
        put(&server, version_1(3, "s", &suspended)).await;
        let abandoned = [&unfinished[..], &[("z", n(0))]].concat();
        put(&server, version_1(4, "a", &abandoned)).await;
        let finished = [("z", n(4)), ("b", b("done"))];
        put(&server, version_1(5, "f", &finished)).await;
        let mut expired = version_1(6, "f", &finished);
        expired.insert("expires".to_owned(), n(now() - 5));
        put(&server, expired).await;

        let claim = |number: u8| claim_of(number);
        let answer = store.claim(&claim(1)).await.unwrap();
        assert!(matches!(answer, Claimed::InFlight { .. }), "{answer:?}");
        let mut own = claim(1);
        own.token = Token::from_bytes([9; 16]);
        assert_eq!(store.claim(&own).await.unwrap(), Claimed::acquired(2));
        let steps = Bytes::from_static(b"onetwo");
        for number in [2, 3] {
            let taken = Claimed::Acquired {
                attempt: 3,
                steps: steps.clone(),
            };
            assert_eq!(store.claim(&claim(number)).await.unwrap(), taken);
        }
        assert_eq!(store.claim(&claim(4)).await.unwrap(), Claimed::acquired(3));
        let seen = store.inspect(&claim(5).id).await.unwrap().unwrap();
        assert_eq!(seen.operation.as_str(), "charges.create");
        let at = UNIX_EPOCH + Duration::from_millis(1_795_971_046_123);
        assert_eq!(seen.claimed_at, Some(at));
        assert_eq!(seen.attempt, 2);
        let outcome = Bytes::from_static(b"done");
        assert_eq!(seen.phase, Phase::Finished { outcome });
        // Deletion lags; reading does not.
        assert_eq!(store.inspect(&claim(6).id).await.unwrap(), None);
        assert_eq!(store.claim(&claim(6)).await.unwrap(), Claimed::acquired(1));
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_an_error_and_stays_until_it_is_forgotten() {
    let Some(emulator) = Emulator::best() else {
        return;
    };
    let server = DynamoDb::start(emulator).await;
    let store = server.store().await;
    let done = [("z", n(4)), ("b", b("done"))];
    let but = |number: u8, name: &str, value: Option<AttributeValue>| {
        let mut item = version_1(number, "f", &done);
        item.remove(name);
        item.extend(value.map(|value| (name.to_owned(), value)));
        item
    };
    let items = [
        but(1, "v", Some(n(2))),
        but(2, "v", None),
        but(3, "s", Some(s("x"))),
        but(4, "z", Some(n(5))),
        but(5, "f", Some(b("short"))),
        but(6, "n", Some(n(-1))),
        but(7, "b", None),
        item(&[("id", b([8; 32]))]),
    ];
    for (number, item) in (1..).zip(items) {
        put(&server, item).await;
        let claim = claim_of(number);
        let error = store.claim(&claim).await.unwrap_err();
        assert!(
            matches!(error, StoreError::Unreadable { .. }),
            "{number}: {error:?}"
        );
        let error = store.inspect(&claim.id).await.unwrap_err();
        assert!(
            matches!(error, StoreError::Unreadable { .. }),
            "{number}: {error:?}"
        );
        assert_eq!(store.forget(&claim.id).await.unwrap(), Forgotten::Removed);
        assert_eq!(store.claim(&claim).await.unwrap(), Claimed::acquired(1));
    }
}

#[tokio::test]
async fn the_longest_outcome_and_the_most_steps_fit_and_one_byte_more_leaves_a_tombstone() {
    let Some(Emulator::Local) = Emulator::best() else {
        return;
    };
    let server = DynamoDb::start(Emulator::Local).await;
    let store = server.store().await;
    assert_eq!(store.max_outcome_bytes(), Some(MAX_OUTCOME_BYTES));
    let name = idem::store::OperationName::new(&"n".repeat(80));
    let claim = claim_of(1).operation(name);
    store.claim(&claim).await.unwrap();
    let lease = Lease::of(&claim, 1);
    // In a thousand checkpoints and one.
    let part = Bytes::from(vec![1; 300]);
    for number in 0..1000 {
        let change = store.checkpoint(&lease, number * 300, part.clone()).await;
        assert_eq!(change.unwrap(), Change::Applied);
    }
    let rest = Bytes::from(vec![2; MAX_OUTCOME_BYTES - 300_000]);
    let change = store.checkpoint(&lease, 300_000, rest).await;
    assert_eq!(change.unwrap(), Change::Applied);
    let outcome = Bytes::from(vec![3; MAX_OUTCOME_BYTES]);
    let change = store.complete(&lease, outcome.clone()).await;
    assert_eq!(change.unwrap(), Change::Applied);
    let seen = store.inspect(&claim.id).await.unwrap().unwrap();
    assert_eq!(seen.phase, Phase::Finished { outcome });

    // Through an engine, whose own bound is higher.
    let engine = EngineBuilder::new(Arc::new(store)).build();
    assert_eq!(engine.max_outcome_bytes(), MAX_OUTCOME_BYTES);
    let operation = engine.operation("op");
    let runs = AtomicUsize::new(0);
    let call = async |length: usize| {
        let body = async {
            runs.fetch_add(1, Ordering::SeqCst);
            Ok::<_, Error>("x".repeat(length))
        };
        let key = length.to_string();
        operation
            .run(&key, Fingerprint::of(&key).unwrap(), body)
            .await
    };
    let small = MAX_OUTCOME_BYTES - 1000;
    for _ in 0..2 {
        assert_eq!(call(small).await.unwrap().len(), small);
    }
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    let large = MAX_OUTCOME_BYTES + 1;
    assert_eq!(call(large).await.unwrap().len(), large);
    let again = call(large).await;
    assert!(matches!(again, Err(Error::NotReplayable(_))), "{again:?}");
    assert_eq!(runs.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_table_without_an_index_is_listed_by_reading_all_of_it() {
    for emulator in Emulator::installed() {
        let server = DynamoDb::start_with(emulator, TableOptions::new()).await;
        let store = server.store().await;
        for number in 1..=5 {
            let claim = claim_of(number);
            store.claim(&claim).await.unwrap();
            if number > 3 {
                let _ = store
                    .complete(&Lease::of(&claim, 1), Bytes::new())
                    .await
                    .unwrap();
            }
        }
        for (state, count) in [(RecordState::Running, 3), (RecordState::Finished, 2)] {
            let mut listing = Listing::new(2).in_state(state);
            let mut ids = Vec::new();
            loop {
                let page = store.list(&listing).await.unwrap();
                ids.extend(page.records.iter().map(|record| record.id));
                match page.next {
                    Some(next) => listing = listing.after(next),
                    None => break,
                }
            }
            ids.sort();
            ids.dedup();
            assert_eq!(ids.len(), count, "{state}");
        }
        let strange = Listing::new(2).after(idem::store::Cursor::new("elsewhere"));
        let error = store.list(&strange).await.unwrap_err();
        assert!(matches!(error, StoreError::Rejected { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_table_that_is_not_there_or_has_another_key_is_an_error_at_the_start() {
    let Some(emulator) = Emulator::best() else {
        return;
    };
    let server = DynamoDb::start(emulator).await;
    let client = server.client();
    let absent = idem::stores::dynamodb::DynamoDbStore::with_client(&client, "nowhere").unwrap();
    let error = absent.connect().await.unwrap_err();
    assert!(
        format!("{error:?}").contains("create_table makes one"),
        "{error:?}"
    );

    use aws_sdk_dynamodb::types::{
        AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
    };
    let key = KeySchemaElement::builder()
        .attribute_name("pk")
        .key_type(KeyType::Hash);
    let attribute = AttributeDefinition::builder()
        .attribute_name("pk")
        .attribute_type(ScalarAttributeType::S);
    let other = format!("{}-of-another", server.table());
    client
        .create_table()
        .table_name(&other)
        .billing_mode(BillingMode::PayPerRequest)
        .key_schema(key.build().unwrap())
        .attribute_definitions(attribute.build().unwrap())
        .send()
        .await
        .unwrap();
    let other = idem::stores::dynamodb::DynamoDbStore::with_client(&client, &other).unwrap();
    let error = other
        .timeout(Duration::from_secs(60))
        .connect()
        .await
        .unwrap_err();
    assert!(
        format!("{error:?}").contains("ValidationException"),
        "{error:?}"
    );
}

#[tokio::test]
async fn operators_are_told_the_time_the_rights_and_the_ttl_and_may_revoke() {
    let Some(Emulator::Local) = Emulator::best() else {
        return;
    };
    let server = DynamoDb::start(Emulator::Local).await;
    let store = server.builder().attach().await.unwrap();
    let maintenance = store.maintenance().unwrap();
    let since = maintenance.time().await.unwrap().duration_since(UNIX_EPOCH);
    let off = i64::try_from(since.unwrap().as_secs()).unwrap() - now();
    assert!(off.abs() <= 5, "{off}");
    let findings = maintenance.examine().await.unwrap();
    let fine: Vec<_> = findings.iter().map(|it| (it.subject, &*it.found)).collect();
    let rights = "read, write, change and delete";
    assert_eq!(fine, [("rights", rights), ("TTL", "expires")]);
    let claim = claim_of(1);
    store.claim(&claim).await.unwrap();
    let other = maintenance.revoke(&claim.id, 2).await.unwrap();
    assert_eq!(other, Change::LeaseLost);
    let revoked = maintenance.revoke(&claim.id, 1).await.unwrap();
    assert_eq!(revoked, Change::Applied);
    let renewed = store.renew(&Lease::of(&claim, 1)).await.unwrap();
    assert_eq!(renewed, Change::LeaseLost);
    let next = store.claim(&claim.by_another()).await.unwrap();
    assert_eq!(next, Claimed::acquired(2));
}
