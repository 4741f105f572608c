//! Who goes first. Whoever holds a lease goes before those who want one, because load must never
//! cost a lease; and those who want one wait in queues with a bound.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use idem_core::StoreError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::NAME;
use super::writes::Write;

/// The most writes of one transaction, and the most bytes of outcomes: how long others wait.
pub(super) const MOST: usize = 128;
const HEAVY: usize = 4 * 1024 * 1024;

/// How long one who holds no lease waits behind this process's own calls: as for another process's
/// lock, and at least so long.
pub(super) fn longest_wait(patience: Duration) -> Duration {
    patience.max(Duration::from_secs(1))
}

/// The lanes of the writer, those that go first at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Renewals,
    /// Completions, releases and abandonments.
    Ends,
    Claims,
    Sweeps,
}

impl Lane {
    const COUNT: usize = 4;
}

/// What waits to be written.
#[derive(Default)]
pub(super) struct Lanes([VecDeque<Write>; Lane::COUNT]);

impl Lanes {
    pub(super) fn add(&mut self, write: Write) {
        self.of(write.lane()).push_back(write);
    }

    /// Puts what could not be written back to where it was taken from.
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

    /// Takes the writes of the next transaction. At most one is a sweep: it has a place in every
    /// transaction, or a store that is never at rest would never be swept.
    pub(super) fn next_batch(&mut self, patience: Duration) -> Vec<Write> {
        self.drop_those_too_late(patience);
        let mut batch = Vec::new();
        let mut heavy = 0;
        for lane in [Lane::Renewals, Lane::Ends, Lane::Claims] {
            while batch.len() < MOST
                && heavy < HEAVY
                && let Some(next) = self.of(lane).front()
            {
                // One that has failed beside others goes by itself.
                if next.is_to_be_alone() && !batch.is_empty() {
                    return batch;
                }
                let Some(next) = self.of(lane).pop_front() else {
                    break;
                };
                if !next.is_wanted() {
                    continue;
                }
                heavy += next.weight();
                let is_to_be_alone = next.is_to_be_alone();
                batch.push(next);
                if is_to_be_alone {
                    return batch;
                }
            }
        }
        batch.extend(self.of(Lane::Sweeps).pop_front());
        batch
    }

    fn drop_those_too_late(&mut self, patience: Duration) {
        let longest = longest_wait(patience);
        let claims = self.of(Lane::Claims);
        while let Some(late) = claims.pop_front_if(|claim| claim.has_waited_for(longest)) {
            late.fail(waited_too_long());
        }
    }

    /// Another connection has held the lock since then: whoever has waited for it for too long is
    /// told.
    pub(super) fn lock_was_busy(&mut self, since: Instant, patience: Duration, error: &StoreError) {
        let now = Instant::now();
        for lane in &mut self.0 {
            let mut patient = VecDeque::new();
            for write in lane.iter_mut() {
                write.sees_the_lock_busy(since);
            }
            if !lane
                .iter()
                .any(|write| write.was_kept_by_the_lock_for(patience, now))
            {
                continue;
            }
            for write in lane.drain(..) {
                match write.was_kept_by_the_lock_for(patience, now) {
                    true => write.fail(error.clone()),
                    false => patient.push_back(write),
                }
            }
            *lane = patient;
        }
    }
}

/// A queue that holds so many, for those who hold no lease.
#[derive(Clone)]
pub(super) struct Queue(Arc<Semaphore>);

/// One's place in a queue, until it is dropped.
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
}

impl Queue {
    pub(super) fn bounded(most: usize) -> Self {
        let most = most.clamp(1, Semaphore::MAX_PERMITS);
        Self(Arc::new(Semaphore::new(most)))
    }

    /// # Errors
    /// When it is full.
    pub(super) fn enter(&self) -> Result<Place, StoreError> {
        match Arc::clone(&self.0).try_acquire_owned() {
            Ok(permit) => Ok(Place { _permit: permit }),
            Err(_) => Err(StoreError::Overloaded { store: NAME }),
        }
    }
}

/// A call that waited in a queue of this process until its time was over.
pub(super) fn waited_too_long() -> StoreError {
    StoreError::not_sent(NAME, WaitedTooLong)
}

#[derive(Debug)]
struct WaitedTooLong;

impl fmt::Display for WaitedTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it waited behind other calls of this process until its time was over")
    }
}

impl std::error::Error for WaitedTooLong {}

#[cfg(test)]
mod tests {
    use idem_core::{Claim, Fingerprint, Lease, RecordId, Token};
    use tokio::sync::oneshot::Receiver;

