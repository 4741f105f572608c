//! Load, and a witness of what it does, for tests of servers that are stopped, killed, paused, cut
//! off and failed over.
//!
//! Clients send each of their requests to two engines at once, as to two processes, and again
//! until it is answered. What is checked, whatever happens to the server:
//!
//! - no body runs without a claim that the server has acknowledged,
//! - no body runs twice, unless the server has forgotten what it had acknowledged,
//! - every call is answered within the engine's timeouts,
//! - once the server is back, calls succeed again, by themselves.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use idem::store::{Change, Claim, Claimed, Forgotten, Lease, Listing, Page, Store, Token, Watch};
use idem::{
    EngineBuilder, Error, Fingerprint, InFlight, Inspection, Key, Operation, RecordId, StoreError,
};
use idem_tests::wait_until;
use tokio::task::JoinSet;

/// How long a call of the stores under test may take: two tries fit into the engine's timeout.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(1);
const STORE_TIMEOUT: Duration = Duration::from_secs(3);
const WAIT: Duration = Duration::from_secs(10);
const OPERATION: &str = "tests.outages";
const CLIENTS: usize = 16;

/// A call may claim, wait, and store, and a busy machine may be slow; what hangs is longer.
const ANSWER: Duration = Duration::from_secs(3 + 10 + 3 + 15);

/// Opens a store, however slow the machine is: that takes calls, too.
pub(crate) async fn opened<S: Store, E: Debug>(
    mut open: impl AsyncFnMut() -> Result<S, E>,
) -> Arc<dyn Store> {
    let began = Instant::now();
    loop {
        match open().await {
            Ok(store) => return Arc::new(store),
            Err(error) => assert!(began.elapsed() < ANSWER, "{error:?}"),
        }
    }
}

/// An attempt whose claim was acknowledged.
#[derive(Clone, Debug)]
struct Acknowledged {
    token: Token,
    attempt: u32,
    /// Whether the store acknowledged its outcome too.
    completed: bool,
}

/// Every attempt that was acknowledged, per record.
type Acquired = Arc<Mutex<HashMap<RecordId, Vec<Acknowledged>>>>;

/// Claims that were sent and not answered, and so may have had their effect, per record.
type Unanswered = Arc<Mutex<HashMap<RecordId, Vec<Token>>>>;

/// What was asked of the store and what it answered, per record: what a failure is explained by.
type Told = Arc<Mutex<HashMap<RecordId, Vec<String>>>>;

/// A store that remembers which claims and outcomes its server has acknowledged.
#[derive(Clone)]
struct Witnessed {
    store: Arc<dyn Store>,
    acquired: Acquired,
    unanswered: Unanswered,
    told: Told,
    engine: usize,
    since: Instant,
}

impl Witnessed {
    fn tell(&self, id: &RecordId, token: &Token, call: &str, sent: Instant, answer: &dyn Debug) {
        let (sent, now) = (sent - self.since, self.since.elapsed());
        let token = u16::from_le_bytes([token.as_bytes()[0], token.as_bytes()[1]]);
        let line = format!(
            "{sent:.3?} to {now:.3?}: engine {}, token {token:04x}: {call}: {answer:?}",
            self.engine
        );
        self.told.lock().unwrap().entry(*id).or_default().push(line);
    }
}

/// How many of these attempts a server that keeps what it acknowledged would have refused: a first one
/// after the first, one that took over from an attempt with an outcome, and one that took over from a
/// claim that nobody was told of, whose release the server has forgotten.
fn let_in_by_a_forgetful_server(acknowledged: &[Acknowledged], unanswered: usize) -> usize {
    let firsts = acknowledged.iter().filter(|one| one.attempt == 1).count();
    let takeovers = acknowledged.iter().enumerate();
    let takeovers = takeovers.filter(|(_, one)| one.attempt > 1);
    let (of_outcomes, others): (Vec<_>, Vec<_>) = takeovers.partition(|(index, _)| {
        let before = acknowledged[..*index].last();
        before.is_some_and(|before| before.completed)
    });
    firsts.saturating_sub(1) + of_outcomes.len() + others.len().min(unanswered)
}

