//! Throttling, lost answers, late calls, and what errors of the service mean.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::Client;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use bytes::Bytes;
use idem::store::{Change, Claimed, Lease, Store};
use idem::stores::dynamodb::DynamoDbStore;
use idem::{ConnectError, EngineBuilder, Error, Fingerprint, OnCrash, Phase, StoreError};
use idem_tests::dynamodb::config_at;
use idem_tests::{DynamoDb, Emulator, Flavor, Redis};

use crate::clock::claim_of;
use crate::proxy::{Fate, Proxy, counts};

const THROTTLED: [&str; 3] = [
    "ProvisionedThroughputExceededException",
    "ThrottlingException",
    "RequestLimitExceeded",
];

async fn proxied() -> Option<(DynamoDb, Proxy)> {
    let server = DynamoDb::start(Emulator::best()?).await;
    let proxy = Proxy::to(&server);
    Some((server, proxy))
}

/// It bounds a hang, and says nothing of speed.
const LIMIT: Duration = Duration::from_secs(60);

/// A store whose calls are given up after a second. To open it takes calls, too: on a slow machine one
/// of them may be given up, and whoever opens it tries again.
async fn impatient(proxy: &Proxy) -> DynamoDbStore {
    let begun = Instant::now();
    loop {
        let builder = proxy.builder().timeout(Duration::from_secs(1));
        match builder.connect().await {
            Ok(store) => return store,
            Err(error) => assert!(begun.elapsed() < LIMIT, "{error:?}"),
        }
    }
}

#[tokio::test]
async fn a_throttled_call_is_sent_again_by_the_sdk() {
    let Some((_server, proxy)) = proxied().await else {
        return;
    };
    let store = proxy.store().await;
    for (number, code) in (1..).zip(THROTTLED) {
        let claim = claim_of(number);
        proxy.passed();
        proxy.once("PutItem", Fate::error(400, code));
        assert_eq!(store.claim(&claim).await.unwrap(), Claimed::acquired(1));
        assert_eq!(proxy.counts(), counts(&[("PutItem", 2)]));
        proxy.once("UpdateItem", Fate::error(400, code));
        let outcome = Bytes::from_static(b"done");
        let change = store.complete(&Lease::of(&claim, 1), outcome).await;
        assert_eq!(change.unwrap(), Change::Applied);
        assert_eq!(proxy.counts(), counts(&[("UpdateItem", 2)]));
    }
}

#[tokio::test]
async fn a_service_that_throttles_on_is_an_outage_within_the_timeout() {
    let Some((_server, proxy)) = proxied().await else {
        return;
    };
    let store = proxy.builder().timeout(LIMIT).connect().await.unwrap();
    for code in THROTTLED {
        proxy.rule(move |_| Fate::error(400, code));
        let begun = Instant::now();
        let error = store.claim(&claim_of(1)).await.unwrap_err();
        assert!(matches!(error, StoreError::NotReady { .. }), "{error:?}");
        assert!(error.is_outage() && !error.may_have_effect());
        assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
    }
    // The calls of lease holders have a budget of retries of their own, which claims do not use up.
    proxy.rule(|_| Fate::Passes);
    store.claim(&claim_of(2)).await.unwrap();
    proxy.rule(|_| Fate::error(400, "ThrottlingException"));
    for _ in 0..60 {
        let _ = store.claim(&claim_of(3)).await;
    }
    proxy.once("UpdateItem", Fate::error(400, "ThrottlingException"));
    let lease = Lease::of(&claim_of(2), 1);
    let _: Change = store.renew(&lease).await.unwrap();
}

#[tokio::test]
async fn a_store_that_has_used_up_its_retries_leaves_those_of_others() {
    let Some((_server, proxy)) = proxied().await else {
        return;
    };
    let (one, other) = (proxy.store().await, proxy.store().await);
    proxy.rule(|_| Fate::error(400, "ThrottlingException"));
    proxy.passed();
    // Until a claim is not sent again any more.
    let mut claims = 0;
    loop {
        let _ = one.claim(&claim_of(1)).await.unwrap_err();
        claims += 1;
        if proxy.passed().len() == 1 {
            break;
        }
        assert!(claims < 1000, "it is always sent again");
    }
    proxy.once("PutItem", Fate::error(400, "ThrottlingException"));
    let claimed = other.claim(&claim_of(2)).await;
    assert_eq!(claimed.unwrap(), Claimed::acquired(1));
}

