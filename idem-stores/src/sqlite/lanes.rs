//! Priority: writes of lease holders go before claims, because load must never cost a lease.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use idem_core::StoreError;

use super::limits::max_queue_wait;
use super::queue::waited_too_long;
use super::writes::{Lane, Write};

/// The most writes of one transaction, and the most bytes of outcomes and steps. They bound how long the others
/// wait.
const MAX_BATCH_WRITES: usize = 128;
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;

/// What waits to be written.
#[derive(Default)]
pub(super) struct Lanes([VecDeque<Write>; Lane::COUNT]);

impl Lanes {
    pub(super) fn add(&mut self, write: Write) {
        self.of(write.lane()).push_back(write);
    }

    /// Puts writes that could not be made back to where they were.
    pub(super) fn put_back(&mut self, batch: Vec<Write>) {
        for write in batch.into_iter().rev() {
            self.of(write.lane()).push_front(write);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(VecDeque::is_empty)
    }

    fn of(&mut self, lane: Lane) -> &mut VecDeque<Write> {
        &mut self.0[lane as usize]
    }

    /// Takes the writes of the next transaction. One of them may be a sweep: otherwise a store that is
    /// never idle would never be swept. `busy` is the last one's error, if another connection had the lock.
    pub(super) fn next_batch(
        &mut self,
        lock_timeout: Duration,
        busy: Option<&StoreError>,
    ) -> Vec<Write> {
        self.drop_late_claims(lock_timeout, busy);
        let mut batch = Vec::new();
        let mut bytes = 0;
        for lane in [Lane::Renewals, Lane::Ends, Lane::Claims] {
            while batch.len() < MAX_BATCH_WRITES
                && bytes < MAX_BATCH_BYTES
                && let Some(next) = self.of(lane).front()
            {
                // An isolated write has a transaction of its own.
                if next.is_isolated() && !batch.is_empty() {
                    return batch;
                }
                let Some(next) = self.of(lane).pop_front() else {
                    break;
                };
                if !next.is_wanted() {
                    continue;
                }
                bytes += next.content_bytes();
                let is_isolated = next.is_isolated();
                batch.push(next);
                if is_isolated {
                    return batch;
                }
            }
        }
        batch.extend(self.of(Lane::Sweeps).pop_front());
        batch
    }

    fn drop_late_claims(&mut self, lock_timeout: Duration, busy: Option<&StoreError>) {
        let longest = max_queue_wait(lock_timeout);
        let claims = self.of(Lane::Claims);
        while let Some(late) = claims.pop_front_if(|claim| claim.has_waited_for(longest)) {
            // What it has waited for is another's lock, and that is no outage.
            late.fail(busy.cloned().unwrap_or_else(waited_too_long));
        }
    }

    /// Fails the writes that have waited too long for a lock that another connection has held since
    /// then.
    pub(super) fn fail_after_busy_lock(
        &mut self,
        since: Instant,
        lock_timeout: Duration,
        error: &StoreError,
    ) {
        let now = Instant::now();
        for lane in &mut self.0 {
            let mut patient = VecDeque::new();
            for write in lane.iter_mut() {
                write.note_busy_lock(since);
            }
            if !lane
                .iter()
                .any(|write| write.has_waited_for_lock(lock_timeout, now))
            {
                continue;
            }
            for write in lane.drain(..) {
                match write.has_waited_for_lock(lock_timeout, now) {
                    true => write.fail(error.clone()),
                    false => patient.push_back(write),
                }
            }
            *lane = patient;
        }
    }
}

#[cfg(test)]
mod tests {
    use idem_core::{Claim, Fingerprint, Lease, RecordId, Token};
    use tokio::sync::oneshot::Receiver;

    use super::*;
    use crate::sqlite::NAME;
    use crate::sqlite::changes::{Checkpoint, Completion, End, Removal, Transition};
    use crate::sqlite::writes::{Job, Request};

    type Answer<A> = Receiver<Result<A, StoreError>>;

