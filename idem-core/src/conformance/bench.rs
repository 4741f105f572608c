//! What a case works with: two handles onto the store, a clock, and the questions that show
//! how a record stands. Knows nothing of any particular case.

use std::collections::HashMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::brief::Brief;
use super::harness::Harness;
use crate::fingerprint::Fingerprint;
use crate::listing::{Forgotten, Listing, Page, Seen};
use crate::record::{
    Change, Claim, Claimed, Inspection, Lease, OnCrash, OperationName, Phase, RecordId, Token,
};
use crate::store::{Store, StoreError, Watch};

/// How long one call may take. It bounds a store that hangs, and says nothing of speed.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the records of most cases say of their operation.
const OPERATION: &str = "conformance.case";

/// What is alive for as long as the suite runs, in leases.
const LONG: u32 = 10_000;

/// Why a case failed: what was expected, and what was seen.
#[derive(Clone, Debug)]
pub(super) struct Failure(String);

impl Failure {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(super) type Checked<T = ()> = Result<T, Failure>;

/// One case's view of the store.
#[derive(Clone)]
pub(super) struct Bench {
    /// Two handles onto the same storage: two processes.
    pub(super) a: Handle,
    pub(super) b: Handle,
    pub(super) notifies: bool,
    pub(super) lists_each_once: bool,
    pub(super) claims_again_may_renew: bool,
    lease: Duration,
    clock: Arc<Clock>,
}

impl Bench {
    pub(super) fn new(
        [a, b]: [Arc<dyn Store>; 2],
        harness: &dyn Harness,
        clock: Arc<Clock>,
    ) -> Self {
        let attempts = Attempts::default();
        Self {
            a: Handle(a, attempts.clone()),
            b: Handle(b, attempts),
            notifies: harness.notifies(),
            lists_each_once: harness.lists_each_once(),
            claims_again_may_renew: harness.claims_again_may_renew(),
            lease: harness.lease(),
            clock,
        }
    }

    /// A lifetime that the case outlives with [`pass`](Self::pass), and never needs.
    pub(super) fn short(&self) -> Duration {
        self.lease
    }

    /// A lifetime that holds for as long as the suite runs.
    pub(super) fn long(&self) -> Duration {
        self.lease.saturating_mul(LONG)
    }

    /// A claim of a fresh record that asks for a long lease and a long retention.
    pub(super) fn claim(&self) -> Claim {
        let mut fingerprint = [1; Fingerprint::LEN];
        fingerprint[1..].copy_from_slice(&rand::random::<[u8; 32]>());
        Claim::new(
            RecordId::from_bytes(rand::random()),
            Fingerprint::from_bytes(fingerprint),
            self.long(),
            self.long(),
        )
        .operation(OperationName::new(OPERATION))
    }

    /// Lets a short lifetime pass, or two of them one after the other, with a margin.
    pub(super) async fn pass(&self) {
        self.clock.wait(self.lease.saturating_mul(3)).await;
    }

    /// A record whose first attempt crashed: its lease is over, and nobody has claimed it.
    pub(super) async fn crashed(&self) -> Checked<Claim> {
        let claim = Claim {
            lease: self.short(),
            ..self.claim()
        };
        self.acquire("a claim of a fresh record", &claim, 1).await?;
        self.pass().await;
        Ok(claim)
    }

    /// A record whose first attempt finished.
    pub(super) async fn finished(&self, outcome: &Bytes) -> Checked<Claim> {
        let claim = self.claim();
        self.acquire("a claim of a fresh record", &claim, 1).await?;
        let change = self.a.complete(&claim, outcome, self.long()).await?;
        applied("the completion", change)?;
        Ok(claim)
    }

    /// Claims through the first handle, and expects to run.
    pub(super) async fn acquire(&self, what: &str, claim: &Claim, attempt: u32) -> Checked {
        acquired(what, &self.a.claim(claim).await?, attempt)
    }

    /// The record is running and its lease is alive, as far as every question can tell.
    pub(super) async fn is_running(&self, when: &str, claim: &Claim, attempt: u32) -> Checked {
        for (handle, process) in self.handles() {
            let seen = handle.inspect(&claim.id).await?;
            match &seen {
                Some(Inspection {
                    fingerprint,
                    attempt: number,
                    phase:
                        Phase::Running {
                            lease_left: Some(left),
                        },
                    ..
                }) if *fingerprint == claim.fingerprint
                    && *number == attempt
                    && self.plausible().contains(left) => {}
                _ => {
                    return Err(Failure::new(format!(
                        "{when}, {process} inspect: expected attempt {attempt} with about {:?} of its lease left, got {}",
                        self.long(),
                        Brief(&seen),
                    )));
                }
            }
        }
        for on_crash in [OnCrash::Rerun, OnCrash::Refuse] {
            let other = Claim {
                token: Token::random(),
                on_crash,
                ..*claim
            };
            let answer = self.b.claim(&other).await?;
            match &answer {
                Claimed::InFlight { lease_left } if self.plausible().contains(lease_left) => {}
                _ => {
                    return Err(Failure::new(format!(
                        "{when}, a claim to {on_crash:?}: expected InFlight with about {:?} left, got {}",
                        self.long(),
                        Brief(&answer),
                    )));
                }
            }
        }
        Ok(())
    }

