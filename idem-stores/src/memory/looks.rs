//! When to look whether which record has expired.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use idem_core::RecordId;

type Look = (Duration, RecordId);

/// Looks in the order of their time. Most are planned in that order already, because one retention
/// serves most records: those are a queue. A look that was taken back stays in the queue, and finds
/// nothing; how many do so is counted.
#[derive(Default)]
pub(super) struct Looks {
    in_order: VecDeque<Look>,
    /// Those that were planned for an earlier time than the last one in the queue.
    others: BTreeSet<Look>,
    taken_back: usize,
}

impl Looks {
    pub(super) fn plan(&mut self, at: Duration, id: RecordId) {
        match self.in_order.back() {
            Some((last, _)) if at < *last => drop(self.others.insert((at, id))),
            _ => self.in_order.push_back((at, id)),
        }
    }

    pub(super) fn take_back(&mut self, at: Duration, id: RecordId) {
        if !self.others.remove(&(at, id)) {
            self.taken_back += 1;
        }
    }

    /// A look that found nothing: it was taken back.
    pub(super) fn found_nothing(&mut self) {
        self.taken_back = self.taken_back.saturating_sub(1);
    }

    /// Whether most of the queue finds nothing: then it is worth going through.
    pub(super) fn are_mostly_taken_back(&self) -> bool {
        self.taken_back > 64 && self.taken_back > self.in_order.len() / 2
    }

    /// Keeps what still finds something.
    pub(super) fn retain(&mut self, mut finds: impl FnMut(Duration, &RecordId) -> bool) {
        self.in_order.retain(|(at, id)| finds(*at, id));
        self.taken_back = 0;
        self.shrink();
    }

    /// Gives back the room of looks that are past.
    pub(super) fn shrink(&mut self) {
        self.in_order.shrink_to(self.in_order.len() * 2);
    }

    /// The time of the next one.
    pub(super) fn next(&self) -> Option<Duration> {
        let queued = self.in_order.front().map(|(at, _)| *at);
        let other = self.others.first().map(|(at, _)| *at);
        match (queued, other) {
            (Some(queued), Some(other)) => Some(queued.min(other)),
            (one, other) => one.or(other),
        }
    }

    /// The next one, if its time has come.
    pub(super) fn due(&mut self, now: Duration) -> Option<Look> {
        if self.next().is_none_or(|at| now < at) {
            return None;
        }
        match (self.in_order.front(), self.others.first()) {
            (Some(queued), Some(other)) if other < queued => self.others.pop_first(),
            (None, _) => self.others.pop_first(),
            _ => self.in_order.pop_front(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> RecordId {
        RecordId::derive(
            "",
            "test",
            None,
            &idem_core::Key::of(&[number][..]).unwrap(),
        )
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn looks_come_in_the_order_of_their_time_however_they_were_planned() {
        let mut looks = Looks::default();
        for seconds in [5, 3, 9, 7, 9, 1] {
            looks.plan(at(seconds), id(u8::try_from(seconds).unwrap()));
        }
        assert_eq!(looks.next(), Some(at(1)));
        let mut seen = Vec::new();
        while let Some((time, _)) = looks.due(at(8)) {
            seen.push(time.as_secs());
        }
        assert_eq!(seen, [1, 3, 5, 7]);
        assert_eq!(looks.next(), Some(at(9)));
    }

    #[test]
    fn the_room_of_looks_that_are_past_is_given_back() {
        let mut looks = Looks::default();
        for second in 0..1000 {
            looks.plan(at(second), id(1));
        }
        while looks.due(at(990)).is_some() {}
        looks.shrink();
        assert!(looks.in_order.capacity() < 100);
        assert_eq!(looks.next(), Some(at(991)));
    }

    #[test]
    fn what_is_taken_back_is_bounded_by_what_is_kept() {
        let mut looks = Looks::default();
        let kept: Vec<_> = (0..50).map(id).collect();
        for kept in &kept {
            looks.plan(at(1), *kept);
        }
        for second in 2..1000 {
            looks.plan(at(second), id(200));
            looks.take_back(at(second), id(200));
            if looks.are_mostly_taken_back() {
                looks.retain(|_, id| kept.contains(id));
            }
            assert!(looks.in_order.len() <= 2 * kept.len() + 66);
        }
        assert!(looks.in_order.len() >= kept.len());
    }
}