    fn a_claim() -> Claim {
        Claim::new(
            RecordId::from_bytes([7; 32]),
            Fingerprint::from_bytes([1; Fingerprint::LEN]),
            Duration::from_secs(30),
            Duration::from_secs(3600),
        )
    }

    fn ago(time: Duration) -> Instant {
        Instant::now().checked_sub(time).unwrap()
    }

    fn write<Q, A>(
        content: Q,
        since: Instant,
        change: impl FnOnce(Request<Q, A>) -> Job,
    ) -> (Write, Answer<A>) {
        let (request, answered) = Request::new(content);
        (Write::new(change(request), since, None), answered)
    }

    fn end() -> End {
        End {
            id: RecordId::from_bytes([7; 32]),
            transition: Transition::Release(Token::from_bytes([7; 16])),
        }
    }

    fn lanes_of(batch: &[Write]) -> Vec<Lane> {
        batch.iter().map(Write::lane).collect()
    }

    #[test]
    fn who_holds_a_lease_goes_first_whoever_came_first() {
        let now = Instant::now();
        let mut lanes = Lanes::default();
        let lease = Lease::of(&a_claim(), 1);
        let completion = Completion {
            lease,
            outcome: "done".into(),
        };
        let (sweep, _sweep) = write(256, now, Job::Sweep);
        let (claim, _claim) = write(a_claim(), now, Job::Claim);
        let (complete, _complete) = write(completion, now, Job::Complete);
        let (release, _release) = write(end(), now, Job::End);
        let (renew, _renew) = write(lease, now, Job::Renew);
        let checkpoint = Checkpoint {
            lease,
            at: 0,
            steps: "done".into(),
        };
        let (checkpoint, _checkpoint) = write(checkpoint, now, Job::Checkpoint);
        let removal = Removal {
            id: lease.id,
            seen: None,
        };
        let (forget, _forget) = write(removal, now, Job::Forget);
        for write in [sweep, forget, claim, complete, checkpoint, release, renew] {
            lanes.add(write);
        }
        let batch = lanes.next_batch(Duration::from_secs(2), None);
        let order = [
            Lane::Renewals,
            Lane::Ends,
            Lane::Ends,
            Lane::Ends,
            Lane::Claims,
            Lane::Claims,
            Lane::Sweeps,
        ];
        assert_eq!(lanes_of(&batch), order);
        lanes.put_back(batch);
        assert_eq!(
            lanes_of(&lanes.next_batch(Duration::from_secs(2), None)),
            order
        );
        assert!(lanes.is_empty());
    }

    #[test]
    fn a_claim_that_waited_too_long_is_not_sent_and_a_holders_write_is() {
        let lock_timeout = Duration::from_secs(2);
        let mut lanes = Lanes::default();
        let (late, mut is_late) = write(a_claim(), ago(lock_timeout), Job::Claim);
        let (claim, mut is_in_time) = write(a_claim(), ago(lock_timeout / 2), Job::Claim);
        let lease = Lease::of(&a_claim(), 1);
        let (renew, mut renewed) = write(lease, ago(lock_timeout * 10), Job::Renew);
        let (release, mut released) = write(end(), ago(lock_timeout * 10), Job::End);
        for write in [late, claim, renew, release] {
            lanes.add(write);
        }
        let batch = lanes.next_batch(lock_timeout, None);
        let order = [Lane::Renewals, Lane::Ends, Lane::Claims];
        assert_eq!(lanes_of(&batch), order);
        let error = is_late.try_recv().unwrap().unwrap_err();
        assert!(matches!(error, StoreError::NotSent { .. }), "{error:?}");
        assert!(is_in_time.try_recv().is_err());
        assert!(renewed.try_recv().is_err() && released.try_recv().is_err());
    }

    #[test]
    fn a_claim_that_waited_too_long_while_another_had_the_lock_is_told_so() {
        let lock_timeout = Duration::from_secs(2);
        let mut lanes = Lanes::default();
        let (late, mut is_late) = write(a_claim(), ago(lock_timeout), Job::Claim);
        lanes.add(late);
        let busy = StoreError::busy(NAME, std::io::Error::other("locked"));
        assert!(lanes.next_batch(lock_timeout, Some(&busy)).is_empty());
        let error = is_late.try_recv().unwrap().unwrap_err();
        assert!(matches!(error, StoreError::Busy { .. }), "{error:?}");
    }

