//! How long claims take meanwhile: printed, and never asserted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use idem::store::{Claim, Claimed, Store};
use idem::{Fingerprint, RecordId};

/// Claims of records that nobody knows, one after the other on each of four tasks, until this
/// ends. Each of them succeeds.
pub(crate) async fn claims_until(store: Arc<dyn Store>, end: impl Future<Output = ()>) -> Took {
    let stop = Arc::new(AtomicBool::new(false));
    let claims = (0..4).map(|_| {
        let (store, stop) = (Arc::clone(&store), Arc::clone(&stop));
        tokio::spawn(async move {
            let mut took = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let claim = Claim::new(
                    RecordId::from_bytes(rand::random()),
                    Fingerprint::of("request").unwrap(),
                    Duration::from_secs(3600),
                    Duration::from_secs(3600),
                );
                let started = Instant::now();
                let answer = store.claim(&claim).await.unwrap();
                took.push(started.elapsed());
                assert_eq!(answer, Claimed::acquired(1));
            }
            took
        })
    });
    let claims: Vec<_> = claims.collect();
    let started = Instant::now();
    end.await;
    stop.store(true, Ordering::Relaxed);
    let mut all = Vec::new();
    for claims in claims {
        all.extend(claims.await.unwrap());
    }
    all.sort_unstable();
    Took {
        claims: all,
        time: started.elapsed(),
    }
}

/// How long each claim took, and all of it.
pub(crate) struct Took {
    claims: Vec<Duration>,
    time: Duration,
}

impl Took {
    /// How many claims there were.
    pub(crate) fn count(&self) -> usize {
        self.claims.len()
    }
}

impl std::fmt::Display for Took {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { claims, time } = self;
        let at = |per_mille: usize| claims[(claims.len() * per_mille / 1000).min(claims.len() - 1)];
        write!(
            f,
            "{} claims in {time:.1?}, median {:.2?}, p99 {:.2?}, p99.9 {:.2?}, longest {:.2?}",
            claims.len(),
            at(500),
            at(990),
            at(999),
            at(1000),
        )
    }
}
