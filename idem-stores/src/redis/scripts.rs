//! The scripts. Each transition that looks before it writes is one script, and so one atomic step.

use redis::{ErrorKind, RedisError, Script as Hashed, ServerErrorKind, Value};
use tokio::time::Instant;

use super::command::{Number, Word};
use super::connection::{Connection, Write, Written};

/// A script, and its hash, by which it is called.
pub(super) struct Script {
    text: &'static str,
    hash: String,
}

/// All scripts.
pub(super) struct Scripts {
    pub(super) claim: Script,
    pub(super) renew: Script,
    pub(super) complete: Script,
    pub(super) release: Script,
    pub(super) touch: Script,
    pub(super) abandon: Script,
    pub(super) inspect: Script,
    pub(super) watch: Script,
    pub(super) checkpoint: Script,
    pub(super) suspend: Script,
    pub(super) forget: Script,
    pub(super) revoke: Script,
    pub(super) listed: Script,
    pub(super) v1_claim: Script,
    pub(super) v1_forget: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            claim: Script::new(include_str!("scripts/claim.lua")),
            renew: Script::new(include_str!("scripts/renew.lua")),
            complete: Script::new(include_str!("scripts/complete.lua")),
            release: Script::new(include_str!("scripts/release.lua")),
            touch: Script::new(include_str!("scripts/touch.lua")),
            abandon: Script::new(include_str!("scripts/abandon.lua")),
            inspect: Script::new(include_str!("scripts/inspect.lua")),
            watch: Script::new(include_str!("scripts/watch.lua")),
            checkpoint: Script::new(include_str!("scripts/checkpoint.lua")),
            suspend: Script::new(include_str!("scripts/suspend.lua")),
            forget: Script::new(include_str!("scripts/forget.lua")),
            revoke: Script::new(include_str!("scripts/revoke.lua")),
            listed: Script::new(include_str!("scripts/listed.lua")),
            v1_forget: Script::new(include_str!("scripts/v1_forget.lua")),
            v1_claim: Script::new(include_str!("scripts/v1_claim.lua")),
        }
    }
}

impl Script {
    fn new(text: &'static str) -> Self {
        Self {
            text,
            hash: Hashed::new(text).get_hash().to_owned(),
        }
    }

    pub(super) const fn text(&self) -> &'static str {
        self.text
    }

    pub(super) fn hash(&self) -> &str {
        &self.hash
    }

    /// A call of it on one record.
    pub(super) const fn on<'a>(
        &'a self,
        key: Word<'a>,
        arguments: &'a [Word<'a>],
    ) -> ScriptCall<'a> {
        let [prefix, id, _] = key.pieces();
        ScriptCall {
            script: self,
            key: [prefix, id],
            arguments,
        }
    }
}

/// A script, the record's key, and what else it is given.
pub(super) struct ScriptCall<'a> {
    script: &'a Script,
    /// Its pieces: small, because it is kept until the answer is there.
    key: [&'a [u8]; 2],
    arguments: &'a [Word<'a>],
}

impl<'a> ScriptCall<'a> {
    pub(super) const fn key(&self) -> Word<'a> {
        Word::joined([self.key[0], self.key[1], b""])
    }

    /// Runs the script.
    pub(super) async fn run(
        &self,
        connection: &mut Connection,
        deadline: Instant,
    ) -> Result<Value, RedisError> {
        // The words are not kept while the answer is waited for.
        let answer = connection.ask(self.by_hash().words(), deadline);
        match answer.await.and_then(Value::extract_error) {
            Err(error) if is_unknown(&error) => {
                let answer = connection.ask(self.by_text().words(), deadline);
                answer.await.and_then(Value::extract_error)
            }
            answer => answer,
        }
    }

    /// Runs the script. If it has written, waits until the write is confirmed.
    pub(super) async fn write(
        &self,
        connection: &mut Connection,
        write: &Write<'_>,
        deadline: Instant,
    ) -> Result<Written, RedisError> {
        let by_hash = self.by_hash();
        match connection.write(by_hash.words(), write, deadline).await {
            Err(error) if is_unknown(&error) => {
                let by_text = self.by_text();
                connection.write(by_text.words(), write, deadline).await
            }
            answer => answer,
        }
    }

    fn by_hash(&self) -> Words<'a> {
        self.words("EVALSHA", &self.script.hash)
    }

    fn by_text(&self) -> Words<'a> {
        self.words("EVAL", self.script.text)
    }

    fn words(&self, name: &'static str, script: &'a str) -> Words<'a> {
        let mut words = [Word::from(""); 4 + MAX_ARGUMENTS];
        words[..4].copy_from_slice(&[name.into(), script.into(), "1".into(), self.key()]);
        let count = 4 + self.arguments.len();
        words[4..count].copy_from_slice(self.arguments);
        Words { words, count }
    }
}

/// The most arguments of a script.
const MAX_ARGUMENTS: usize = 6;

struct Words<'a> {
    words: [Word<'a>; 4 + MAX_ARGUMENTS],
    count: usize,
}

impl<'a> Words<'a> {
    fn words(&self) -> &[Word<'a>] {
        &self.words[..self.count]
    }
}

/// Whether the server does not know the script: it was restarted, or its scripts were flushed.
fn is_unknown(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

/// `SET key record NX GET PX milliseconds`, which answers both hot paths.
pub(super) fn set_if_absent<'a>(
    key: Word<'a>,
    record: &'a [u8],
    millis: &'a Number,
) -> [Word<'a>; 7] {
    [
        "SET".into(),
        key,
        record.into(),
        "NX".into(),
        "GET".into(),
        "PX".into(),
        millis.as_bytes().into(),
    ]
}

/// A boolean argument of a script.
pub(super) fn flag(set: bool) -> Word<'static> {
    if set { "1" } else { "0" }.into()
}
