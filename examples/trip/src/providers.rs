//! An airline and a bank that note each call, and that do what they are told each time.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;

pub(crate) struct Providers {
    calls: PathBuf,
}

impl Providers {
    pub(crate) const fn noting_in(calls: PathBuf) -> Self {
        Self { calls }
    }

    pub(crate) fn hold_seat(&self, reference: &str) -> io::Result<String> {
        let number = self.note(&format!("hold_seat {reference}"))?;
        Ok(format!("{number}A"))
    }

    pub(crate) fn charge_card(&self, reference: &str, price: i64, key: &str) -> io::Result<String> {
        let number = self.note(&format!("charge_card {reference} {price} {key}"))?;
        Ok(format!("ch_{number}"))
    }

    /// All calls, a line each, in their order.
    pub(crate) fn calls(&self) -> io::Result<String> {
        match fs::read_to_string(&self.calls) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            calls => calls,
        }
    }

    /// In one write, so that lines of calls at once do not mix. Answers how many there are.
    fn note(&self, call: &str) -> io::Result<usize> {
        let mut options = OpenOptions::new();
        let mut file = options.append(true).create(true).open(&self.calls)?;
        file.write_all(format!("{call}\n").as_bytes())?;
        Ok(self.calls()?.lines().count())
    }
}
