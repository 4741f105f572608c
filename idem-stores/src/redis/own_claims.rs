//! What a process remembers of the claims that it has made: what it takes to say a running record byte for
//! byte. With it the usual completion is a plain command, `SET … IFEQ`, on a server that has it (Valkey 8.1, Redis
//! 8.4), and costs the server a third of the script. Whatever else the command finds, the script decides.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use idem_core::{Lease, Token};
use redis::Cmd;

use super::command::{Command, Number, Word};
use super::record::{self, Finished, Running};

/// How many claims are remembered. A newer one takes the place of an older one, which is completed by the script.
const PLACES: usize = 4096;

/// A claim's token, and when it was made, in milliseconds of the server's clock as its record has it.
type Place = Mutex<Option<(Token, u64)>>;

#[derive(Debug, Default)]
pub(super) struct OwnClaims {
    /// Made when a server is known to have the command.
    places: OnceLock<Box<[Place]>>,
    is_refused: AtomicBool,
}

impl OwnClaims {
    /// Every server of this store has the command.
    pub(super) fn enable(&self) {
        self.places
            .get_or_init(|| (0..PLACES).map(|_| Place::default()).collect());
    }

    /// A server has refused the command: one of an older version has become the primary.
    pub(super) fn disable(&self) {
        self.is_refused.store(true, Ordering::Relaxed);
    }

    pub(super) fn remember(&self, token: &Token, at: u64) {
        if let Some(place) = self.place(token) {
            *place.lock().unwrap_or_else(PoisonError::into_inner) = Some((*token, at));
        }
    }

    /// When the claim was made whose record is still as it was written, as far as this process knows.
    pub(super) fn take(&self, token: &Token) -> Option<u64> {
        let mut place = self
            .place(token)?
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (_, at) = place.take_if(|(of, _)| of == token)?;
        Some(at)
    }

    fn place(&self, token: &Token) -> Option<&Place> {
        if self.is_refused.load(Ordering::Relaxed) {
            return None;
        }
        let [first, second, ..] = *token.as_bytes();
        let number = usize::from(u16::from_le_bytes([first, second]));
        self.places.get()?.get(number % PLACES)
    }
}

/// `SET key finished IFEQ running PX milliseconds`, made when it is written: its caller keeps no record while it
/// waits.
pub(super) struct PlainCompletion<'a> {
    pub(super) prefix: &'a [u8],
    pub(super) lease: &'a Lease,
    /// When it was claimed, as its record has it.
    pub(super) at: u64,
    pub(super) outcome: &'a [u8],
}

impl PlainCompletion<'_> {
    fn with_words<T>(&self, used: impl FnOnce(&[Word<'_>]) -> T) -> T {
        let id = record::encoded_id(&self.lease.id);
        let running = Running::claimed(self.lease, self.at);
        let mut finished = Finished::new(self.lease, self.outcome);
        finished.claimed_at(self.at);
        let millis = Number::new(record::millis(self.lease.retention));
        used(&[
            "SET".into(),
            Word::joined([self.prefix, &id, b""]),
            finished.whole(self.outcome),
            "IFEQ".into(),
            running.as_bytes().into(),
            "PX".into(),
            millis.as_bytes().into(),
        ])
    }
}

impl Command for PlainCompletion<'_> {
    fn encode(&self, into: &mut Vec<u8>) {
        self.with_words(|words| words.encode(into));
    }

    fn to_cmd(&self) -> Cmd {
        self.with_words(|words| words.to_cmd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_remembered_once_and_until_another_needs_its_place() {
        let claims = OwnClaims::default();
        let token = |number| Token::from_bytes([number; 16]);
        claims.remember(&token(1), 7);
        assert_eq!(claims.take(&token(1)), None, "no server has the command");
        claims.enable();
        claims.remember(&token(1), 7);
        claims.remember(&token(2), 8);
        assert_eq!(claims.take(&token(1)), Some(7));
        assert_eq!(claims.take(&token(1)), None);

        // Another token with the same first bytes.
        let mut bytes = [2; 16];
        bytes[16 - 1] = 3;
        let other = Token::from_bytes(bytes);
        claims.remember(&other, 9);
        assert_eq!(claims.take(&token(2)), None);
        assert_eq!(claims.take(&other), Some(9));

        claims.remember(&token(2), 8);
        claims.disable();
        assert_eq!(claims.take(&token(2)), None);
    }
}
