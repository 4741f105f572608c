//! A client: it holds on to every key until it has a final answer, and later asks again whether
//! the answer is still the same.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::http::{Answer, Connection, Lost, Meaning, PATIENCE};
use super::order::{Deal, Found, Moment, Order};
use super::signals::{LAST_ANSWERS, Signals};

/// Orders that a client has been told to ask about later. With more it begins none: what a lease
/// keeps waiting for a second must not keep the killer waiting for victims.
const OPEN: usize = 64;

/// How long a client takes to connect again while nobody listens.
const KNOCK: Duration = Duration::from_millis(2);

pub(crate) struct Client<'a> {
    name: String,
    rng: StdRng,
    connection: Connection,
    start: Instant,
    signals: &'a Signals,
    open: VecDeque<(Instant, Deal)>,
    book: Book,
}

/// What clients saw.
#[derive(Default)]
pub(crate) struct Book {
    pub(crate) deals: Vec<Deal>,
    /// Requests that a server which lived did not answer.
    pub(crate) hung: u64,
    /// Questions whether an answer is still the same.
    pub(crate) replays: u64,
}

impl Book {
    pub(crate) fn merged(books: impl Iterator<Item = Self>) -> Self {
        books.fold(Self::default(), |mut all, book| {
            all.deals.extend(book.deals);
            all.hung += book.hung;
            all.replays += book.replays;
            all
        })
    }

    pub(crate) fn changed(&self) -> u64 {
        self.deals.iter().map(|deal| deal.changed).sum()
    }

    /// Orders that a kill cut off from their answer.
    pub(crate) fn cut_off(&self) -> u64 {
        let cut_off = self.deals.iter().filter(|deal| deal.cut_off.is_some());
        cut_off.count() as u64
    }

    /// Those of them that had been carried out.
    pub(crate) fn found(&self) -> u64 {
        self.count(Found::Done)
    }

    /// Those of them that the retry carried out.
    pub(crate) fn reruns(&self) -> u64 {
        self.count(Found::Undone)
    }

    fn count(&self, found: Found) -> u64 {
        let those = |deal: &&Deal| deal.cut_off == Some(found);
        self.deals.iter().filter(those).count() as u64
    }
}

impl<'a> Client<'a> {
    pub(crate) fn new(
        number: u64,
        seed: u64,
        port: u16,
        start: Instant,
        signals: &'a Signals,
    ) -> Self {
        Self {
            name: format!("{seed:016x}-{number}"),
            // The seed itself is the killer's.
            rng: StdRng::seed_from_u64(seed.wrapping_add(1 + number)),
            connection: Connection::new(port),
            start,
            signals,
            open: VecDeque::new(),
            book: Book::default(),
        }
    }

    pub(crate) fn run(mut self) -> Book {
        let mut next = 0;
        while !self.is_over(Duration::ZERO) {
            let waits = self.open.len() >= OPEN;
            let due = |(at, _): &(Instant, Deal)| waits || *at <= Instant::now();
            if self.open.front().is_some_and(due) {
                self.go_on();
            } else if !self.book.deals.is_empty() && self.rng.random_ratio(1, 3) {
                let earlier = self.rng.random_range(0..self.book.deals.len());
                self.ask_again(earlier);
            } else {
                let reference = format!("{}-{next}", self.name);
                next += 1;
                let order = Order::draw(reference, &mut self.rng);
                self.ask(Deal::new(order));
            }
        }
        while !self.open.is_empty() && !self.is_over(LAST_ANSWERS) {
            self.go_on();
        }
        for earlier in 0..self.book.deals.len() {
            self.ask_again(earlier);
        }
        let unanswered = self.open.into_iter().map(|(_, deal)| deal);
        self.book.deals.extend(unanswered);
        self.book
    }

    /// Whether so long has passed since the end.
    fn is_over(&self, since: Duration) -> bool {
        match self.signals.closing.load(Ordering::Relaxed) {
            0 => false,
            at => self.start.elapsed() >= Duration::from_millis(at) + since,
        }
    }

    /// With the order that has been put aside longest.
    fn go_on(&mut self) {
        let Some((at, deal)) = self.open.pop_front() else {
            return;
        };
        thread::sleep(at.saturating_duration_since(Instant::now()));
        self.ask(deal);
    }

    /// Until there is a final answer, or one that says to come later.
    fn ask(&mut self, mut deal: Deal) {
        let request = deal.order.request();
        loop {
            // A client in a hurry asks again while its first request still runs.
            let patience = match self.rng.random_ratio(1, 8) {
                true => Duration::from_millis(self.rng.random_range(1..=15)),
                false => PATIENCE,
            };
            match self.call(&request, patience) {
                Ok((answer, replayed)) => {
                    if answer.meaning() == Meaning::TryLater {
                        deal.put_off(self.now(), &answer);
                        let pause = Duration::from_millis(self.rng.random_range(10..=60));
                        self.open.push_back((Instant::now() + pause, deal));
                        return;
                    }
                    deal.note(self.now(), answer.brief());
                    deal.answered(answer, replayed);
                    self.signals.answers.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                Err(lost) => deal.lost(self.now(), &lost),
            }
            if self.is_over(LAST_ANSWERS) {
                self.open.push_back((Instant::now(), deal));
                return;
            }
        }
        self.book.deals.push(deal);
        for _ in 0..self.rng.random_range(0..=2) {
            self.ask_again(self.book.deals.len() - 1);
        }
    }

    /// Whether an answer is still the same. A server that cannot say says nothing against it.
    fn ask_again(&mut self, earlier: usize) {
        let request = self.book.deals[earlier].order.request();
        while !self.is_over(LAST_ANSWERS * 2) {
            match self.call(&request, PATIENCE) {
                Ok((answer, _)) if answer.status == 503 => {
                    thread::sleep(Duration::from_millis(20));
                }
                Ok((answer, replayed)) => {
                    let now = self.now();
                    self.book.replays += 1;
                    let deal = &mut self.book.deals[earlier];
                    if !deal.is_told(&answer) {
                        deal.note(now, format!("later {}", answer.brief()));
                    }
                    deal.answered(answer, replayed);
                    return;
                }
                Err(_) => {}
            }
        }
    }

    fn call(&mut self, request: &str, patience: Duration) -> Result<(Answer, bool), Lost> {
        let answer = self.connection.call(request, patience);
        match &answer {
            Err(Lost::NotConnected) => thread::sleep(KNOCK),
            Err(Lost::Silent) if patience == PATIENCE => self.book.hung += 1,
            _ => {}
        }
        answer
    }

    fn now(&self) -> Moment {
        Moment {
            at: self.start.elapsed(),
            kills: self.signals.kills.load(Ordering::Relaxed),
        }
    }
}
