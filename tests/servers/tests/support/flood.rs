//! Callers that crowd a process in which leases are held: none is lost.
//!
//! Who holds them has a runtime of its own in that process, and so has the other process that tries to take them.
//! What is tested is who goes first at the store: how late a runtime comes round to a task is the machine's and the
//! runtime's, and grows with what else the machine does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use idem::store::Store;
use idem::{Engine, Error, Fingerprint, Operation, StoreError};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, oneshot, watch};
use tokio::task::JoinSet;

/// It bounds a hang, and says nothing of speed.
const LIMIT: Duration = Duration::from_secs(60);

/// A lease that is long enough for a machine that is busy with other things.
pub(crate) const LEASE: Duration = Duration::from_secs(9);

/// So long that each lease would be over that nobody renews.
const FLOOD: Duration = Duration::from_secs(19);

/// Floods of one process come one after the other.
static ONE_FLOOD: Mutex<()> = Mutex::const_new(());

/// How many leases are held.
pub(crate) const HELD: usize = 50;

/// By how much a process may grow under a flood that goes on: what else its tests do.
const FLAT: usize = 96 << 20;

fn request() -> Fingerprint {
    Fingerprint::of("the request").unwrap()
}

/// A runtime with a thread of its own, which ends when it is dropped.
pub(crate) struct Runtime {
    pub(crate) handle: Handle,
    _end: oneshot::Sender<()>,
}

impl Runtime {
    pub(crate) fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        std::thread::spawn(move || runtime.block_on(ended));
        Self { handle, _end: end }
    }
}

/// Handlers that hold their leases until they are told to end, and a witness of what befalls them.
struct Held {
    runtime: Runtime,
    executions: Arc<AtomicUsize>,
    lost: Arc<AtomicUsize>,
    end: watch::Sender<bool>,
    running: JoinSet<Result<u32, Error>>,
}