#[async_trait]
impl Store for Witnessed {
    fn name(&self) -> &'static str {
        self.store.name()
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        let sent = Instant::now();
        // Until it is answered, which it is not when it is dropped.
        let mark = |sent: &mut Vec<Token>| sent.push(claim.token);
        mark(self.unanswered.lock().unwrap().entry(claim.id).or_default());
        let answer = self.store.claim(claim).await;
        self.tell(&claim.id, &claim.token, "claim", sent, &answer);
        if !answer.as_ref().is_err_and(StoreError::may_have_effect) {
            let mut unanswered = self.unanswered.lock().unwrap();
            let sent = unanswered.entry(claim.id).or_default();
            if let Some(at) = sent.iter().position(|token| *token == claim.token) {
                sent.remove(at);
            }
        }
        if let Ok(Claimed::Acquired { attempt, .. }) = answer {
            let mut acquired = self.acquired.lock().unwrap();
            let acquired = acquired.entry(claim.id).or_default();
            // The same claim again is no other.
            let same = |one: &Acknowledged| one.token == claim.token && one.attempt == attempt;
            if !acquired.iter().any(same) {
                acquired.push(Acknowledged {
                    token: claim.token,
                    attempt,
                    completed: false,
                });
            }
        }
        answer
    }

    async fn renew(&self, lease: &Lease) -> Result<Change, StoreError> {
        let sent = Instant::now();
        let answer = self.store.renew(lease).await;
        self.tell(&lease.id, &lease.token, "renew", sent, &answer);
        answer
    }

    async fn complete(&self, lease: &Lease, outcome: Bytes) -> Result<Change, StoreError> {
        let sent = Instant::now();
        let answer = self.store.complete(lease, outcome).await;
        self.tell(&lease.id, &lease.token, "complete", sent, &answer);
        if matches!(answer, Ok(Change::Applied)) {
            let mut acquired = self.acquired.lock().unwrap();
            let mut attempts = acquired.get_mut(&lease.id).into_iter().flatten();
            if let Some(completed) = attempts.find(|one| one.token == lease.token) {
                completed.completed = true;
            }
        }
        answer
    }

    async fn release(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        let sent = Instant::now();
        let answer = self.store.release(id, token).await;
        self.tell(id, token, "release", sent, &answer);
        answer
    }

    async fn abandon(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        let sent = Instant::now();
        let answer = self.store.abandon(id, token).await;
        self.tell(id, token, "abandon", sent, &answer);
        answer
    }

    async fn inspect(&self, id: &RecordId) -> Result<Option<Inspection>, StoreError> {
        self.store.inspect(id).await
    }

    async fn watch(&self, id: &RecordId) -> Result<Watch, StoreError> {
        self.store.watch(id).await
    }

    async fn checkpoint(
        &self,
        lease: &Lease,
        at: usize,
        steps: Bytes,
    ) -> Result<Change, StoreError> {
        self.store.checkpoint(lease, at, steps).await
    }

    async fn suspend(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        self.store.suspend(id, token).await
    }

    async fn list(&self, listing: &Listing) -> Result<Page, StoreError> {
        self.store.list(listing).await
    }

    async fn forget(&self, id: &RecordId) -> Result<Forgotten, StoreError> {
        self.store.forget(id).await
    }
}

/// What was executed, what was answered, and how the clients fared.
#[derive(Default)]
struct Shop {
    executions: Mutex<HashMap<String, usize>>,
    calls: AtomicU64,
    answered: AtomicU64,
    refused: AtomicU64,
    longest_ms: AtomicU64,
    closed: AtomicBool,
}

#[derive(Clone)]
pub(crate) struct Load {
    shop: Arc<Shop>,
    engines: [Operation; 2],
    acquired: Acquired,
    unanswered: Unanswered,
    told: Told,
}

impl Load {
    /// Load on two engines over two handles onto the same storage.
    pub(crate) fn over(stores: [Arc<dyn Store>; 2]) -> Self {
        let acquired = Acquired::default();
        let unanswered = Unanswered::default();
        let told = Told::default();
        let since = Instant::now();
        let mut numbers = 0..;
        let engines = stores.map(|store| {
            let store = Witnessed {
                store,
                acquired: Arc::clone(&acquired),
                unanswered: Arc::clone(&unanswered),
                told: Arc::clone(&told),
                engine: numbers.next().unwrap_or_default(),
                since,
            };
            let engine = EngineBuilder::new(Arc::new(store)).store_timeout(STORE_TIMEOUT);
            let operation = engine.build().operation(OPERATION);
            operation
                .in_flight(InFlight::Wait(WAIT))
                .lease(Duration::from_secs(120))
        });
        Self {
            engines,
            shop: Arc::default(),
            acquired,
            unanswered,
            told,
        }
    }

    /// A call that is refused at once where the store cannot answer: its body must not run.
    pub(crate) async fn refused(&self, key: &str) -> Duration {
        let started = Instant::now();
        let body = async { panic!("this body must not run") };
        let fingerprint = Fingerprint::of(key).unwrap();
        let refused: Result<u32, Error> = self.engines[0].run(key, fingerprint, body).await;
        assert!(matches!(refused, Err(Error::Store(_))), "{refused:?}");
        started.elapsed()
    }

    fn acquired(&self, key: &str) -> Vec<Acknowledged> {
        let id = RecordId::derive("", OPERATION, None, &Key::of(key).unwrap());
        let acquired = self.acquired.lock().unwrap();
        acquired.get(&id).cloned().unwrap_or_default()
    }