    /// The record is running, its lease is over and nobody has claimed it since.
    pub(super) async fn is_crashed(&self, when: &str, claim: &Claim, attempt: u32) -> Checked {
        self.stands(when, claim, attempt, &Phase::Running { lease_left: None })
            .await?;
        let refusing = Claim {
            token: Token::random(),
            on_crash: OnCrash::Refuse,
            ..*claim
        };
        // Twice: being refused changes nothing either.
        for handle in [&self.b, &self.a] {
            same(
                &format!("{when}, a claim to refuse"),
                &handle.claim(&refusing).await?,
                &Claimed::OutcomeUnknown { attempt },
            )?;
        }
        Ok(())
    }

    /// The record is finished with exactly this outcome.
    pub(super) async fn is_finished(
        &self,
        when: &str,
        claim: &Claim,
        attempt: u32,
        outcome: &Bytes,
    ) -> Checked {
        let finished = Phase::Finished {
            outcome: outcome.clone(),
        };
        self.stands(when, claim, attempt, &finished).await?;
        for on_crash in [OnCrash::Rerun, OnCrash::Refuse] {
            let other = Claim {
                token: Token::random(),
                on_crash,
                ..*claim
            };
            replayed(
                &format!("{when}, a claim to {on_crash:?}"),
                &self.b.claim(&other).await?,
                outcome,
            )?;
        }
        Ok(())
    }

    /// The record is as it should be for both processes.
    pub(super) async fn stands(
        &self,
        when: &str,
        claim: &Claim,
        attempt: u32,
        phase: &Phase,
    ) -> Checked {
        for (handle, process) in self.handles() {
            let seen = handle.inspect(&claim.id).await?;
            match &seen {
                Some(seen)
                    if seen.fingerprint == claim.fingerprint
                        && seen.attempt == attempt
                        && seen.phase == *phase => {}
                _ => {
                    return Err(Failure::new(format!(
                        "{when}, {process} inspect: expected attempt {attempt}, {phase:?}, got {}",
                        Brief(&seen),
                    )));
                }
            }
        }
        Ok(())
    }

    /// The steps that the record holds, for both processes.
    pub(super) async fn has_steps(&self, when: &str, claim: &Claim, steps: &Bytes) -> Checked {
        for (handle, process) in self.handles() {
            let seen = handle.inspect(&claim.id).await?;
            let seen = seen.map(|record| record.steps).unwrap_or_default();
            same(&format!("{when}, {process} steps"), &seen, steps)?;
        }
        Ok(())
    }

    /// There is no record.
    pub(super) async fn is_absent(&self, when: &str, claim: &Claim) -> Checked {
        for (handle, process) in self.handles() {
            let seen = handle.inspect(&claim.id).await?;
            same(&format!("{when}, {process} inspect"), &seen, &None)?;
        }
        Ok(())
    }

    /// There is no record, and whoever claims is the first. Leaves it running.
    pub(super) async fn is_free(&self, when: &str, claim: &Claim) -> Checked {
        self.is_absent(when, claim).await?;
        // Another fingerprint: nothing of the record may be left.
        let fresh = Claim {
            id: claim.id,
            ..self.claim()
        };
        self.acquire(&format!("{when}, a claim"), &fresh, 1).await
    }

    /// Each change, tried with `token` from both processes, is refused. The caller shows
    /// that nothing changed.
    pub(super) async fn refuses(&self, who: &str, id: &RecordId, token: Token) -> Checked {
        let claim = Claim {
            id: *id,
            token,
            ..self.claim()
        };
        let outcome = Bytes::from_static(b"an outcome that is nobody's");
        for (handle, _) in self.handles() {
            // Shorter and longer than what is there: either would show.
            for time in [self.short(), self.long().saturating_mul(3)] {
                lost(
                    &format!("a renewal by {who}"),
                    handle.renew(&claim, time, time).await?,
                )?;
                lost(
                    &format!("a completion by {who}"),
                    handle.complete(&claim, &outcome, time).await?,
                )?;
            }
            lost(
                &format!("a checkpoint by {who}"),
                handle.checkpoint(&claim, 0, &outcome).await?,
            )?;
            lost(
                &format!("a suspension by {who}"),
                handle.suspend(&claim).await?,
            )?;
            lost(
                &format!("an abandonment by {who}"),
                handle.abandon(&claim).await?,
            )?;
            lost(
                &format!("a release by {who}"),
                handle.release(&claim).await?,
            )?;
        }
        Ok(())
    }