#[tokio::test]
async fn while_it_throttles_no_body_runs_but_where_it_may_run_unprotected() {
    let Some((_server, proxy)) = proxied().await else {
        return;
    };
    let store = proxy.store().await;
    proxy.rule(|_| Fate::error(400, "ProvisionedThroughputExceededException"));
    for fail_open in [false, true] {
        let engine = EngineBuilder::new(Arc::new(store.clone()))
            .fail_open(fail_open)
            .build();
        let ran = AtomicUsize::new(0);
        let body = async {
            ran.fetch_add(1, Ordering::SeqCst);
            Ok::<_, Error>(1)
        };
        let fingerprint = Fingerprint::of("k").unwrap();
        let answer = engine.operation("op").run("k", fingerprint, body).await;
        assert_eq!(answer.is_ok(), fail_open);
        assert_eq!(ran.into_inner(), usize::from(fail_open));
    }
}

/// The answer of every kind of write is lost once. The SDK sends changes again, and what it finds then is read as
/// what it has done. It does not send claims again: the engine does, which knows then that one may be late.
#[tokio::test]
async fn a_call_whose_answer_was_lost_recognises_itself() {
    for emulator in Emulator::installed() {
        let server = DynamoDb::start(emulator).await;
        let proxy = Proxy::to(&server);
        let store = proxy.store().await;
        let first = claim_of(1);
        let lost = |operation| {
            proxy.passed();
            proxy.once(operation, Fate::CutAfter);
        };
        lost("PutItem");
        let error = store.claim(&first).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
        assert_eq!(store.claim(&first).await.unwrap(), Claimed::acquired(1));
        assert_eq!(proxy.counts()["PutItem"], 2);
        let lease = Lease::of(&first, 1);
        lost("UpdateItem");
        assert_eq!(store.renew(&lease).await.unwrap(), Change::Applied);
        lost("UpdateItem");
        let steps = Bytes::from_static(b"step");
        let change = store.checkpoint(&lease, 0, steps.clone()).await;
        assert_eq!(change.unwrap(), Change::Applied);
        let seen = store.inspect(&first.id).await.unwrap().unwrap();
        assert_eq!(seen.steps, steps);
        lost("UpdateItem");
        let change = store.suspend(&first.id, &first.token).await;
        assert_eq!(change.unwrap(), Change::Applied);
        // A takeover.
        let second = first.by_another().on_crash(OnCrash::Refuse);
        lost("UpdateItem");
        let error = store.claim(&second).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
        let answer = store.claim(&second).await.unwrap();
        assert_eq!(answer, Claimed::Acquired { attempt: 2, steps });
        lost("UpdateItem");
        let change = store.abandon(&second.id, &second.token).await;
        assert_eq!(change.unwrap(), Change::Applied);
        let third = first.by_another();
        store.claim(&third).await.unwrap();
        lost("UpdateItem");
        let outcome = Bytes::from_static(b"done");
        let change = store.complete(&Lease::of(&third, 3), outcome.clone()).await;
        assert_eq!(change.unwrap(), Change::Applied);
        let seen = store.inspect(&first.id).await.unwrap().unwrap();
        assert_eq!(seen.phase, Phase::Finished { outcome });
        assert_eq!(seen.attempt, 3);
        // Of a release that finds no record nobody can say whether there was one: who releases a claim that may
        // still be on its way has to look again.
        for is_there in [true, false] {
            let other = claim_of(2);
            if is_there {
                store.claim(&other).await.unwrap();
            }
            lost("DeleteItem");
            let error = store.release(&other.id, &other.token).await.unwrap_err();
            assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
            let change = store.release(&other.id, &other.token).await;
            assert_eq!(change.unwrap(), Change::LeaseLost);
            assert_eq!(store.inspect(&other.id).await.unwrap(), None);
        }
        // And another's record is still another's.
        let held = claim_of(3);
        store.claim(&held).await.unwrap();
        lost("UpdateItem");
        let other = store.abandon(&held.id, &second.token).await;
        assert_eq!(other.unwrap(), Change::LeaseLost);
    }
}

