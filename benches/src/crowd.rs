//! Callers at once, and what they get done by the clock: against a server that writes to a disk,
//! CPU time says little.

use std::future::Future;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

/// How many callers there are at once, in turn: 1, 8 and 64, or what `--callers` says.
pub fn crowds() -> Vec<usize> {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--callers");
    let one = arguments.nth(1).and_then(|callers| callers.parse().ok());
    one.map_or_else(|| vec![1, 8, 64], |one| vec![one])
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
