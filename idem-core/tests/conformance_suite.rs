//! The suite passes correct stores, and says of each broken one which promise it breaks.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt;
use idem_core::conformance::faults::{Fault, FaultyStore, Method};
use idem_core::conformance::{self, Harness, ReferenceStore, Report};
use idem_core::{
    Change, Claim, Claimed, Finding, Fingerprint, Forgotten, Inspection, Lease, Listing,
    Maintenance, OnCrash, OperationName, Page, Phase, RecordId, Seen, Store, StoreError, Swept,
    Token, Watch,
};
use tokio::task::{JoinSet, yield_now};

const LEASE: Duration = Duration::from_secs(30);

/// A store over a [`ReferenceStore`], whose clock is moved by hand.
struct Bench {
    reference: ReferenceStore,
    /// How often the clock was moved.
    ticks: Arc<AtomicU64>,
    store: Arc<dyn Store>,
    notifies: bool,
}

impl Bench {
    fn new<S: Store>(over: impl FnOnce(ReferenceStore) -> S) -> Self {
        let reference = ReferenceStore::default();
        Self {
            store: Arc::new(over(reference.clone())),
            reference,
            ticks: Arc::default(),
            notifies: true,
        }
    }

    fn broken(bug: Bug) -> Self {
        let ticks: Arc<AtomicU64> = Arc::default();
        Self {
            ticks: Arc::clone(&ticks),
            ..Self::new(|reference| Broken::new(reference, bug, ticks))
        }
    }
}

#[async_trait]
impl Harness for Bench {
    async fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn advance(&self, by: Duration) {
        self.reference.advance(by);
        self.ticks.fetch_add(1, Ordering::Relaxed);
    }

    fn lease(&self) -> Duration {
        LEASE
    }

    fn notifies(&self) -> bool {
        self.notifies
    }
}

// ---- Correct stores ----------------------------------------------------------------------

