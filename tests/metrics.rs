//! Every decision is counted.

use std::collections::BTreeMap;
use std::sync::Arc;

use idem::conformance::faults::{Fault, FaultyStore, Method};
use idem::stores::memory::MemoryStore;
use idem::{Engine, Error, Fingerprint, OnCrash};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};

fn in_a_runtime(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(test);
}

#[test]
fn every_decision_is_counted_under_its_name() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        in_a_runtime(async {
            let store = FaultyStore::new(Arc::new(MemoryStore::new()));
            let operation = Engine::new(store.clone()).operation("op");
            let (request, other) = (Fingerprint::of("a").unwrap(), Fingerprint::of("b").unwrap());
            let run = |key: Option<&'static str>, request, text: &'static str| {
                let operation = operation.clone();
                async move {
                    let body = async { Ok::<_, Error>(text.to_owned()) };
                    let _ = operation.run(&key, request, body).await;
                }
            };
            run(Some("k"), request, "value").await;
            run(Some("k"), request, "value").await;
            run(Some("k"), other, "value").await;
            run(None, request, "value").await;
            run(Some(""), request, "value").await;
            store.fail(Method::Claim, 2, Fault::Unavailable);
            run(Some("l"), request, "value").await;
            store.fail(Method::Complete, 2, Fault::Unavailable);
            run(Some("m"), request, "value").await;
            run(Some("m"), request, "value").await;
            let crashing = operation.clone().on_crash(OnCrash::Refuse);
            let panicking = tokio::spawn(async move {
                let body = async { panic!("half-way") };
                crashing
                    .run::<_, _, Result<u32, Error>>("n", request, body)
                    .await
            });
            assert!(panicking.await.unwrap_err().is_panic());
            let unknown = operation.clone().on_crash(OnCrash::Refuse);
            let body = async { Ok::<u32, Error>(1) };
            assert!(unknown.run("n", request, body).await.is_err());
            run(Some("n"), request, "value").await;
            store.called(Method::Complete, 5).await;
        });
    });
    let mut counts = BTreeMap::new();
    let mut histograms = Vec::new();
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let (name, labels) = key.key().clone().into_parts();
        let decision = labels
            .iter()
            .find(|label| label.key() == "decision")
            .map_or("", |label| label.value());
        match value {
            DebugValue::Counter(count) => {
                assert!(
                    labels
                        .iter()
                        .any(|label| (label.key(), label.value()) == ("operation", "op"))
                );
                counts.insert(format!("{} {decision}", name.as_str()), count);
            }
            _ => histograms.push(name.as_str().to_owned()),
        }
    }
    let expected = [
        ("idem_completion_retries_total ", 2),
        ("idem_requests_total executed", 4),
        ("idem_requests_total in_flight", 1),
        ("idem_requests_total key_invalid", 1),
        ("idem_requests_total key_missing", 1),
        ("idem_requests_total mismatch", 1),
        ("idem_requests_total outcome_unknown", 1),
        ("idem_requests_total replayed", 1),
        ("idem_requests_total store_unavailable", 1),
        ("idem_takeovers_total ", 1),
    ];
    let expected: BTreeMap<_, _> = expected
        .map(|(name, count)| (name.to_owned(), count))
        .into();
    assert_eq!(counts, expected);
    for name in [
        "idem_store_call_seconds",
        "idem_body_seconds",
        "idem_record_bytes",
    ] {
        assert!(histograms.iter().any(|found| found == name), "{name}");
    }
}

#[test]
fn a_released_attempt_has_no_outcome_and_its_steps_are_counted() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        in_a_runtime(async {
            let operation = Engine::new(MemoryStore::new()).operation("op");
            for _ in 0..2 {
                let body = async {
                    idem::step("hold", async { Ok::<_, Error>(1) }).await?;
                    idem::attempt().release();
                    Ok::<_, Error>(2)
                };
                let request = Fingerprint::of("a").unwrap();
                assert_eq!(operation.run("k", request, body).await.unwrap(), 2);
            }
        });
    });
    let mut steps = BTreeMap::new();
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let (name, labels) = key.key().clone().into_parts();
        assert_ne!(name.as_str(), "idem_record_bytes");
        if let (DebugValue::Counter(count), "idem_steps_total") = (value, name.as_str()) {
            let decision = labels.iter().find(|label| label.key() == "decision");
            steps.insert(decision.unwrap().value().to_owned(), count);
        }
    }
    let expected = [("executed".to_owned(), 1), ("given_back".to_owned(), 1)];
    assert_eq!(steps, BTreeMap::from(expected));
}
