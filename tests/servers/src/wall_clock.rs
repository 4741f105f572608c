//! Processes whose wall clock is wrong.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::run;

/// Names another program.
const VARIABLE: &str = "IDEM_FAKETIME";

const ANSWER: Duration = Duration::from_secs(30);

/// Where the library keeps what a process shares with those that it starts, by its id.
const SHARED: &str = "/dev/shm";

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
    remove_what_the_dead_have_left();
    let program = std::env::var_os(VARIABLE).unwrap_or_else(|| OsString::from("faketime"));
    let mut command = Command::new(program);
    command.args(["-m", "-f", "+1", "printenv", "LD_PRELOAD"]);
    let output = run(&mut command, b"", ANSWER)?;
    Ok(String::from_utf8_lossy(&output).trim().to_owned())
}

/// A process that was killed leaves its shared memory, and `faketime` does not run under the id of one that did.
fn remove_what_the_dead_have_left() {
    for file in std::fs::read_dir(SHARED).into_iter().flatten().flatten() {
        let name = file.file_name();
        let name = name.to_string_lossy();
        let owner = ["faketime_shm_", "sem.faketime_sem_"]
            .iter()
            .find_map(|prefix| name.strip_prefix(prefix));
        if let Some(owner) = owner
            && !Path::new("/proc").join(owner).exists()
        {
            let _ = std::fs::remove_file(file.path());
        }
    }
}
