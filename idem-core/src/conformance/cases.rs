//! The list of promises, and how the cases that check them are run.

use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::bench::{Bench, Checked, Clock, panicked};
use super::harness::Harness;
use super::{
    expiry, forgetting, forgotten, identity, listing, outcomes, owners, races, steps, suspension,
    transitions, watching,
};

struct Case {
    promise: &'static str,
    run: fn(Bench) -> BoxFuture<'static, Checked>,
}

macro_rules! cases {
    ($($promise:literal => $run:path,)*) => {
        &[$(Case { promise: $promise, run: |bench| Box::pin($run(bench)) }),*]
    };
}

const CASES: &[Case] = cases! {
    // The table, row by row.
    "a claim of an absent record acquires attempt 1" => transitions::absent_is_acquired,
    "a claim while the lease is alive is in flight and changes nothing" => transitions::alive_is_in_flight,
    "a claim sent again recognises itself and makes no second attempt" => transitions::own_claim_is_recognised,
    "a claim sent again does not move its lease" => transitions::own_claim_moves_nothing,
    "a claim sent again after its lease is over recognises itself" => transitions::own_late_claim_is_recognised,
    "another fingerprint is a mismatch while the lease is alive" => transitions::mismatch_while_running,
    "another fingerprint is a mismatch after a crash" => transitions::mismatch_after_crash,
    "another fingerprint is a mismatch when finished" => transitions::mismatch_when_finished,
    "a claim to rerun takes a crashed attempt over as the next one" => transitions::rerun_takes_over,
    "a claim to refuse leaves a crashed attempt as it is" => transitions::refuse_changes_nothing,
    "the claim decides about a crash, not the one that crashed" => transitions::the_claim_decides,
    "a finished record is replayed to every claim" => transitions::finished_is_replayed,
    "a release frees the record, and the next claim is attempt 1" => transitions::release_frees,
    "an abandonment ends the lease at once" => transitions::abandon_ends_the_lease,
    "a renewal moves the lease" => transitions::renewal_moves_the_lease,
    "a completion sent again is applied and changes nothing" => transitions::completion_repeats,
    // Who may change a record.
    "no token changes an absent record" => owners::absent,
    "another token changes nothing while the lease is alive" => owners::stranger_while_running,
    "another token changes nothing after a crash" => owners::stranger_after_crash,
    "another token changes nothing when finished" => owners::stranger_when_finished,
    "the finishing token renews, releases and abandons nothing" => owners::finisher,
    "the right token may act after its lease is over, until somebody claims" => owners::late_owner,
    "no token changes an abandoned record" => owners::abandoned,
    "a paused owner changes nothing after it was taken over" => owners::paused_owner,
    "a paused owner changes nothing after its successor finished" => owners::paused_owner_when_finished,
    "a paused owner changes nothing after its successor released" => owners::paused_owner_when_released,
    "a release sent again does not free the next claim" => owners::release_again,
    "an operator takes the lease from the attempt that is named, and from no other" => owners::revoked,
    // Steps.
    "steps are appended in order, and handed to whoever takes over" => steps::are_handed_on,
    "a claim sent again is told the steps of its record" => steps::own_claim_is_told,
    "a checkpoint sent again is applied and appends nothing" => steps::repeats,
    "a checkpoint appends only what is missing, and nothing past a gap" => steps::appends_what_is_missing,
    "a checkpoint moves neither lease nor retention" => steps::move_nothing,
    "the right token may append after its lease is over, until somebody claims" => steps::late_owner,
    "an overtaken attempt appends nothing" => steps::overtaken,
    "steps of any size and of every byte value are kept" => steps::bytes,
    "a renewal and an abandonment keep the steps" => steps::renewal_and_abandonment,
    "a completion drops the steps" => steps::completion,
    "a release of a record with steps suspends it" => steps::release,
    "the steps of an expired record are gone" => steps::expiry,
    "of checkpoints and a takeover that race each step is whole or absent" => steps::race,
    // Suspension.
    "a suspended record is continued under either crash policy" => suspension::continues,
    "a suspended record without steps is continued as well" => suspension::without_steps,
    "another fingerprint is a mismatch while suspended" => suspension::mismatch,
    "no token changes a suspended record" => suspension::is_nobodys,
    "an unbroken lease changes nothing that its own owner has suspended" => suspension::unbroken,
    "a suspended record is kept for its retention from then on" => suspension::retention,
    "a watch wakes after a suspension" => watching::suspension,
    // Looking for records.
    "a record says its operation and when it was claimed" => listing::record_says,
    "a long operation name is kept by its end" => listing::long_name,
    "a listing finds records by state" => listing::states,
    "a listing pages through all records, each once" => listing::pages,
    "a record that stands is listed once while others come and go" => listing::concurrent,
    "a record that no lease protects can be forgotten" => listing::forgets,
    "a record whose lease is alive is not forgotten" => listing::forgets_nothing_alive,
    "a record is forgotten as it was seen, and in no other state or attempt" => forgetting::as_seen,
    // Records that the store has forgotten under a living owner.
    "an owner whose lease is unbroken creates a forgotten record again when it renews" => forgotten::renewal,
    "an owner whose lease is unbroken creates a forgotten record again when it completes" => forgotten::completion,
    "an unbroken lease changes nothing where another attempt runs" => forgotten::another_is_running,
    "an unbroken lease changes nothing where another attempt has finished" => forgotten::another_has_finished,
    "an unbroken lease changes nothing that its own owner has abandoned" => forgotten::abandoned,
    "a record that was created again lives as long as one that was claimed" => forgotten::lifetimes,
    "of an owner and claims that race for a forgotten record one wins" => forgotten::race,
    // Races and lost answers.
    "of claims at once exactly one acquires" => races::one_acquires,
    "of claims at once after a crash exactly one takes over" => races::one_takes_over,
    "of claims at once after a retention exactly one acquires" => races::one_follows,
    "of claims at once after a crash none is acquired when they refuse" => races::none_takes_over,
    "claims that race a completion are in flight or replayed" => races::completion,
    "claims that race a release are in flight or acquired once" => races::release,
    "of a late owner and a successor that race one wins" => races::owner_and_successor,
    "a claim sent twice at once is one attempt" => races::same_claim,
    "a call dropped at any point may be sent again" => races::dropped_calls,
    // Lifetimes.
    "a finished record is kept for its retention and then absent" => expiry::finished,
    "each record has its own retention" => expiry::retention_of_each,
    "a completion sets the retention" => expiry::completion_sets_retention,
    "a completion sent again does not move the retention" => expiry::completion_again,
    "a replay that is asked how long it is kept does not say too long" => expiry::replay_says_how_long,
    "a replay does not move the retention" => expiry::replay_moves_nothing,
    "a refused claim does not move the lease" => expiry::refused_claim_moves_nothing,
    "a running record outlives its lease by its retention" => expiry::crash_is_seen,
    "a crashed record is absent after its retention" => expiry::crash_is_forgotten,
    "an abandoned record is kept for its retention" => expiry::abandoned_is_kept,
    "a renewal moves the retention" => expiry::renewal_moves_retention,
    "a takeover has a lease and a retention of its own" => expiry::takeover,
    "the end of an old record's retention does not touch its successor" => expiry::successor,
    "a finishing token is nobody's after the retention" => expiry::finisher,
    // Outcomes.
    "an empty outcome is an outcome" => outcomes::empty,
    "an outcome of every byte value is kept" => outcomes::every_byte,
    "an outcome of a mebibyte is kept" => outcomes::large,
    "an outcome that looks like text, JSON or nothing is kept" => outcomes::lookalikes,
    "an outcome is kept whichever attempt it is of" => outcomes::later_attempt,
    // Identity.
    "records whose ids differ in one bit are separate" => identity::ids,
    "fingerprints that differ in one bit are different" => identity::fingerprints,
    "tokens that differ in one bit are different" => identity::tokens,
    // Watching.
    "a watch wakes after a completion" => watching::completion,
    "a watch wakes after a release" => watching::release,
    "a watch wakes after an abandonment" => watching::abandonment,
    "a watch may be dropped" => watching::dropped,
};