    /// What may be left of a long lease while the suite runs. A store may round.
    pub(super) fn plausible(&self) -> RangeInclusive<Duration> {
        self.long() / 2..=self.long().saturating_add(self.lease)
    }

    fn handles(&self) -> [(&Handle, &'static str); 2] {
        [
            (&self.a, "the first handle's"),
            (&self.b, "the second handle's"),
        ]
    }
}

/// The attempt's number that the claim with each token was told, as its owner knows it.
type Attempts = Arc<Mutex<HashMap<[u8; 16], u32>>>;

/// A store whose every call is bounded, and whose errors are failures.
#[derive(Clone)]
pub(super) struct Handle(Arc<dyn Store>, Attempts);

impl Handle {
    pub(super) async fn claim(&self, claim: &Claim) -> Checked<Claimed> {
        let claimed = bounded("claim", self.0.claim(claim)).await?;
        if let Claimed::Acquired { attempt, .. } = claimed {
            self.attempts().insert(*claim.token.as_bytes(), attempt);
        }
        Ok(claimed)
    }

    /// So many bytes, or as many as a record of this store can hold.
    pub(super) fn at_most(&self, bytes: usize) -> usize {
        self.0
            .max_outcome_bytes()
            .map_or(bytes, |most| most.min(bytes))
    }

    fn attempts(&self) -> MutexGuard<'_, HashMap<[u8; 16], u32>> {
        self.1.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the owner of a claim says of a lease that may have had a break: it changes what is
    /// there, and creates nothing.
    fn broken(&self, claim: &Claim) -> Lease {
        let attempt = self.attempts().get(claim.token.as_bytes()).copied();
        Lease {
            unbroken: false,
            ..Lease::of(claim, attempt.unwrap_or(1))
        }
    }

    pub(super) async fn renew(
        &self,
        held: &Claim,
        lease: Duration,
        retention: Duration,
    ) -> Checked<Change> {
        let renewed = self.broken(&held.lease(lease).retention(retention));
        bounded("renew", self.0.renew(&renewed)).await
    }

    pub(super) async fn complete(
        &self,
        held: &Claim,
        outcome: &Bytes,
        retention: Duration,
    ) -> Checked<Change> {
        let completed = self.broken(&held.retention(retention));
        bounded("complete", self.0.complete(&completed, outcome.clone())).await
    }

    /// As [`renew`](Self::renew), by an owner whose lease is unbroken.
    pub(super) async fn renew_unbroken(&self, held: &Claim, attempt: u32) -> Checked<Change> {
        bounded("renew", self.0.renew(&Lease::of(held, attempt))).await
    }

    /// As [`complete`](Self::complete), by an owner whose lease is unbroken.
    pub(super) async fn complete_unbroken(
        &self,
        held: &Claim,
        attempt: u32,
        outcome: &Bytes,
    ) -> Checked<Change> {
        let call = Lease::of(held, attempt);
        bounded("complete", self.0.complete(&call, outcome.clone())).await
    }

    pub(super) async fn release(&self, held: &Claim) -> Checked<Change> {
        bounded("release", self.0.release(&held.id, &held.token)).await
    }

    pub(super) async fn abandon(&self, held: &Claim) -> Checked<Change> {
        bounded("abandon", self.0.abandon(&held.id, &held.token)).await
    }

    pub(super) async fn checkpoint(
        &self,
        held: &Claim,
        at: usize,
        steps: &Bytes,
    ) -> Checked<Change> {
        let held = self.broken(held);
        bounded("checkpoint", self.0.checkpoint(&held, at, steps.clone())).await
    }

    pub(super) async fn suspend(&self, held: &Claim) -> Checked<Change> {
        bounded("suspend", self.0.suspend(&held.id, &held.token)).await
    }

    pub(super) async fn list(&self, listing: &Listing) -> Checked<Page> {
        bounded("list", self.0.list(listing)).await
    }

    pub(super) async fn forget(&self, id: &RecordId) -> Checked<Forgotten> {
        bounded("forget", self.0.forget(id)).await
    }

    /// `None` where the store takes no orders of operators.
    pub(super) async fn forget_seen(
        &self,
        id: &RecordId,
        seen: Seen,
    ) -> Checked<Option<Forgotten>> {
        match self.0.maintenance() {
            Some(store) => bounded("forget_seen", store.forget_seen(id, seen))
                .await
                .map(Some),
            None => Ok(None),
        }
    }

