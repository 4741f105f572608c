//! The scripts: every transition that has to look before it writes, each one atomic step.

use redis::{Cmd, ErrorKind, RedisError, Script as Hashed, ServerErrorKind, Value, cmd};

use super::connection::Connection;

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
    pub(super) abandon: Script,
    pub(super) inspect: Script,
    pub(super) watch: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            claim: Script::new(include_str!("scripts/claim.lua")),
            renew: Script::new(include_str!("scripts/renew.lua")),
            complete: Script::new(include_str!("scripts/complete.lua")),
            release: Script::new(include_str!("scripts/release.lua")),
            abandon: Script::new(include_str!("scripts/abandon.lua")),
            inspect: Script::new(include_str!("scripts/inspect.lua")),
            watch: Script::new(include_str!("scripts/watch.lua")),
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

    /// Runs the script on one record. A server that does not know it, because it was restarted
    /// or its scripts were flushed, is given its text.
    pub(super) async fn run(
        &self,
        connection: &mut Connection,
        key: &[u8],
        arguments: &[&[u8]],
    ) -> Result<Value, RedisError> {
        let command = |name: &str, script: &str| {
            let size = arguments.iter().map(|argument| argument.len() + 16).sum();
            let mut command = Cmd::with_capacity(arguments.len() + 4, size);
            command.arg(name).arg(script).arg(1).arg(key);
            for argument in arguments {
                command.arg(*argument);
            }
            command
        };
        match connection.send(&command("EVALSHA", &self.hash)).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                connection.send(&command("EVAL", self.text)).await
            }
            answer => answer,
        }
    }
}

/// `SET key record NX GET PX milliseconds`, which answers both hot paths.
pub(super) fn set_if_absent(key: &[u8], record: &[u8], millis: u64) -> Cmd {
    let mut command = cmd("SET");
    command
        .arg(key)
        .arg(record)
        .arg("NX")
        .arg("GET")
        .arg("PX")
        .arg(millis);
    command
}
