//! Callers at once, and what they get done by the clock: against a server that writes to a disk,
//! CPU time says little.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use idem::store::{Change, Claim, Claimed, Lease, Store};
use idem::{Fingerprint, RecordId};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::store::{OUTCOME_BYTES, RETENTION};

/// How many callers there are at once, in turn: these, or what `--callers` says.
pub fn crowds(usual: &[usize]) -> Vec<usize> {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--callers");
    let one = arguments.nth(1).and_then(|callers| callers.parse().ok());
    one.map_or_else(|| usual.to_vec(), |one| vec![one])
}

/// As many threads as the other sides of a benchmark get.
///
/// # Panics
/// When the system gives no runtime.
pub fn two_threads() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Lets so many callers call, one call after the other each, and returns the nanoseconds from
/// one end of a call to the next, whosever it is.
///
/// # Panics
/// When a call does.
pub fn paced<F>(
    runtime: &Runtime,
    callers: usize,
    time: Duration,
    call: impl Fn() -> F + Clone + Send + 'static,
) -> f64
where
    F: Future<Output = ()> + Send + 'static,
{
    let started = Instant::now();
    let calls = runtime.block_on(async {
        let caller = |call: &_| {
            let call = Clone::clone(call);
            async move { many(call, started + time).await }
        };
        let callers: Vec<_> = (0..callers).map(|_| tokio::spawn(caller(&call))).collect();
        let mut calls = 0;
        for caller in callers {
            calls += caller.await.expect("the calls succeed");
        }
        calls
    });
    started.elapsed().as_secs_f64() * 1e9 / f64::from(calls)
}

async fn many<F: Future<Output = ()>>(call: impl Fn() -> F, until: Instant) -> u32 {
    let mut calls = 0;
    while Instant::now() < until {
        call().await;
        calls += 1;
    }
    calls
}

/// What came of a load that was offered.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// First calls per second that were completed.
    pub completed: f64,
    /// Claims per second that were refused.
    pub refused: f64,
    /// The longest that a renewal took, of 50 leases that were renewed all the time.
    pub longest_renewal: Duration,
    /// How many of those were lost.
    pub lost: u32,
}

const HELD: u32 = 50;

/// How long a caller that was refused stays away, as a client does that is told to.
const BACKOFF: Duration = Duration::from_millis(100);

/// Lets so many callers make first calls, one after the other each, while 50 others hold leases.
///
/// # Panics
/// When a holder's call does not succeed, or the system gives no threads.
pub fn offered(runtime: &Runtime, store: &Arc<dyn Store>, callers: usize, time: Duration) -> Load {
    runtime.block_on(async {
        let until = Instant::now() + time;
        let mut holders = JoinSet::new();
        for _ in 0..HELD {
            let store = Arc::clone(store);
            let claim = a_claim();
            let acquired = store.claim(&claim).await.expect("an answer");
            assert!(matches!(acquired, Claimed::Acquired { .. }));
            holders.spawn(async move { hold(&*store, &claim, until).await });
        }
        let mut calls = JoinSet::new();
        for _ in 0..callers {
            let store = Arc::clone(store);
            calls.spawn(async move { call(&*store, until).await });
        }
        let mut load = Load::default();
        let started = Instant::now();
        while let Some(caller) = calls.join_next().await {
            let (completed, refused) = caller.expect("a caller");
            load.completed += completed;
            load.refused += refused;
        }
        let took = started.elapsed().as_secs_f64();
        load.completed /= took;
        load.refused /= took;
        while let Some(holder) = holders.join_next().await {
            let (longest, lost) = holder.expect("a holder");
            load.longest_renewal = load.longest_renewal.max(longest);
            load.lost += u32::from(lost);
        }
        load
    })
}

fn a_claim() -> Claim {
    Claim::new(
        RecordId::from_bytes(rand::random()),
        Fingerprint::from_bytes([1; 33]),
        Duration::from_secs(30),
        RETENTION,
    )
}

async fn hold(store: &dyn Store, claim: &Claim, until: Instant) -> (Duration, bool) {
    let lease = Lease::of(claim, 1);
    let mut longest = Duration::ZERO;
    while Instant::now() < until {
        let asked = Instant::now();
        let renewed = store.renew(&lease).await.expect("a renewal");
        longest = longest.max(asked.elapsed());
        if renewed != Change::Applied {
            return (longest, true);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    (longest, false)
}

async fn call(store: &dyn Store, until: Instant) -> (f64, f64) {
    let (mut completed, mut refused) = (0.0, 0.0);
    while Instant::now() < until {
        let claim = a_claim();
        match store.claim(&claim).await {
            Ok(_) => {
                let outcome = vec![7; OUTCOME_BYTES].into();
                let done = store.complete(&Lease::of(&claim, 1), outcome).await;
                assert_eq!(done.expect("a completion"), Change::Applied);
                completed += 1.0;
            }
            Err(_) => {
                refused += 1.0;
                tokio::time::sleep(BACKOFF.mul_f64(rand::random_range(0.5..1.5))).await;
            }
        }
    }
    (completed, refused)
}