    use super::*;
    use crate::sqlite::writes::{Asked, Change, Completion, End, To};

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
        question: Q,
        since: Instant,
        change: impl FnOnce(Asked<Q, A>) -> Change,
    ) -> (Write, Answer<A>) {
        let (asked, answered) = Asked::new(question);
        (Write::new(change(asked), since, None), answered)
    }

    fn end() -> End {
        End {
            id: RecordId::from_bytes([7; 32]),
            token: Token::from_bytes([7; 16]),
            to: To::Absent,
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
        let (sweep, _sweep) = write(256, now, Change::Sweep);
        let (claim, _claim) = write(a_claim(), now, Change::Claim);
        let (complete, _complete) = write(completion, now, Change::Complete);
        let (release, _release) = write(end(), now, Change::End);
        let (renew, _renew) = write(lease, now, Change::Renew);
        for write in [sweep, claim, complete, release, renew] {
            lanes.add(write);
        }
        let batch = lanes.next_batch(Duration::from_secs(2));
        let order = [
            Lane::Renewals,
            Lane::Ends,
            Lane::Ends,
            Lane::Claims,
            Lane::Sweeps,
        ];
        assert_eq!(lanes_of(&batch), order);
        lanes.put_back(batch);
        assert_eq!(lanes_of(&lanes.next_batch(Duration::from_secs(2))), order);
        assert!(lanes.is_empty());
    }

    #[test]
    fn a_claim_that_waited_too_long_is_not_sent_and_a_holders_write_is() {
        let patience = Duration::from_secs(2);
        let mut lanes = Lanes::default();
        let (late, mut is_late) = write(a_claim(), ago(patience), Change::Claim);
        let (claim, mut is_in_time) = write(a_claim(), ago(patience / 2), Change::Claim);
        let lease = Lease::of(&a_claim(), 1);
        let (renew, mut renewed) = write(lease, ago(patience * 10), Change::Renew);
        let (release, mut released) = write(end(), ago(patience * 10), Change::End);
        for write in [late, claim, renew, release] {
            lanes.add(write);
        }
        let batch = lanes.next_batch(patience);
        let order = [Lane::Renewals, Lane::Ends, Lane::Claims];
        assert_eq!(lanes_of(&batch), order);
        let error = is_late.try_recv().unwrap().unwrap_err();
        assert!(matches!(error, StoreError::NotSent { .. }), "{error:?}");
        assert!(is_in_time.try_recv().is_err());
        assert!(renewed.try_recv().is_err() && released.try_recv().is_err());
    }

    #[test]
    fn a_lock_that_is_busy_for_too_long_is_told_to_all_who_wait_for_it() {
        let mut lanes = Lanes::default();
        let (claim, mut claimed) = write(a_claim(), Instant::now(), Change::Claim);
        let lease = Lease::of(&a_claim(), 1);
        let (renew, mut renewed) = write(lease, Instant::now(), Change::Renew);
        lanes.add(claim);
        lanes.add(renew);
        let busy = StoreError::busy(NAME, std::io::Error::other("locked"));
        lanes.lock_was_busy(Instant::now(), Duration::from_secs(600), &busy);
        assert!(claimed.try_recv().is_err() && renewed.try_recv().is_err());
        lanes.lock_was_busy(Instant::now(), Duration::ZERO, &busy);
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
        for _ in 0..MOST * 2 {
            let (claim, answer) = write(a_claim(), Instant::now(), Change::Claim);
            lanes.add(claim);
            answers.push(answer);
        }
        let sweeps = [0, 1].map(|_| {
            let (sweep, answer) = write(256, Instant::now(), Change::Sweep);
            lanes.add(sweep);
            answer
        });
        for _ in 0..2 {
            let batch = lanes.next_batch(Duration::from_secs(600));
            assert_eq!(batch.len(), MOST + 1);
            assert_eq!(batch[MOST].lane(), Lane::Sweeps);
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
            let (mut claim, answer) = write(a_claim(), Instant::now(), Change::Claim);
            claim.be_alone();
            failed.push(claim);
            answers.push(answer);
        }
        lanes.put_back(failed);
        let lease = Lease::of(&a_claim(), 1);
        let patience = Duration::from_secs(600);
        assert_eq!(lanes.next_batch(patience).len(), 1);
        let (renew, _renewed) = write(lease, Instant::now(), Change::Renew);
        lanes.add(renew);
        assert_eq!(lanes_of(&lanes.next_batch(patience)), [Lane::Renewals]);
        for _ in 0..2 {
            assert_eq!(lanes_of(&lanes.next_batch(patience)), [Lane::Claims]);
        }
        assert!(lanes.is_empty());
        drop(answers);
    }

    #[test]
    fn what_nobody_waits_for_is_not_written_unless_it_ends_an_attempt() {
        let mut lanes = Lanes::default();
        let lease = Lease::of(&a_claim(), 1);
        let now = Instant::now();
        lanes.add(write(a_claim(), now, Change::Claim).0);
        lanes.add(write(lease, now, Change::Renew).0);
        lanes.add(write(end(), now, Change::End).0);
        let batch = lanes.next_batch(Duration::from_secs(600));
        assert_eq!(lanes_of(&batch), [Lane::Ends]);
        assert!(lanes.is_empty());
    }

    #[test]
    fn a_queue_has_so_many_places_and_gives_them_again() {
        let queue = Queue::bounded(2);
        let places = [queue.enter().unwrap(), queue.enter().unwrap()];
        let refused = queue.enter().err().unwrap();
        assert!(
            matches!(refused, StoreError::Overloaded { .. }),
            "{refused:?}"
        );
        drop(places);
        assert!(queue.enter().is_ok());
        // Nobody could be served otherwise.
        assert!(Queue::bounded(0).enter().is_ok());
    }
}