impl Held {
    async fn start(operation: &Operation) -> Self {
        let mut held = Self {
            runtime: Runtime::start(),
            executions: Arc::default(),
            lost: Arc::default(),
            end: watch::Sender::new(false),
            running: JoinSet::new(),
        };
        for number in 0..HELD {
            let (once, executions) = (held.caller(operation), Arc::clone(&held.executions));
            let call = async move {
                loop {
                    match once(number).await {
                        // A server that has just started may be slow.
                        Err(Error::Store(_)) if executions.load(Ordering::SeqCst) < HELD => {}
                        answer => return answer,
                    }
                }
            };
            held.running.spawn_on(call, &held.runtime.handle);
        }
        let started = Instant::now();
        while held.executions.load(Ordering::SeqCst) < HELD {
            assert!(started.elapsed() < LIMIT);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        held
    }

    /// Calls one of them, by its number.
    fn caller(
        &self,
        operation: &Operation,
    ) -> impl Fn(usize) -> BoxFuture<'static, Result<u32, Error>> + Send + 'static {
        let (executions, lost) = (Arc::clone(&self.executions), Arc::clone(&self.lost));
        let (operation, end) = (operation.clone(), self.end.subscribe());
        move |number| {
            let (executions, lost) = (Arc::clone(&executions), Arc::clone(&lost));
            let (operation, mut end) = (operation.clone(), end.clone());
            let call = async move {
                let body = async {
                    executions.fetch_add(1, Ordering::SeqCst);
                    let _ = end.wait_for(|end| *end).await;
                    let attempt = idem::attempt();
                    lost.fetch_add(usize::from(attempt.lease_lost()), Ordering::SeqCst);
                    Ok(attempt.number())
                };
                let key = format!("held {number}");
                operation.run(&key, request(), body).await
            };
            call.boxed()
        }
    }

    /// Retries, in another process, of what runs: none of them may.
    async fn none_runs_again(&self, elsewhere: &Operation, runtime: &Runtime) {
        let call = self.caller(elsewhere);
        for number in 0..HELD {
            // One that runs does not end before the others.
            let answer = runtime.handle.spawn(call(number));
            let answer = tokio::time::timeout(LIMIT, answer).await;
            let begun = self.executions.load(Ordering::SeqCst);
            let answer = answer.unwrap_or_else(|_| match begun {
                ..=HELD => panic!("a retry of {number} was not answered within {LIMIT:?}"),
                _ => panic!("a lease was lost: {begun} bodies of {HELD} have begun"),
            });
            let answer = answer.unwrap();
            assert!(
                matches!(answer, Err(Error::InFlight { .. } | Error::Store(_))),
                "{number}: {answer:?}"
            );
        }
    }

    async fn end(mut self) {
        self.end.send_replace(true);
        while let Some(ended) = self.running.join_next().await {
            assert_eq!(ended.unwrap().unwrap(), 1);
        }
        assert_eq!(self.lost.load(Ordering::SeqCst), 0, "leases were lost");
        assert_eq!(self.executions.load(Ordering::SeqCst), HELD);
    }
}

/// How the callers fared.
#[derive(Debug, Default)]
pub(crate) struct Fared {
    /// Calls that were served.
    pub(crate) served: usize,
    /// Calls whose answers said that the claim was not sent.
    pub(crate) unsent: usize,
    /// How many callers' last calls ended so.
    in_the_end: BTreeMap<&'static str, usize>,
}

/// So many callers at once, each with keys of its own, who come again, served or not, until it has gone on for long
/// enough.
async fn crowd(operation: &Operation, callers: usize, time: Duration) -> Fared {
    let until = Instant::now() + time;
    let served = Arc::new(AtomicUsize::new(0));
    let unsent = Arc::new(AtomicUsize::new(0));
    let mut calls = JoinSet::new();
    for number in 0..callers {
        let operation = operation.clone();
        let (served, unsent) = (Arc::clone(&served), Arc::clone(&unsent));
        calls.spawn(async move {
            let mut order = 0;
            loop {
                let key = format!("flood {number} {order}");
                let answer: Result<u32, Error> =
                    operation.run(&key, request(), async { Ok(1) }).await;
                let answer = match answer {
                    Ok(_) => "served",
                    Err(Error::Store(StoreError::Overloaded { .. })) => "refused",
                    Err(Error::Store(StoreError::NotSent { .. })) => "not sent",
                    Err(_) => "failed",
                };
                match answer {
                    "served" => {
                        served.fetch_add(1, Ordering::Relaxed);
                        order += 1;
                    }
                    "failed" => {}
                    _ => {
                        unsent.fetch_add(1, Ordering::Relaxed);
                    }
                }
                if Instant::now() > until {
                    return answer;
                }
                // As clients do.
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
        });
    }
    let mut fared = Fared::default();
    while let Some(answer) = calls.join_next().await {
        *fared.in_the_end.entry(answer.unwrap()).or_default() += 1;
    }
    fared.served = served.load(Ordering::Relaxed);
    fared.unsent = unsent.load(Ordering::Relaxed);
    fared
}

/// What this process has in memory, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    kilobytes.unwrap_or(0_usize) * 1024
}

/// Two stores over the same records, as of two processes, and so many callers of the first, while leases of this
/// length are held.
pub(crate) async fn costs_no_lease<S: Store>(
    here: S,
    elsewhere: S,
    callers: usize,
    lease: Duration,
) -> Fared {
    let _alone = ONE_FLOOD.lock().await;
    let engine = Engine::new(here);
    let [here, elsewhere] = [engine.clone(), Engine::new(elsewhere)]
        .map(|engine| engine.operation("tests.lanes").lease(lease));
    let held = Held::start(&here).await;
    let (flooded, again) = (AtomicBool::new(false), AtomicUsize::new(0));
    let started = Instant::now();
    let flooding = async {
        let fared = crowd(&here, callers, FLOOD).await;
        flooded.store(true, Ordering::SeqCst);
        fared
    };
    let watching = async {
        let other_process = Runtime::start();
        // The most while all come, and in what follows.
        let mut most = [0, 0];
        while !flooded.load(Ordering::SeqCst) {
            held.none_runs_again(&elsewhere, &other_process).await;
            again.fetch_add(1, Ordering::SeqCst);
            let most = &mut most[usize::from(started.elapsed() > FLOOD / 2)];
            *most = resident().max(*most);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        held.none_runs_again(&elsewhere, &other_process).await;
        most
    };
    let (fared, most) = tokio::join!(flooding, watching);
    println!(
        "{callers} callers in {:?}: {fared:?}; {HELD} retries each, {again:?} times; MiB {:?}",
        started.elapsed(),
        most.map(|bytes| bytes >> 20)
    );
    held.end().await;
    assert!(
        most[0] == 0 || most[1] < most[0] + FLAT,
        "it grows: {most:?}"
    );
    // What was given up is undone.
    let idle = tokio::time::timeout(LIMIT, engine.idle()).await;
    idle.expect("an engine that has nothing left to do");
    fared
}