#[tokio::test]
async fn the_reference_store_conforms() {
    conformance::assert_conforms(&Bench::new(|reference| reference)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_reference_store_conforms_in_parallel() {
    conformance::assert_conforms(&Bench::new(|reference| reference)).await;
}

#[tokio::test]
async fn a_faulty_store_without_faults_conforms() {
    conformance::assert_conforms(&Bench::new(|store| FaultyStore::new(Arc::new(store)))).await;
}

#[tokio::test]
async fn a_store_that_only_polls_conforms() {
    let bench = Bench {
        notifies: false,
        ..Bench::broken(Bug::WatchNeverWakes)
    };
    conformance::assert_conforms(&bench).await;
}

/// Real time, and a store so slow that an operation often outlasts a short lease.
#[tokio::test]
async fn a_store_slower_than_its_leases_conforms() {
    struct RealTime(Bench);

    #[async_trait]
    impl Harness for RealTime {
        async fn store(&self) -> Arc<dyn Store> {
            self.0.store().await
        }

        async fn advance(&self, by: Duration) {
            tokio::time::sleep(by).await;
            self.0.advance(by).await;
        }

        fn lease(&self) -> Duration {
            Duration::from_millis(2)
        }

        fn notifies(&self) -> bool {
            true
        }
    }

    conformance::assert_conforms(&RealTime(Bench::broken(Bug::Slow))).await;
}

#[tokio::test]
async fn the_broken_store_without_its_bug_conforms() {
    conformance::assert_conforms(&Bench::broken(Bug::None)).await;
}

/// A check may run on a task of its own.
#[tokio::test]
async fn a_check_can_be_spawned() {
    let check = async { conformance::check(&Bench::new(|reference| reference)).await };
    assert!(tokio::spawn(check).await.unwrap().conforms());
}

// ---- Broken stores -----------------------------------------------------------------------

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    None,
    Slow,
    CompletesForAnyToken,
    CompletesForAnyTokenAndDeniesIt,
    RenewsForAnyToken,
    ReleasesForAnyToken,
    AbandonsForAnyToken,
    AbandonedTokenCompletes,
    ChecksThenInserts,
    LateTimerDeletesFreshClaim,
    LazyExpiryDeletesFreshClaim,
    DoesNotRecogniseItself,
    IgnoresMismatch,
    MismatchOverwrites,
    NeverExpires,
    OneRetentionForAll,
    OneLifetimeForLockAndRecord,
    ReplayExtendsRetention,
    ReplayPromisesTheWholeRetention,
    RenewsOnlyTheLease,
    RenewalDoesNothing,
    TakeoverKeepsAttempt,
    TakesOverTwice,
    EmptyIsAbsent,
    TruncatesOutcomes,
    LossyText,
    AbandonDoesNothing,
    RefuseReruns,
    CompletionOverwrites,
    RefusesCompletionAgain,
    IgnoresTheLastBit,
    NeverCreatesAgain,
    CreatesAgainAlways,
    CreatesAgainAsTheFirst,
    CreatesAgainOverAnother,
    LooksThenCreatesAgain,
    ChecksNoTokenOfSteps,
    AppendsAgain,
    AppendsPastGaps,
    RenewsWithSteps,
    TakeoverForgetsSteps,
    ReleaseForgetsSteps,
    SuspensionFrees,
    SuspensionIsACrash,
    SuspendsForAnyToken,
    SaysNothingOfItsOperation,
    ListSkipsOne,
    ListIgnoresStates,
    ForgetsTheLiving,
    WatchNeverWakes,
    RevokesAnyAttempt,
    ForgetsWhateverIsThere,
    ForgetsAnyAttempt,
    ForgetsAnyState,
    Panics,
    Fails,
}

/// A [`ReferenceStore`] with one fault of those seen in the field.
///
/// What only a store's inside could do wrong is done with another record in its place: the
/// record known as `id` is the one that `aliases` names.
struct Broken {
    inner: ReferenceStore,
    bug: Bug,
    known: Mutex<HashMap<RecordId, Known>>,
    ticks: Arc<AtomicU64>,
    calls: AtomicU64,
}

#[derive(Clone, Copy, Default)]
struct Known {
    /// Who acquired the record last.
    holder: Option<Token>,
    abandoned: bool,
    alias: Option<RecordId>,
    /// The tick at which a timer, started by a completion, deletes what it finds.
    timer: Option<u64>,
    /// The record has been finished before.
    expires: bool,
}

impl Broken {
    fn new(inner: ReferenceStore, bug: Bug, ticks: Arc<AtomicU64>) -> Self {
        Self {
            inner,
            bug,
            known: Mutex::default(),
            ticks,
            calls: AtomicU64::new(0),
        }
    }

    fn is(&self, bug: Bug) -> bool {
        self.bug == bug
    }

    /// Where the record known as `name` is.
    async fn enter(&self, name: &RecordId) -> Result<RecordId, StoreError> {
        yield_now().await;
        assert!(!self.is(Bug::Panics), "the store is broken");
        let calls = self.calls.fetch_add(1, Ordering::Relaxed);
        match self.bug {
            Bug::Slow if calls.is_multiple_of(11) => {
                self.inner.advance(Duration::from_millis(4));
            }
            Bug::Fails => {
                return Err(StoreError::Full {
                    store: "broken",
                    max_bytes: Some(0),
                });
            }
            Bug::IgnoresTheLastBit => {
                let mut bytes = *name.as_bytes();
                bytes[31] &= 0xfe;
                return Ok(RecordId::from_bytes(bytes));
            }
            _ => {}
        }
        let now = self.ticks.load(Ordering::Relaxed);
        if self
            .known(name, |known| known.timer.take_if(|due| *due <= now))
            .is_some()
        {
            self.delete(name);
        }
        Ok(self.known(name, |known| known.alias).unwrap_or(*name))
    }

    fn known<T>(&self, id: &RecordId, look: impl FnOnce(&mut Known) -> T) -> T {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        look(known.entry(*id).or_default())
    }

    /// The record is gone, whatever it was.
    fn delete(&self, id: &RecordId) -> RecordId {
        let fresh = RecordId::from_bytes(std::array::from_fn(|_| Token::random().as_bytes()[0]));
        self.known(id, |known| known.alias = Some(fresh));
        fresh
    }

    /// What an owner says of its lease, as this store takes it.
    async fn creating(&self, said: &Lease) -> Result<Lease, StoreError> {
        let mut lease = *said;
        lease.id = self.enter(&said.id).await?;
        match self.bug {
            Bug::NeverCreatesAgain => lease.unbroken = false,
            Bug::CreatesAgainAlways => lease.unbroken = true,
            Bug::CreatesAgainAsTheFirst => lease.attempt = 1,
            Bug::CreatesAgainOverAnother if said.unbroken => {
                lease.id = self.delete(&said.id);
            }
            Bug::LooksThenCreatesAgain
                if said.unbroken && self.inner.inspect(&lease.id).await?.is_none() =>
            {
                yield_now().await;
                lease.id = self.delete(&said.id);
            }
            _ => {}
        }
        Ok(lease)
    }

    /// The holder's token in the place of any other, where the bug is that nobody looks.
    fn unchecked(&self, bug: Bug, id: &RecordId, token: &Token) -> Token {
        match self.known(id, |known| known.holder) {
            Some(holder) if self.is(bug) => holder,
            _ => *token,
        }
    }
}

#[async_trait]
impl Store for Broken {
    fn name(&self) -> &'static str {
        "broken"
    }

    fn maintenance(&self) -> Option<&dyn Maintenance> {
        Some(self)
    }

    async fn claim(&self, original: &Claim) -> Result<Claimed, StoreError> {
        let name = original.id;
        let mut claim = *original;
        claim.id = self.enter(&name).await?;
        if self.is(Bug::SaysNothingOfItsOperation) {
            claim.operation = OperationName::UNKNOWN;
        }
        let found = self.inner.inspect(&claim.id).await?;
        let expired = found.is_none() && self.known(&name, |known| known.expires);
        let deletes = match self.bug {
            Bug::ChecksThenInserts => found.is_none(),
            Bug::LazyExpiryDeletesFreshClaim => expired,
            _ => false,
        };
        if deletes {
            yield_now().await;
            claim.id = self.delete(&name);
        }
        if let Some(found) = &found {
            let over = matches!(found.phase, Phase::Running { lease_left: None });
            let own = self.known(&name, |known| known.holder) == Some(claim.token);
            match self.bug {
                Bug::IgnoresMismatch => claim.fingerprint = found.fingerprint,
                Bug::MismatchOverwrites if claim.fingerprint != found.fingerprint => {
                    claim.id = self.delete(&name);
                }
                Bug::DoesNotRecogniseItself if own => claim.token = Token::random(),
                Bug::TakesOverTwice if over => {
                    yield_now().await;
                    let second = self.inner.inspect(&claim.id).await?;
                    if second.is_some_and(|second| second.attempt > found.attempt) {
                        return Ok(Claimed::acquired(found.attempt + 1));
                    }
                }
                _ => {}
            }
        }
        match self.bug {
            Bug::OneLifetimeForLockAndRecord => claim.retention = Duration::ZERO,
            Bug::RefuseReruns => claim.on_crash = OnCrash::Rerun,
            _ => {}
        }
        let answer = self.inner.claim(&claim).await?;
        match &answer {
            Claimed::Acquired { .. } => {
                self.known(&name, |known| {
                    known.holder = Some(claim.token);
                    known.abandoned = false;
                });
            }
            Claimed::Finished { outcome, .. } if self.is(Bug::ReplayExtendsRetention) => {
                // The same record, finished again just now.
                let mut replayed = claim;
                replayed.id = self.delete(&name);
                let lease = Lease::of(&replayed, 1);
                let _ = self.inner.complete(&lease, outcome.clone()).await?;
            }
            _ => {}
        }
        Ok(match answer {
            Claimed::Acquired { .. } if self.is(Bug::TakeoverKeepsAttempt) => Claimed::acquired(1),
            Claimed::Acquired { attempt, .. } if self.is(Bug::TakeoverForgetsSteps) => {
                Claimed::acquired(attempt)
            }
            Claimed::Finished { outcome, .. } if self.is(Bug::ReplayPromisesTheWholeRetention) => {
                Claimed::Finished {
                    outcome,
                    retention_left: Some(claim.retention),
                    claimed_at: None,
                }
            }
            answer => answer,
        })
    }

    async fn renew(&self, renewed: &Lease) -> Result<Change, StoreError> {
        let name = &renewed.id;
        let mut lease = self.creating(renewed).await?;
        lease.token = self.unchecked(Bug::RenewsForAnyToken, name, &renewed.token);
        match self.bug {
            Bug::RenewalDoesNothing => return Ok(Change::Applied),
            // The record still goes when it would have gone.
            Bug::RenewsOnlyTheLease | Bug::OneLifetimeForLockAndRecord => {
                lease.retention = Duration::ZERO;
            }
            _ => {}
        }
        self.inner.renew(&lease).await
    }

    async fn complete(&self, completed: &Lease, outcome: Bytes) -> Result<Change, StoreError> {
        let name = &completed.id;
        let mut lease = self.creating(completed).await?;
        let mut id = lease.id;
        let mut token = self.unchecked(Bug::CompletesForAnyToken, name, &completed.token);
        let found = self.inner.inspect(&id).await?;
        let finished = matches!(
            found,
            Some(Inspection {
                phase: Phase::Finished { .. },
                ..
            })
        );
        let mut denies = false;
        if self.is(Bug::CompletesForAnyTokenAndDeniesIt) {
            let unchecked = self.unchecked(self.bug, name, &token);
            denies = unchecked != token;
            token = unchecked;
        }
        let own = self.known(name, |known| known.holder) == Some(token);
        let abandoned = self.known(name, |known| known.abandoned);
        match (self.bug, &found) {
            (Bug::EmptyIsAbsent, _) if outcome.is_empty() => {
                return self.inner.release(&id, &token).await;
            }
            (Bug::RefusesCompletionAgain, _) if finished => return Ok(Change::LeaseLost),
            (Bug::CompletionOverwrites, Some(found)) if own && finished => {
                id = self.delete(name);
                let again = claim_of(id, token, found.fingerprint);
                let _ = self.inner.claim(&again).await?;
            }
            (Bug::AbandonedTokenCompletes, Some(found)) if own && abandoned => {
                // Nobody's, and the token's all the same.
                let again = claim_of(id, Token::random(), found.fingerprint);
                if let Claimed::Acquired { .. } = self.inner.claim(&again).await? {
                    token = again.token;
                }
            }
            _ => {}
        }
        let outcome = match self.bug {
            Bug::TruncatesOutcomes => outcome.slice(..outcome.len().min(65_536)),
            Bug::LossyText => String::from_utf8_lossy(&outcome).into_owned().into(),
            _ => outcome,
        };
        let retention = match self.bug {
            Bug::NeverExpires => Duration::MAX,
            Bug::OneRetentionForAll => LEASE,
            _ => completed.retention,
        };
        self.known(name, |known| known.expires = true);
        if self.is(Bug::LateTimerDeletesFreshClaim) && !finished && retention == LEASE {
            let due = self.ticks.load(Ordering::Relaxed) + 2;
            self.known(name, |known| known.timer = Some(due));
        }
        lease.id = id;
        lease.token = token;
        lease.retention = retention;
        let change = self.inner.complete(&lease, outcome).await?;
        Ok(if denies { Change::LeaseLost } else { change })
    }

    async fn release(&self, name: &RecordId, token: &Token) -> Result<Change, StoreError> {
        let id = self.enter(name).await?;
        let token = self.unchecked(Bug::ReleasesForAnyToken, name, token);
        if self.is(Bug::ReleaseForgetsSteps) {
            let change = self.inner.release(&id, &token).await?;
            if change == Change::Applied {
                self.delete(name);
            }
            return Ok(change);
        }
        self.inner.release(&id, &token).await
    }

    async fn abandon(&self, name: &RecordId, token: &Token) -> Result<Change, StoreError> {
        let id = self.enter(name).await?;
        let token = self.unchecked(Bug::AbandonsForAnyToken, name, token);
        match self.bug {
            Bug::AbandonDoesNothing => Ok(Change::Applied),
            _ => {
                let change = self.inner.abandon(&id, &token).await?;
                if change == Change::Applied {
                    self.known(name, |known| known.abandoned = true);
                }
                Ok(change)
            }
        }
    }

    async fn inspect(&self, name: &RecordId) -> Result<Option<Inspection>, StoreError> {
        let id = self.enter(name).await?;
        self.inner.inspect(&id).await
    }

    async fn watch(&self, name: &RecordId) -> Result<Watch, StoreError> {
        let id = self.enter(name).await?;
        match self.bug {
            Bug::WatchNeverWakes => Ok(Watch::never()),
            _ => self.inner.watch(&id).await,
        }
    }

    async fn checkpoint(
        &self,
        appending: &Lease,
        at: usize,
        steps: Bytes,
    ) -> Result<Change, StoreError> {
        let name = &appending.id;
        let mut lease = *appending;
        lease.id = self.enter(name).await?;
        lease.token = self.unchecked(Bug::ChecksNoTokenOfSteps, name, &appending.token);
        let found = self.inner.inspect(&lease.id).await?;
        let end = found.map_or(0, |found| found.steps.len());
        let at = match self.bug {
            Bug::AppendsAgain => end,
            Bug::AppendsPastGaps => at.min(end),
            _ => at,
        };
        let change = self.inner.checkpoint(&lease, at, steps).await?;
        if self.is(Bug::RenewsWithSteps) && change == Change::Applied {
            return self.inner.renew(&lease).await;
        }
        Ok(change)
    }

    async fn suspend(&self, name: &RecordId, token: &Token) -> Result<Change, StoreError> {
        let id = self.enter(name).await?;
        let token = self.unchecked(Bug::SuspendsForAnyToken, name, token);
        match self.bug {
            Bug::SuspensionFrees => self.inner.release(&id, &token).await,
            Bug::SuspensionIsACrash => self.inner.abandon(&id, &token).await,
            _ => self.inner.suspend(&id, &token).await,
        }
    }

    async fn list(&self, listing: &Listing) -> Result<Page, StoreError> {
        yield_now().await;
        assert!(!self.is(Bug::Panics), "the store is broken");
        let mut asked = listing.clone();
        match self.bug {
            Bug::Fails => {
                return Err(StoreError::Full {
                    store: "broken",
                    max_bytes: Some(0),
                });
            }
            Bug::ListIgnoresStates => asked.state = None,
            _ => {}
        }
        let mut page = self.inner.list(&asked).await?;
        if self.is(Bug::ListSkipsOne) && page.next.is_some() {
            page.records.pop();
        }
        Ok(page)
    }

    async fn forget(&self, name: &RecordId) -> Result<Forgotten, StoreError> {
        let id = self.enter(name).await?;
        if self.is(Bug::ForgetsTheLiving) {
            self.delete(name);
            return Ok(Forgotten::Removed);
        }
        self.inner.forget(&id).await
    }
}