/// The promises in the table's order, each with how its case ended.
pub(super) async fn run_all(harness: &dyn Harness) -> Vec<(&'static str, Checked)> {
    let handles = [harness.store().await, harness.store().await];
    let clock = Arc::new(Clock::default());
    let bench = Bench::new(handles, harness, clock.clone());
    let mut running: Vec<_> = CASES
        .iter()
        .enumerate()
        .map(|(place, case)| {
            let case = AssertUnwindSafe((case.run)(bench.clone()))
                .catch_unwind()
                .map(|ended| ended.unwrap_or_else(|panic| Err(panicked(&*panic))));
            (place, case.boxed())
        })
        .collect();
    let mut ended = Vec::with_capacity(CASES.len());
    while !running.is_empty() {
        let mut pause = Duration::ZERO;
        let mut waiting = Vec::with_capacity(running.len());
        for (place, mut case) in running {
            match step(&mut case, &clock).await {
                Step::Ended(result) => ended.push((place, result)),
                Step::Waits(by) => {
                    pause = pause.max(by);
                    waiting.push((place, case));
                }
            }
        }
        if !waiting.is_empty() {
            harness.advance(pause).await;
            clock.has_moved();
        }
        running = waiting;
    }
    ended.sort_unstable_by_key(|(place, _)| *place);
    ended
        .into_iter()
        .map(|(place, result)| (CASES[place].promise, result))
        .collect()
}

enum Step {
    Ended(Checked),
    Waits(Duration),
}

/// Drives one case until it ends or waits for time to pass.
async fn step(case: &mut BoxFuture<'static, Checked>, clock: &Clock) -> Step {
    poll_fn(|cx| match case.as_mut().poll(cx) {
        Poll::Ready(result) => Poll::Ready(Step::Ended(result)),
        Poll::Pending => match clock.take_wish() {
            Some(by) => Poll::Ready(Step::Waits(by)),
            None => Poll::Pending,
        },
    })
    .await
}
