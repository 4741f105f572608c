//! What clients ask for, and what they were told.

use std::fmt::Write;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::http::{Answer, Lost, Meaning};

/// Who has money, and who is not there.
const ACCOUNTS: [&str; 2] = ["a", "b"];
const NOBODY: &str = "nobody";

/// More than there is in all accounts, and so never enough.
const TOO_MUCH: i64 = 3_000_000;

/// A transfer with a key of its own.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) reference: String,
    pub(crate) from: &'static str,
    pub(crate) to: &'static str,
    pub(crate) amount: i64,
    /// The one status that is right, of those that are final.
    pub(crate) expected: u16,
}

impl Order {
    /// Every eighth cannot be carried out.
    pub(crate) fn draw(reference: String, rng: &mut StdRng) -> Self {
        let payer = rng.random_range(0..2);
        let mut order = Self {
            reference,
            from: ACCOUNTS[payer],
            to: ACCOUNTS[1 - payer],
            amount: rng.random_range(1..=100),
            expected: 201,
        };
        match rng.random_range(0..32) {
            0 => (order.from, order.expected) = (NOBODY, 404),
            // The money is taken before that is found out.
            1 => (order.to, order.expected) = (NOBODY, 404),
            2 => (order.amount, order.expected) = (TOO_MUCH, 409),
            3 => (order.amount, order.expected) = (0, 400),
            _ => {}
        }
        order
    }

    pub(crate) fn request(&self) -> String {
        let Self {
            reference,
            from,
            to,
            amount,
            ..
        } = self;
        let body = json!({"from": from, "to": to, "amount": amount, "reference": reference});
        let body = body.to_string();
        format!(
            "POST /transfers HTTP/1.1\r\nhost: ledger\r\ncontent-type: application/json\r\n\
             idempotency-key: \"{reference}\"\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    }
}

/// An order and what its client saw.
#[derive(Debug)]
pub(crate) struct Deal {
    pub(crate) order: Order,
    pub(crate) answer: Option<Answer>,
    /// Where a kill came before the answer: the server's, or the database's, which is a 503.
    pub(crate) cut_off: Option<Found>,
    /// An answer that is another one than before.
    pub(crate) changed: u64,
    /// All but answers that are as before.
    history: Vec<(Moment, String)>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) at: Duration,
    pub(crate) kills: u64,
}

/// What came of an order whose connection had been cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    NotYet,
    /// It had been carried out.
    Done,
    /// The retry carried it out.
    Undone,
}

impl Deal {
    pub(crate) fn new(order: Order) -> Self {
        Self {
            order,
            answer: None,
            cut_off: None,
            changed: 0,
            history: Vec::new(),
        }
    }

    /// Takes an answer for good, or compares it with the one before.
    pub(crate) fn answered(&mut self, answer: Answer, replayed: bool) {
        let Some(before) = &self.answer else {
            if let Some(found) = &mut self.cut_off {
                *found = if replayed { Found::Done } else { Found::Undone };
            }
            self.answer = Some(answer);
            return;
        };
        if *before == answer {
            return;
        }
        // A late outcome is worth more than a doubt, the library says.
        if before.meaning() == Meaning::Unknown && answer.meaning() == Meaning::Final {
            self.answer = Some(answer);
        } else {
            self.changed += 1;
        }
    }

    pub(crate) fn is_told(&self, answer: &Answer) -> bool {
        self.answer.as_ref() == Some(answer)
    }

    pub(crate) fn lost(&mut self, now: Moment, lost: &Lost) {
        match lost {
            Lost::NotConnected => return,
            Lost::Broken => self.cut_off = self.cut_off.or(Some(Found::NotYet)),
            Lost::Silent => {}
        }
        self.note(now, format!("no answer: {lost:?}"));
    }

    /// Takes an answer that is none yet.
    pub(crate) fn put_off(&mut self, now: Moment, answer: &Answer) {
        if answer.status == 503 {
            self.cut_off = self.cut_off.or(Some(Found::NotYet));
        }
        self.note(now, answer.brief());
    }

    pub(crate) fn note(&mut self, now: Moment, what: String) {
        // Only the first of many equal ones.
        if self.history.last().is_none_or(|(_, last)| *last != what) {
            self.history.push((now, what));
        }
    }

    /// A fault in it, and all that is known.
    pub(crate) fn tell(&self, fault: &str, rows: &[&Value]) -> String {
        let mut told = format!("{fault}: {:?}", self.order);
        for (Moment { at, kills }, what) in &self.history {
            let at = at.as_millis();
            let _ = write!(told, "\n    at {at} ms, after {kills} kills: {what}");
        }
        for row in rows {
            let _ = write!(told, "\n    in the ledger: {row}");
        }
        told
    }
}