#[async_trait]
impl Maintenance for Broken {
    async fn time(&self) -> Result<SystemTime, StoreError> {
        Maintenance::time(&self.inner).await
    }

    async fn examine(&self) -> Result<Vec<Finding>, StoreError> {
        self.inner.examine().await
    }

    async fn sweep(&self, max_records: u32) -> Result<Swept, StoreError> {
        Maintenance::sweep(&self.inner, max_records).await
    }

    async fn revoke(&self, name: &RecordId, attempt: u32) -> Result<Change, StoreError> {
        let id = self.enter(name).await?;
        let newest = self.inner.inspect(&id).await?.map(|found| found.attempt);
        match (self.bug, newest) {
            (Bug::RevokesAnyAttempt, Some(newest)) => self.inner.revoke(&id, newest).await,
            _ => self.inner.revoke(&id, attempt).await,
        }
    }

    async fn forget_seen(&self, name: &RecordId, seen: Seen) -> Result<Forgotten, StoreError> {
        let id = self.enter(name).await?;
        let found = self.inner.inspect(&id).await?;
        let mut asked = found.as_ref().map_or(seen, Seen::of);
        match self.bug {
            Bug::ForgetsWhateverIsThere => {}
            Bug::ForgetsAnyAttempt => asked.state = seen.state,
            Bug::ForgetsAnyState => asked.attempt = seen.attempt,
            _ => asked = seen,
        }
        self.inner.forget_seen(&id, asked).await
    }
}

