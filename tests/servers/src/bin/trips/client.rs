//! A client that holds on to its key until it is answered, and asks once more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::http::{Answer, Connection, Meaning, PATIENCE};

/// How long a trip may take, over all tries.
const ANSWERED: Duration = Duration::from_secs(60);

/// A trip that was answered.
pub(crate) struct Booked {
    pub(crate) reference: String,
    pub(crate) answer: Answer,
    /// How many tries were not answered.
    pub(crate) lost: u32,
    /// What was wrong with the answer, or with its replay.
    pub(crate) fault: Option<String>,
}

pub(crate) struct Client {
    number: usize,
    connection: Connection,
}

impl Client {
    pub(crate) fn new(number: usize, port: u16) -> Self {
        Self {
            number,
            connection: Connection::new(port),
        }
    }

    pub(crate) fn book_until(mut self, closing: &AtomicBool) -> Vec<Booked> {
        let mut booked = Vec::new();
        while !closing.load(Ordering::Acquire) {
            let reference = format!("trip-{}-{}", self.number, booked.len());
            booked.push(self.book(&reference));
        }
        booked
    }

    /// Books a trip, and asks for it once more.
    pub(crate) fn book(&mut self, reference: &str) -> Booked {
        let mut lost = 0;
        let (answer, _) = self.ask(reference, &mut lost);
        let (again, is_replay) = self.ask(reference, &mut lost);
        let fault = match () {
            () if answer.status != 201 => Some(format!("{reference}: {}", answer.brief())),
            () if again != answer => Some(format!(
                "{reference}: {} and then {}",
                answer.brief(),
                again.brief()
            )),
            () if !is_replay => Some(format!("{reference}: answered twice as the first")),
            () => None,
        };
        Booked {
            reference: reference.to_owned(),
            answer,
            lost,
            fault,
        }
    }

    /// Until the answer is final.
    fn ask(&mut self, reference: &str, lost: &mut u32) -> (Answer, bool) {
        let request = request(reference);
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < ANSWERED, "{reference} is not answered");
            match self.connection.call(&request, PATIENCE) {
                Ok((answer, is_replay)) if answer.meaning() != Meaning::TryLater => {
                    return (answer, is_replay);
                }
                Ok(_) => {}
                Err(_) => *lost += 1,
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends one try, which is not answered.
    pub(crate) fn is_cut_off(&mut self, reference: &str) {
        let request = request(reference);
        let answer = self.connection.call(&request, PATIENCE);
        assert!(answer.is_err(), "{reference}: {answer:?}");
    }
}

fn request(reference: &str) -> String {
    let body = format!("{{\"reference\":\"{reference}\",\"price\":19900}}");
    format!(
        "POST /trips HTTP/1.1\r\nhost: trips\r\ncontent-type: application/json\r\n\
         idempotency-key: \"{reference}\"\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}