    fn unanswered(&self, key: &str) -> usize {
        let id = RecordId::derive("", OPERATION, None, &Key::of(key).unwrap());
        let unanswered = self.unanswered.lock().unwrap();
        unanswered.get(&id).map_or(0, Vec::len)
    }

    fn told(&self, key: &str) -> Vec<String> {
        let id = RecordId::derive("", OPERATION, None, &Key::of(key).unwrap());
        self.told.lock().unwrap().remove(&id).unwrap_or_default()
    }

    async fn body(&self, key: &str) -> String {
        let number = idem::attempt().number();
        let acknowledged = self.acquired(key);
        assert!(
            acknowledged.iter().any(|one| one.attempt == number),
            "attempt {number} of {key} runs without a claim: {acknowledged:?}"
        );
        let execution = {
            let mut executions = self.shop.executions.lock().unwrap();
            let execution = executions.entry(key.to_owned()).or_default();
            *execution += 1;
            *execution
        };
        // Work.
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..30))).await;
        format!("execution {execution} of {key}")
    }

    /// Asks one engine until it answers with an outcome.
    pub(crate) async fn ask(&self, engine: usize, key: &str) -> String {
        loop {
            let started = Instant::now();
            let fingerprint = Fingerprint::of(key).unwrap();
            let body = async { Ok::<_, Error>(self.body(key).await) };
            let answer = self.engines[engine].run(key, fingerprint, body);
            let answer = tokio::time::timeout(ANSWER, answer).await;
            let answer = answer.unwrap_or_else(|_| panic!("no answer within {ANSWER:?}"));
            let took = u64::try_from(started.elapsed().as_millis()).unwrap();
            self.shop.longest_ms.fetch_max(took, Ordering::Relaxed);
            self.shop.calls.fetch_add(1, Ordering::Relaxed);
            match answer {
                Ok(outcome) => {
                    self.shop.answered.fetch_add(1, Ordering::Relaxed);
                    return outcome;
                }
                Err(Error::Store(_) | Error::InFlight { .. }) => {
                    self.shop.refused.fetch_add(1, Ordering::Relaxed);
                    // As `Retry-After` says to a client.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn client(self, number: usize, may_forget: bool) {
        for order in 0.. {
            if self.shop.closed.load(Ordering::Acquire) {
                return;
            }
            let key = format!("client {number}, order {order}");
            let (one, other) = tokio::join!(self.ask(0, &key), self.ask(1, &key));
            let again = self.ask(order % 2, &key).await;
            let executions = self.shop.executions.lock().unwrap()[&key];
            if executions == 1 {
                assert_eq!((&one, &other), (&again, &again));
                self.told(&key);
                continue;
            }
            let acknowledged = self.acquired(&key);
            // The server had forgotten the claim, or the outcome, of each of the others.
            let forgotten = let_in_by_a_forgetful_server(&acknowledged, self.unanswered(&key));
            assert!(
                may_forget && executions <= 1 + forgotten,
                "{key} ran {executions} times: {acknowledged:?}:\n{}",
                self.told(&key).join("\n")
            );
        }
    }

    /// Waits until so many more calls have been answered.
    pub(crate) fn recovers(&self, what: &str) {
        let before = self.shop.answered.load(Ordering::Relaxed);
        let what = format!("recovery after {what}");
        wait_until(&what, Duration::from_secs(60), || {
            let answered = self.shop.answered.load(Ordering::Relaxed) - before;
            if answered > 200 {
                Ok(())
            } else {
                Err(format!("{answered} calls answered"))
            }
        });
    }
}

pub(crate) type Faults<'a> = &'a [(&'a str, &'a dyn Fn())];

/// Applies every fault in turn, over and over, for so long; then closes the shop and checks it.
pub(crate) async fn withstands(load: Load, time: Duration, may_forget: bool, faults: Faults<'_>) {
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(load.clone().client(number, may_forget));
    }
    let mut befell = 0;
    tokio::task::block_in_place(|| {
        load.recovers("the start");
        let started = Instant::now();
        // All of them once at least.
        for (what, fault) in faults.iter().cycle() {
            if befell >= faults.len() && started.elapsed() > time {
                break;
            }
            let at = Instant::now();
            fault();
            let over = at.elapsed();
            load.recovers(what);
            println!(
                "{what}: over after {} ms, calls again after {} ms",
                over.as_millis(),
                at.elapsed().as_millis()
            );
            befell += 1;
        }
    });
    load.shop.closed.store(true, Ordering::Release);
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    let executions = load.shop.executions.lock().unwrap();
    let repeated = executions.values().filter(|count| **count > 1).count();
    println!(
        "{befell} faults, {} keys, {} calls, {} refused, {repeated} keys executed again after a \
         forgotten claim, longest call {} ms",
        executions.len(),
        load.shop.calls.load(Ordering::Relaxed),
        load.shop.refused.load(Ordering::Relaxed),
        load.shop.longest_ms.load(Ordering::Relaxed),
    );
}