    /// `None` where the store takes no orders of operators.
    pub(super) async fn revoke(&self, id: &RecordId, attempt: u32) -> Checked<Option<Change>> {
        match self.0.maintenance() {
            Some(store) => bounded("revoke", store.revoke(id, attempt)).await.map(Some),
            None => Ok(None),
        }
    }

    pub(super) async fn inspect(&self, id: &RecordId) -> Checked<Option<Inspection>> {
        bounded("inspect", self.0.inspect(id)).await
    }

    pub(super) async fn watch(&self, id: &RecordId) -> Checked<Watch> {
        bounded("watch", self.0.watch(id)).await
    }
}

async fn bounded<T>(method: &str, call: impl Future<Output = Result<T, StoreError>>) -> Checked<T> {
    match in_time(method, call).await? {
        Ok(answer) => Ok(answer),
        Err(error) => {
            let mut message = format!("{method} failed: {error}");
            let mut cause = std::error::Error::source(&error);
            while let Some(source) = cause {
                message.push_str(&format!(": {source}"));
                cause = source.source();
            }
            Err(Failure(message))
        }
    }
}

/// Waits for what has to come, and does not hang when it does not.
pub(super) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> Checked<T> {
    timeout(PATIENCE, future)
        .await
        .map_err(|_| Failure(format!("{what} gave no answer within {PATIENCE:?}")))
}

/// The answers of calls that ran as tasks of their own.
pub(super) async fn gather<T: 'static>(mut calls: JoinSet<Checked<T>>) -> Checked<Vec<T>> {
    let mut answers = Vec::with_capacity(calls.len());
    while let Some(ended) = calls.join_next().await {
        answers.push(match ended {
            Ok(answer) => answer?,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => return Err(panicked(&*panic)),
                Err(error) => return Err(Failure(format!("a call did not end: {error}"))),
            },
        });
    }
    Ok(answers)
}

/// The failure that a panic is.
pub(super) fn panicked(panic: &(dyn std::any::Any + Send)) -> Failure {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message");
    Failure(format!("panicked: {message}"))
}

pub(super) fn acquired(what: &str, answer: &Claimed, attempt: u32) -> Checked {
    takes_over(what, answer, attempt, &Bytes::new())
}

/// The right to run this attempt, with these steps of those before it.
pub(super) fn takes_over(what: &str, answer: &Claimed, attempt: u32, steps: &Bytes) -> Checked {
    let expected = Claimed::Acquired {
        attempt,
        steps: steps.clone(),
    };
    same(what, answer, &expected)
}

/// A replay of exactly this outcome.
pub(super) fn replayed(what: &str, answer: &Claimed, expected: &Bytes) -> Checked {
    match answer {
        Claimed::Finished { outcome, .. } => same(what, outcome, expected),
        other => {
            let (expected, other) = (Brief(expected), Brief(other));
            Err(Failure(format!(
                "{what}: expected a replay of {expected}, got {other}"
            )))
        }
    }
}

pub(super) fn applied(what: &str, change: Change) -> Checked {
    same(what, &change, &Change::Applied)
}

pub(super) fn lost(what: &str, change: Change) -> Checked {
    same(what, &change, &Change::LeaseLost)
}

pub(super) fn same<T: PartialEq>(what: &str, seen: &T, expected: &T) -> Checked
where
    for<'a> Brief<'a, T>: fmt::Display,
{
    if seen == expected {
        return Ok(());
    }
    let (expected, seen) = (Brief(expected), Brief(seen));
    Err(Failure(format!("{what}: expected {expected}, got {seen}")))
}

/// Where cases wait for time to pass, until the runner has let it.
#[derive(Debug, Default)]
pub(super) struct Clock(Mutex<Wish>);

#[derive(Debug, Default)]
struct Wish {
    wanted: Option<Duration>,
    moved: u64,
}

impl Clock {
    async fn wait(&self, by: Duration) {
        let seen = {
            let mut wish = self.lock();
            wish.wanted = Some(by);
            wish.moved
        };
        // The runner polls again after it has moved the clock: no waker is needed.
        poll_fn(|_| match self.lock().moved > seen {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
    }

    /// What the case that was just polled waits for, if it waits for time.
    pub(super) fn take_wish(&self) -> Option<Duration> {
        self.lock().wanted.take()
    }

    /// Time has passed: every waiting case may go on.
    pub(super) fn has_moved(&self) {
        self.lock().moved += 1;
    }

    fn lock(&self) -> MutexGuard<'_, Wish> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