/// What happens to every request, and what it is to the caller.
type Row = (&'static str, Fate, fn(&StoreError) -> bool);

#[tokio::test]
async fn every_error_says_whether_the_call_may_have_taken_effect() {
    let Some((_server, proxy)) = proxied().await else {
        return;
    };
    let (store, gives_up) = (proxy.store().await, impatient(&proxy).await);
    let table: [Row; 9] = [
        (
            "no such table",
            Fate::error(400, "ResourceNotFoundException"),
            |it| matches!(it, StoreError::Rejected { .. }),
        ),
        (
            "a right is missing",
            Fate::error(400, "AccessDeniedException"),
            |it| matches!(it, StoreError::Rejected { .. }),
        ),
        (
            "a wrong signature",
            Fate::error(400, "UnrecognizedClientException"),
            |it| matches!(it, StoreError::Rejected { .. }),
        ),
        ("malformed", Fate::error(400, "ValidationException"), |it| {
            matches!(it, StoreError::Rejected { .. })
        }),
        ("throttled", Fate::error(400, "ThrottlingException"), |it| {
            matches!(it, StoreError::NotReady { .. })
        }),
        (
            "another region",
            Fate::error(400, "ReplicatedWriteConflictException"),
            |it| matches!(it, StoreError::Busy { .. }),
        ),
        (
            "its own fault",
            Fate::error(500, "InternalServerError"),
            |it| matches!(it, StoreError::Unavailable { .. }),
        ),
        ("a broken connection", Fate::CutBefore, |it| {
            matches!(
                it,
                StoreError::Unavailable { .. } | StoreError::TimedOut { .. }
            )
        }),
        ("silence", Fate::Late(Duration::from_secs(3)), |it| {
            matches!(it, StoreError::TimedOut { .. })
        }),
    ];
    for (number, (what, fate, is_it)) in (10..).zip(table) {
        let store = match fate {
            Fate::Late(_) => &gives_up,
            _ => &store,
        };
        proxy.rule(move |_| fate.clone());
        let error = store.claim(&claim_of(number)).await.unwrap_err();
        assert!(is_it(&error), "{what}: {error:?}");
        let source = std::error::Error::source(&error).map(ToString::to_string);
        assert!(
            !format!("{error:?} {source:?}").contains("Blob"),
            "{what}: {error:?}"
        );
    }
    // An earlier try that may have been made is not forgotten over the last one's error.
    let held = claim_of(30);
    proxy.rule(|_| Fate::Passes);
    store.claim(&held).await.unwrap();
    let mut tries = 0;
    proxy.rule(move |_| {
        tries += 1;
        match tries {
            1 => Fate::CutAfter,
            _ => Fate::error(400, "AccessDeniedException"),
        }
    });
    let error = store.renew(&Lease::of(&held, 1)).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
}

#[tokio::test]
async fn with_nobody_there_a_call_was_not_sent() {
    let Some(emulator) = Emulator::best() else {
        return;
    };
    let server = DynamoDb::start_alone(emulator).await;
    let store = server.builder().timeout(LIMIT).connect().await.unwrap();
    server.process().kill();
    // The first may find the connection that is still open.
    let _ = store.claim(&claim_of(1)).await.unwrap_err();
    let error = store.claim(&claim_of(1)).await.unwrap_err();
    assert!(matches!(error, StoreError::NotSent { .. }), "{error:?}");
}

/// Claims that were given up, and arrive after that, take no key for ever.
#[tokio::test(flavor = "multi_thread")]
async fn claims_that_arrive_late_leave_no_key_that_nobody_can_use() {
    let Some((_server, proxy)) = proxied().await else {
        return;
    };
    let store = Arc::new(impatient(&proxy).await);
    let engine = EngineBuilder::new(store)
        .store_timeout(Duration::from_secs(2))
        .build();
    let elsewhere = Arc::new(proxy.builder().timeout(LIMIT).connect().await.unwrap());
    let elsewhere = EngineBuilder::new(elsewhere).store_timeout(LIMIT).build();
    let [operation, elsewhere] = [&engine, &elsewhere].map(|engine| {
        let operation = engine.operation("op").lease(Duration::from_secs(5));
        operation.on_crash(OnCrash::Refuse)
    });
    proxy.rule(|request| match request.operation.as_str() {
        "PutItem" => Fate::Late(Duration::from_secs(3)),
        _ => Fate::Passes,
    });
    let keys: Vec<_> = (0..40).map(|number| format!("k{number}")).collect();
    let calls: Vec<_> = keys
        .iter()
        .map(|key| {
            let (operation, key) = (operation.clone(), key.clone());
            tokio::spawn(async move { crate::costs::run(&operation, &key).await })
        })
        .collect();
    for call in calls {
        let answer = call.await.unwrap();
        assert!(matches!(answer, Err(Error::Store(_))), "{answer:?}");
    }
    proxy.rule(|_| Fate::Passes);
    engine.idle().await;
    for key in &keys {
        assert_eq!(
            crate::costs::run(&elsewhere, key).await.unwrap(),
            1,
            "{key}"
        );
    }
}

/// The claim arrives after a release of which both tries have found nothing, and the first one's answer was lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_was_sent_twice_is_no_proof_that_a_late_claim_was_undone() {
    let Some((_server, proxy)) = proxied().await else {
        return;
    };
    let engine = EngineBuilder::new(Arc::new(impatient(&proxy).await)).build();
    let elsewhere = EngineBuilder::new(Arc::new(proxy.store().await)).build();
    let [operation, elsewhere] = [&engine, &elsewhere].map(|engine| {
        let operation = engine.operation("op").lease(Duration::from_secs(10));
        operation.on_crash(OnCrash::Refuse)
    });
    let mut releases = 0;
    proxy.rule(move |request| match request.operation.as_str() {
        "PutItem" => Fate::Late(Duration::from_secs(4)),
        "DeleteItem" => {
            releases += 1;
            match releases {
                1 => Fate::CutAfter,
                _ => Fate::Passes,
            }
        }
        _ => Fate::Passes,
    });
    let answer = crate::costs::run(&operation, "k").await;
    assert!(matches!(answer, Err(Error::Store(_))), "{answer:?}");
    engine.idle().await;
    let begun = Instant::now();
    while proxy.late_arrivals() < 1 {
        assert!(begun.elapsed() < LIMIT);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    proxy.rule(|_| Fate::Passes);
    assert_eq!(crate::costs::run(&elsewhere, "k").await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_beyond_the_bound_are_refused_unsent_and_holders_are_served() {
    let Some((_server, proxy)) = proxied().await else {
        return;
    };
    let builder = proxy.builder().timeout(Duration::from_secs(4));
    let store = builder
        .max_claims(2)
        .max_waiting(3)
        .connect()
        .await
        .unwrap();
    let held = claim_of(1);
    store.claim(&held).await.unwrap();
    proxy.passed();
    proxy.rule(|request| match request.operation.as_str() {
        "PutItem" => Fate::Late(Duration::from_secs(30)),
        _ => Fate::Passes,
    });
    let calls: Vec<_> = (10..20)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move { store.claim(&claim_of(number)).await.unwrap_err() })
        })
        .collect();
    let lease = Lease::of(&held, 1);
    assert_eq!(store.renew(&lease).await.unwrap(), Change::Applied);
    let change = store.complete(&lease, Bytes::new()).await.unwrap();
    assert_eq!(change, Change::Applied);
    let mut overloaded = 0;
    for call in calls {
        match call.await.unwrap() {
            StoreError::Overloaded { .. } => overloaded += 1,
            StoreError::TimedOut { .. } | StoreError::NotSent { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(overloaded, 10 - 2 - 3);
}

/// Somebody else answers at the endpoint. It is no outage, with which `fail_open` would let bodies run.
#[tokio::test]
async fn a_certificate_that_nobody_trusts_is_refused() {
    if !Flavor::Redis.has_tls() {
        return;
    }
    let other = Redis::start_tls();
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .build_https();
    let config = config_at(other.port())
        .endpoint_url(format!("https://127.0.0.1:{}", other.port()))
        .http_client(http);
    let client = Client::from_conf(config.build());
    let builder = DynamoDbStore::with_client(&client, "idem").unwrap();
    let error = builder.connect().await.unwrap_err();
    assert!(
        matches!(error, ConnectError::Store(StoreError::Rejected { .. })),
        "{error:?}"
    );
    assert!(format!("{error:?}").contains("ertificate"), "{error:?}");
}