    #[test]
    fn a_lock_that_is_busy_for_too_long_is_told_to_all_who_wait_for_it() {
        let mut lanes = Lanes::default();
        let (claim, mut claimed) = write(a_claim(), Instant::now(), Job::Claim);
        let lease = Lease::of(&a_claim(), 1);
        let (renew, mut renewed) = write(lease, Instant::now(), Job::Renew);
        lanes.add(claim);
        lanes.add(renew);
        let busy = StoreError::busy(NAME, std::io::Error::other("locked"));
        lanes.fail_after_busy_lock(Instant::now(), Duration::from_secs(600), &busy);
        assert!(claimed.try_recv().is_err() && renewed.try_recv().is_err());
        lanes.fail_after_busy_lock(Instant::now(), Duration::ZERO, &busy);
        for error in [
            claimed.try_recv().unwrap().unwrap_err(),
            renewed.try_recv().unwrap().unwrap_err(),
        ] {
            assert!(matches!(error, StoreError::Busy { .. }), "{error:?}");
        }
        assert!(lanes.is_empty());
    }

    #[test]
    fn a_transaction_is_bounded_and_sweeps_have_a_place_in_each() {
        let mut lanes = Lanes::default();
        let mut answers = Vec::new();
        for _ in 0..MAX_BATCH_WRITES * 2 {
            let (claim, answer) = write(a_claim(), Instant::now(), Job::Claim);
            lanes.add(claim);
            answers.push(answer);
        }
        let sweeps = [0, 1].map(|_| {
            let (sweep, answer) = write(256, Instant::now(), Job::Sweep);
            lanes.add(sweep);
            answer
        });
        for _ in 0..2 {
            let batch = lanes.next_batch(Duration::from_secs(600), None);
            assert_eq!(batch.len(), MAX_BATCH_WRITES + 1);
            assert_eq!(batch[MAX_BATCH_WRITES].lane(), Lane::Sweeps);
        }
        assert!(lanes.is_empty());
        drop((sweeps, answers));
    }

    #[test]
    fn what_has_failed_beside_others_goes_alone_and_holders_that_come_meanwhile_before_it() {
        let mut lanes = Lanes::default();
        let mut answers = Vec::new();
        let mut failed = Vec::new();
        for _ in 0..3 {
            let (mut claim, answer) = write(a_claim(), Instant::now(), Job::Claim);
            claim.isolate();
            failed.push(claim);
            answers.push(answer);
        }
        lanes.put_back(failed);
        let lease = Lease::of(&a_claim(), 1);
        let lock_timeout = Duration::from_secs(600);
        assert_eq!(lanes.next_batch(lock_timeout, None).len(), 1);
        let (renew, _renewed) = write(lease, Instant::now(), Job::Renew);
        lanes.add(renew);
        assert_eq!(
            lanes_of(&lanes.next_batch(lock_timeout, None)),
            [Lane::Renewals]
        );
        for _ in 0..2 {
            assert_eq!(
                lanes_of(&lanes.next_batch(lock_timeout, None)),
                [Lane::Claims]
            );
        }
        assert!(lanes.is_empty());
        drop(answers);
    }

    #[test]
    fn what_nobody_waits_for_is_not_written_unless_it_ends_an_attempt() {
        let mut lanes = Lanes::default();
        let lease = Lease::of(&a_claim(), 1);
        let now = Instant::now();
        lanes.add(write(a_claim(), now, Job::Claim).0);
        lanes.add(write(lease, now, Job::Renew).0);
        lanes.add(write(end(), now, Job::End).0);
        let batch = lanes.next_batch(Duration::from_secs(600), None);
        assert_eq!(lanes_of(&batch), [Lane::Ends]);
        assert!(lanes.is_empty());
    }
}