fn claim_of(id: RecordId, token: Token, fingerprint: Fingerprint) -> Claim {
    let mut claim = Claim::new(id, fingerprint, LEASE * 10_000, LEASE * 10_000);
    claim.token = token;
    claim
}

/// Each broken store is caught by at least these cases.
macro_rules! caught {
    ($($test:ident: $bug:ident by [$($promise:literal),+ $(,)?];)*) => {$(
        #[tokio::test(start_paused = true)]
        async fn $test() {
            let report = conformance::check(&Bench::broken(Bug::$bug)).await;
            $(assert!(
                report.failed().iter().any(|(case, _)| *case == $promise),
                "{:?} is not among: {report}",
                $promise,
            );)+
        }
    )*};
}

caught! {
    completing_for_any_token_is_caught: CompletesForAnyToken by [
        "another token changes nothing while the lease is alive",
        "a paused owner changes nothing after it was taken over",
    ];
    completing_for_any_token_and_denying_it_is_caught: CompletesForAnyTokenAndDeniesIt by [
        "another token changes nothing while the lease is alive",
        "another token changes nothing after a crash",
        "a paused owner changes nothing after it was taken over",
    ];
    renewing_for_any_token_is_caught: RenewsForAnyToken by [
        "another token changes nothing while the lease is alive",
        "a paused owner changes nothing after it was taken over",
    ];
    releasing_for_any_token_is_caught: ReleasesForAnyToken by [
        "another token changes nothing while the lease is alive",
        "a paused owner changes nothing after it was taken over",
        "a release sent again does not free the next claim",
    ];
    abandoning_for_any_token_is_caught: AbandonsForAnyToken by [
        "another token changes nothing while the lease is alive",
        "a paused owner changes nothing after it was taken over",
    ];
    completing_what_was_abandoned_is_caught: AbandonedTokenCompletes by [
        "no token changes an abandoned record",
    ];
    check_then_insert_is_caught: ChecksThenInserts by [
        "of claims at once exactly one acquires",
    ];
    taking_a_crash_over_twice_is_caught: TakesOverTwice by [
        "of claims at once after a crash exactly one takes over",
    ];
    a_late_timer_that_deletes_a_fresh_claim_is_caught: LateTimerDeletesFreshClaim by [
        "the end of an old record's retention does not touch its successor",
    ];
    a_lazy_expiry_that_deletes_a_fresh_claim_is_caught: LazyExpiryDeletesFreshClaim by [
        "of claims at once after a retention exactly one acquires",
    ];
    a_claim_that_does_not_recognise_itself_is_caught: DoesNotRecogniseItself by [
        "a claim sent again recognises itself and makes no second attempt",
        "a claim sent twice at once is one attempt",
        "a call dropped at any point may be sent again",
    ];
    an_ignored_mismatch_is_caught: IgnoresMismatch by [
        "another fingerprint is a mismatch while the lease is alive",
        "another fingerprint is a mismatch after a crash",
        "another fingerprint is a mismatch when finished",
    ];
    a_mismatch_that_overwrites_is_caught: MismatchOverwrites by [
        "another fingerprint is a mismatch while the lease is alive",
        "another fingerprint is a mismatch after a crash",
        "another fingerprint is a mismatch when finished",
    ];
    no_retention_is_caught: NeverExpires by [
        "a finished record is kept for its retention and then absent",
    ];
    one_retention_for_all_is_caught: OneRetentionForAll by [
        "each record has its own retention",
        "a completion sets the retention",
    ];
    one_lifetime_for_lock_and_record_is_caught: OneLifetimeForLockAndRecord by [
        "a running record outlives its lease by its retention",
        "a claim to refuse leaves a crashed attempt as it is",
    ];
    a_replay_that_extends_the_retention_is_caught: ReplayExtendsRetention by [
        "a replay does not move the retention",
    ];
    a_replay_that_is_said_to_be_kept_too_long_is_caught: ReplayPromisesTheWholeRetention by [
        "a replay that is asked how long it is kept does not say too long",
    ];
    a_renewal_that_forgets_the_retention_is_caught: RenewsOnlyTheLease by [
        "a renewal moves the retention",
    ];
    a_renewal_that_does_nothing_is_caught: RenewalDoesNothing by [
        "a renewal moves the lease",
    ];
    a_takeover_under_the_old_number_is_caught: TakeoverKeepsAttempt by [
        "a claim to rerun takes a crashed attempt over as the next one",
    ];
    an_empty_outcome_taken_for_none_is_caught: EmptyIsAbsent by [
        "an empty outcome is an outcome",
    ];
    a_truncated_outcome_is_caught: TruncatesOutcomes by [
        "an outcome of a mebibyte is kept",
    ];
    an_outcome_kept_as_text_is_caught: LossyText by [
        "an outcome of every byte value is kept",
        "an outcome that looks like text, JSON or nothing is kept",
    ];
    an_abandonment_that_does_nothing_is_caught: AbandonDoesNothing by [
        "an abandonment ends the lease at once",
    ];
    a_refusal_that_reruns_is_caught: RefuseReruns by [
        "a claim to refuse leaves a crashed attempt as it is",
        "of claims at once after a crash none is acquired when they refuse",
    ];
    a_completion_that_overwrites_is_caught: CompletionOverwrites by [
        "a completion sent again is applied and changes nothing",
    ];
    a_completion_refused_when_sent_again_is_caught: RefusesCompletionAgain by [
        "a completion sent again is applied and changes nothing",
        "a call dropped at any point may be sent again",
    ];
    an_id_compared_in_part_is_caught: IgnoresTheLastBit by [
        "records whose ids differ in one bit are separate",
    ];
    a_forgotten_record_that_stays_forgotten_is_caught: NeverCreatesAgain by [
        "an owner whose lease is unbroken creates a forgotten record again when it renews",
        "an owner whose lease is unbroken creates a forgotten record again when it completes",
        "a record that was created again lives as long as one that was claimed",
    ];
    a_record_created_for_a_broken_lease_is_caught: CreatesAgainAlways by [
        "no token changes an absent record",
        "a paused owner changes nothing after its successor released",
    ];
    a_forgotten_record_created_as_the_first_attempt_is_caught: CreatesAgainAsTheFirst by [
        "an owner whose lease is unbroken creates a forgotten record again when it renews",
        "an owner whose lease is unbroken creates a forgotten record again when it completes",
    ];
    a_record_created_over_anothers_is_caught: CreatesAgainOverAnother by [
        "an unbroken lease changes nothing where another attempt runs",
        "an unbroken lease changes nothing where another attempt has finished",
        "an unbroken lease changes nothing that its own owner has abandoned",
    ];
    a_look_before_a_record_is_created_again_is_caught: LooksThenCreatesAgain by [
        "of an owner and claims that race for a forgotten record one wins",
    ];
    steps_of_any_token_are_caught: ChecksNoTokenOfSteps by [
        "another token changes nothing while the lease is alive",
        "an overtaken attempt appends nothing",
    ];
    steps_that_are_appended_twice_are_caught: AppendsAgain by [
        "a checkpoint sent again is applied and appends nothing",
        "a checkpoint appends only what is missing, and nothing past a gap",
    ];
    steps_past_a_gap_are_caught: AppendsPastGaps by [
        "a checkpoint appends only what is missing, and nothing past a gap",
    ];
    a_checkpoint_that_renews_is_caught: RenewsWithSteps by [
        "a checkpoint moves neither lease nor retention",
    ];
    a_takeover_without_the_steps_is_caught: TakeoverForgetsSteps by [
        "steps are appended in order, and handed to whoever takes over",
        "a claim sent again is told the steps of its record",
        "a suspended record is continued under either crash policy",
    ];
    a_suspension_that_frees_the_key_is_caught: SuspensionFrees by [
        "a suspended record without steps is continued as well",
    ];
    a_release_that_forgets_steps_is_caught: ReleaseForgetsSteps by [
        "a release of a record with steps suspends it",
    ];
    a_suspension_that_looks_like_a_crash_is_caught: SuspensionIsACrash by [
        "a suspended record is continued under either crash policy",
        "a suspended record without steps is continued as well",
    ];
    suspending_for_any_token_is_caught: SuspendsForAnyToken by [
        "another token changes nothing while the lease is alive",
    ];
    a_record_without_its_operation_is_caught: SaysNothingOfItsOperation by [
        "a record says its operation and when it was claimed",
        "a listing pages through all records, each once",
    ];
    a_listing_that_leaves_out_a_record_is_caught: ListSkipsOne by [
        "a listing pages through all records, each once",
        "a record that stands is listed once while others come and go",
    ];
    a_listing_of_every_state_is_caught: ListIgnoresStates by [
        "a listing finds records by state",
    ];
    forgetting_a_living_attempt_is_caught: ForgetsTheLiving by [
        "a record whose lease is alive is not forgotten",
    ];
    revoking_any_attempt_is_caught: RevokesAnyAttempt by [
        "an operator takes the lease from the attempt that is named, and from no other",
    ];
    forgetting_whatever_is_there_is_caught: ForgetsWhateverIsThere by [
        "a record is forgotten as it was seen, and in no other state or attempt",
    ];
    forgetting_any_attempt_is_caught: ForgetsAnyAttempt by [
        "a record is forgotten as it was seen, and in no other state or attempt",
    ];
    forgetting_any_state_is_caught: ForgetsAnyState by [
        "a record is forgotten as it was seen, and in no other state or attempt",
    ];
    a_watch_that_never_wakes_is_caught: WatchNeverWakes by [
        "a watch wakes after a suspension",
        "a watch wakes after a completion",
        "a watch wakes after a release",
        "a watch wakes after an abandonment",
    ];
}

