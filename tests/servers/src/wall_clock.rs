//! Processes whose wall clock is wrong.

use std::ffi::OsString;
use std::process::Command;
use std::time::Duration;

use crate::support::run;

/// Names another program.
const VARIABLE: &str = "IDEM_FAKETIME";

const ANSWER: Duration = Duration::from_secs(30);

/// Variables of a process whose wall clock is so many seconds off. Its monotonic clock, and all that it waits for,
/// is as everywhere.
///
/// # Panics
///
/// When `faketime` is not installed: `cargo xtask test` installs it; so does `apt-get install faketime`.
pub fn wall_clock_off(seconds: i64) -> Vec<(&'static str, String)> {
    let library = library().unwrap_or_else(|why| {
        panic!(
            "faketime does not run: {why}. `cargo xtask test` installs it; so does `apt-get install faketime`; \
             or name it in {VARIABLE}"
        )
    });
    vec![
        ("LD_PRELOAD", library),
        ("FAKETIME", format!("{seconds:+}")),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
}

/// What it has programs load, for those with threads. Only it knows where that is. (It would stand between us and
/// the program if it started it: who killed it would leave the program alone.)
fn library() -> Result<String, String> {
    let program = std::env::var_os(VARIABLE).unwrap_or_else(|| OsString::from("faketime"));
    let mut command = Command::new(program);
    command.args(["-m", "-f", "+1", "printenv", "LD_PRELOAD"]);
    let output = run(&mut command, b"", ANSWER)?;
    Ok(String::from_utf8_lossy(&output).trim().to_owned())
}
