//! What a call costs, alone and in company. For people, with `--release --ignored --nocapture`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use idem::{Change, Claim, Claimed, Fingerprint, OnCrash, RecordId, Store, Token};

use crate::file::File;

fn claim() -> Claim {
    Claim {
        id: RecordId::from_bytes(rand::random()),
        token: Token::random(),
        fingerprint: Fingerprint::of("request").unwrap(),
        lease: Duration::from_secs(30),
        retention: Duration::from_secs(3600),
        on_crash: OnCrash::Rerun,
        ask_retention: false,
    }
}

async fn first_call(store: &dyn Store, claim: &Claim) {
    let acquired = store.claim(claim).await.unwrap();
    assert_eq!(acquired, Claimed::Acquired { attempt: 1 });
    let outcome = vec![7; 300].into();
    let done = store
        .complete(&claim.id, &claim.token, outcome, claim.retention)
        .await;
    assert_eq!(done.unwrap(), Change::Applied);
}

/// Microseconds per call.
async fn measure<C>(at_once: usize, calls: usize, call: impl Fn() -> C) -> f64
where
    C: Future<Output = ()> + Send + 'static,
{
    let start = Instant::now();
    let tasks: Vec<_> = (0..at_once)
        .map(|_| {
            let calls: Vec<_> = (0..calls / at_once).map(|_| call()).collect();
            tokio::spawn(async move {
                for call in calls {
                    call.await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    start.elapsed().as_secs_f64() * 1e6 / calls as f64
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn calls_alone_and_at_once() {
    let file = File::new();
    let store: Arc<dyn Store> = Arc::new(file.store().await);
    let first = || {
        let store = Arc::clone(&store);
        async move { first_call(&*store, &claim()).await }
    };
    measure(256, 100_000, first).await;
    let known = claim();
    first_call(&*store, &known).await;
    let replay = || {
        let (store, known) = (Arc::clone(&store), known);
        async move {
            let answer = store.claim(&known).await.unwrap();
            assert!(matches!(answer, Claimed::Finished { .. }));
        }
    };
    for _ in 0..5 {
        let one = measure(1, 1_000, first).await;
        let eight = measure(8, 4_000, first).await;
        let many = measure(64, 16_000, first).await;
        println!("first call: alone {one:.0} µs; 8 at once {eight:.0}; 64 at once {many:.0}");
        let one = measure(1, 4_000, replay).await;
        let eight = measure(8, 8_000, replay).await;
        let many = measure(64, 16_000, replay).await;
        println!("replay: alone {one:.1} µs; 8 at once {eight:.1}; 64 at once {many:.1}");
    }
}