/// Every case fails, and none stops the suite.
fn all_failed(report: &Report, with: &str) {
    assert_eq!(report.passed(), <[&str; 0]>::default(), "{report}");
    for (case, message) in report.failed() {
        assert!(message.contains(with), "{case}: {message}");
    }
}

#[tokio::test]
async fn a_store_that_panics_fails_every_case() {
    let report = conformance::check(&Bench::broken(Bug::Panics)).await;
    all_failed(&report, "panicked: the store is broken");
}

#[tokio::test]
async fn a_store_that_fails_fails_every_case_with_its_message() {
    let report = conformance::check(&Bench::broken(Bug::Fails)).await;
    all_failed(&report, "the broken store is full with 0 bytes");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_fails_every_case() {
    let bench = Bench::new(|reference| {
        let store = FaultyStore::new(Arc::new(reference));
        store.fail_everything(&Fault::Hang);
        store
    });
    all_failed(&conformance::check(&bench).await, "gave no answer within");
}

#[tokio::test]
#[should_panic(expected = "an empty outcome is an outcome")]
async fn an_assertion_names_the_broken_promise() {
    conformance::assert_conforms(&Bench::broken(Bug::EmptyIsAbsent)).await;
}

// ---- Faults ------------------------------------------------------------------------------

fn faulty() -> FaultyStore {
    FaultyStore::new(Arc::new(ReferenceStore::default()))
}

fn claim() -> Claim {
    let id = RecordId::from_bytes([7; 32]);
    let fingerprint = Fingerprint::from_bytes([1; Fingerprint::LEN]);
    claim_of(id, Token::random(), fingerprint)
}

const ACQUIRED: Claimed = Claimed::acquired(1);

#[tokio::test]
async fn every_method_is_counted_and_fails_when_told_to() {
    let store = faulty();
    let lease = Lease::of(&claim(), 1);
    let (id, token) = (lease.id, lease.token);
    for calls in 1..=2 {
        store.fail_everything(&Fault::Unavailable);
        assert!(store.claim(&claim()).await.is_err());
        assert!(store.renew(&lease).await.is_err());
        assert!(store.complete(&lease, Bytes::new()).await.is_err());
        assert!(store.release(&id, &token).await.is_err());
        assert!(store.abandon(&id, &token).await.is_err());
        assert!(store.inspect(&id).await.is_err());
        assert!(store.watch(&id).await.is_err());
        assert!(store.checkpoint(&lease, 0, Bytes::new()).await.is_err());
        assert!(store.suspend(&id, &token).await.is_err());
        assert!(store.list(&Listing::new(1)).await.is_err());
        assert!(store.forget(&id).await.is_err());
        for method in Method::ALL {
            assert_eq!(store.calls(method), calls, "{method:?}");
        }
        assert_eq!(store.all_calls(), 11 * calls);
    }
    store.heal_everything();
    assert_eq!(store.inspect(&id).await.unwrap(), None);
}

#[tokio::test]
async fn a_call_that_fails_does_not_reach_the_store() {
    let store = faulty();
    let claim = claim();
    store.fail(Method::Claim, 2, Fault::Unavailable);
    let full = StoreError::Full {
        store: "reference",
        max_bytes: Some(1),
    };
    store.fail(Method::Claim, 1, Fault::Error(full));
    for _ in 0..2 {
        let error = store.claim(&claim).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    }
    let error = store.claim(&claim).await.unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    assert_eq!(store.inspect(&claim.id).await.unwrap(), None);
    assert_eq!(store.claim(&claim).await.unwrap(), ACQUIRED);
}

#[tokio::test]
async fn a_lost_answer_is_of_a_call_that_took_effect() {
    let store = faulty();
    let claim = claim();
    store.fail(Method::Claim, 1, Fault::LoseAnswer);
    let error = store.claim(&claim).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert!(store.inspect(&claim.id).await.unwrap().is_some());
}

#[tokio::test]
async fn a_hanging_call_never_answers_with_or_without_effect() {
    let store = faulty();
    let claim = claim();
    store.fail(Method::Claim, 1, Fault::Hang);
    assert!(store.claim(&claim).now_or_never().is_none());
    assert_eq!(store.inspect(&claim.id).await.unwrap(), None);
    store.fail(Method::Claim, 1, Fault::HangAfterEffect);
    assert!(store.claim(&claim).now_or_never().is_none());
    assert!(store.inspect(&claim.id).await.unwrap().is_some());
}

#[tokio::test]
async fn a_standing_fault_comes_after_the_next_ones_and_ends_when_healed() {
    let store = faulty();
    let claim = claim();
    store.fail_always(Method::Claim, Fault::Unavailable);
    store.fail(Method::Claim, 1, Fault::LoseAnswer);
    assert!(store.claim(&claim).await.is_err());
    assert!(store.inspect(&claim.id).await.unwrap().is_some());
    for _ in 0..3 {
        assert!(store.claim(&claim).await.is_err());
    }
    store.heal(Method::Claim);
    assert_eq!(store.claim(&claim).await.unwrap(), ACQUIRED);
}

fn spawn_claim(store: &FaultyStore, calls: &mut JoinSet<Result<Claimed, StoreError>>) {
    let store = store.clone();
    calls.spawn(async move { store.claim(&claim()).await });
}

#[tokio::test]
async fn held_calls_wait_without_effect_and_go_on_as_admitted() {
    let store = faulty();
    let gate = store.hold(Method::Claim);
    let mut calls = JoinSet::new();
    for _ in 0..3 {
        spawn_claim(&store, &mut calls);
    }
    gate.arrived(3).await;
    assert_eq!(store.calls(Method::Claim), 3);
    assert_eq!(store.inspect(&claim().id).await.unwrap(), None);

    // What befalls a held call may still be said.
    store.fail(Method::Claim, 1, Fault::Unavailable);
    gate.admit(1);
    assert!(calls.join_next().await.unwrap().unwrap().is_err());
    gate.admit(1);
    assert_eq!(calls.join_next().await.unwrap().unwrap().unwrap(), ACQUIRED);
    assert!(calls.try_join_next().is_none());

    gate.open();
    let last = calls.join_next().await.unwrap().unwrap().unwrap();
    assert!(matches!(last, Claimed::InFlight { .. }), "{last:?}");
    // The gate stays open.
    assert!(store.claim(&claim()).await.is_ok());
}

#[tokio::test]
async fn a_call_dropped_at_the_gate_has_no_effect_and_waits_no_longer() {
    let store = faulty();
    let gate = store.hold(Method::Claim);
    assert!(store.claim(&claim()).now_or_never().is_none());
    let mut calls = JoinSet::new();
    spawn_claim(&store, &mut calls);
    gate.arrived(1).await;
    assert!(gate.arrived(2).now_or_never().is_none());
    drop(gate);
    assert_eq!(calls.join_next().await.unwrap().unwrap().unwrap(), ACQUIRED);
}

#[tokio::test]
async fn a_test_can_await_the_number_of_calls() {
    let store = faulty();
    let mut calls = JoinSet::new();
    assert!(store.called(Method::Claim, 1).now_or_never().is_none());
    for _ in 0..2 {
        spawn_claim(&store, &mut calls);
    }
    store.called(Method::Claim, 2).await;
    assert_eq!(store.calls(Method::Claim), 2);
}
