//! A program, its children, and signals to them.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::wait_until;

/// How long a program may take to end: Redis waits ten seconds for a replica that lags.
pub(super) const END: Duration = Duration::from_secs(30);

/// Lists a program's children. Those of a stopped program stay the same, and keep their pids.
pub(super) const CHILDREN: &str = r#"
children() {
    if [ ! -r /proc/self/stat ]; then
        ps -A -o ppid=,pid= | while read -r parent pid; do
            [ "$parent" = "$1" ] && echo "$pid"
        done
        return
    fi
    # `pid (name) state parent …`, where the name may be anything.
    for stat in /proc/[0-9]*/stat; do
        read -r line <"$stat" || continue
        line=${line##*") "? }
        [ "${line%% *}" = "$1" ] && stat=${stat#/proc/} && echo "${stat%/stat}"
    done 2>/dev/null
}
"#;

/// What [`Process::signal`](super::Process::signal) sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Stops it where it stands. See [`Process::pause`](super::Process::pause), which also waits, and stops its children.
    Stop,
    /// Lets it go on.
    Cont,
    /// Asks it to end, as Ctrl-C does.
    Int,
    /// Asks it to end.
    Term,
    /// Ends it.
    Kill,
}

/// Whether all of them were there to receive it. Those that were have it.
pub(super) fn send(signal: Signal, pids: &[u32]) -> bool {
    if pids.is_empty() {
        return true;
    }
    let name = match signal {
        Signal::Stop => "STOP",
        Signal::Cont => "CONT",
        Signal::Int => "INT",
        Signal::Term => "TERM",
        Signal::Kill => "KILL",
    };
    // The shell's own `kill`: the program of that name is not installed everywhere.
    Command::new("sh")
        .args(["-c", r#"kill -s "$@""#, "sh", name])
        .args(pids.iter().map(u32::to_string))
        .stdin(Stdio::null())
        .output()
        .is_ok_and(|output| output.status.success())
}

pub(super) fn children(pid: u32) -> Vec<u32> {
    let output = Command::new("sh")
        .args(["-c", &format!("{CHILDREN}children \"$1\""), "sh"])
        .arg(pid.to_string())
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("sh does not start: {error}"));
    let list = String::from_utf8_lossy(&output.stdout);
    list.lines().filter_map(|line| line.parse().ok()).collect()
}

/// It may also end meanwhile.
pub(super) fn wait_until_stopped(pid: u32) {
    wait_until("a pause", END, || match state(pid) {
        None | Some('T' | 't' | 'Z' | 'X') => Ok(()),
        Some(state) => Err(format!("{pid} is in state {state}")),
    });
}

/// `None` when it is gone, or there is no such file system here: then the signal must do.
pub(super) fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.chars().next()
}
