//! The scripts: every transition that has to look before it writes, each one atomic step.

use redis::{Cmd, ErrorKind, RedisError, Script as Hashed, ServerErrorKind, Value};

use super::connection::{Connection, Write, Written};

/// A script, and the hash that the server knows it by.
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
    pub(super) older: Script,
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
            older: Script::new(include_str!("scripts/older.lua")),
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
        match connection.send(&self.known(key, arguments)).await {
            Err(error) if is_unknown(&error) => connection.send(&self.taught(key, arguments)).await,
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
        let known = self.known(write.key, arguments);
        match connection.write(&known, write).await {
            Err(error) if is_unknown(&error) => {
                let taught = self.taught(write.key, arguments);
                connection.write(&taught, write).await
            }
            answer => answer,
        }
    }

    fn known(&self, key: &[u8], arguments: &[&[u8]]) -> Cmd {
        command("EVALSHA", &self.hash, key, arguments)
    }

    fn taught(&self, key: &[u8], arguments: &[&[u8]]) -> Cmd {
        command("EVAL", self.text, key, arguments)
    }
}

/// A server does not know a script when it was restarted, or its scripts were flushed.
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
