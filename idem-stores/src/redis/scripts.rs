//! The scripts. Each transition that looks before it writes is one script, and so one atomic step.

use redis::{Cmd, ErrorKind, RedisError, Script as Hashed, ServerErrorKind, Value};

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
    pub(super) v1_claim: Script,
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

    /// Runs the script on one record.
    pub(super) async fn run(
        &self,
        connection: &mut Connection,
        key: &[u8],
        arguments: &[&[u8]],
    ) -> Result<Value, RedisError> {
        match connection.send(&self.by_hash(key, arguments)).await {
            Err(error) if is_unknown(&error) => {
                connection.send(&self.by_text(key, arguments)).await
            }
            answer => answer,
        }
    }

    /// Runs the script on one record that it may write.
    pub(super) async fn write(
        &self,
        connection: &mut Connection,
        arguments: &[&[u8]],
        write: &Write<'_>,
    ) -> Result<Written, RedisError> {
        let by_hash = self.by_hash(write.key, arguments);
        match connection.write(&by_hash, write).await {
            Err(error) if is_unknown(&error) => {
                let by_text = self.by_text(write.key, arguments);
                connection.write(&by_text, write).await
            }
            answer => answer,
        }
    }

    fn by_hash(&self, key: &[u8], arguments: &[&[u8]]) -> Cmd {
        command("EVALSHA", &self.hash, key, arguments)
    }

    fn by_text(&self, key: &[u8], arguments: &[&[u8]]) -> Cmd {
        command("EVAL", self.text, key, arguments)
    }
}

/// Whether the server does not know the script: it was restarted, or its scripts were flushed.
fn is_unknown(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

fn command(name: &str, script: &str, key: &[u8], arguments: &[&[u8]]) -> Cmd {
    let size: usize = arguments.iter().map(|argument| argument.len() + 16).sum();
    let size = size + key.len() + script.len() + 48;
    let mut command = Cmd::with_capacity(arguments.len() + 4, size);
    command.arg(name).arg(script).arg(1).arg(key);
    for argument in arguments {
        command.arg(*argument);
    }
    command
}

/// `SET key record NX GET PX milliseconds`, which answers both hot paths.
pub(super) fn set_if_absent(key: &[u8], record: &[u8], millis: u64) -> Cmd {
    let mut command = Cmd::with_capacity(8, key.len() + record.len() + 48);
    command
        .arg("SET")
        .arg(key)
        .arg(record)
        .arg("NX")
        .arg("GET")
        .arg("PX")
        .arg(millis);
    command
}

/// A boolean argument of a script.
pub(super) const fn flag(set: bool) -> &'static [u8] {
    if set { b"1" } else { b"0" }
}
