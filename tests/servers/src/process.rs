//! A child program that does not outlive this process, and signals to it.
//!
//! A shell stands between: it holds the read end of a pipe whose write end is held here and
//! nowhere else. Whatever ends this process closes the pipe, and then the shell kills the program.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::support::wait_until;

/// How long a program may take to end: Redis waits ten seconds for a replica that lags.
const END: Duration = Duration::from_secs(30);

/// Ends when the program ends, with its status. Only the guard keeps the pipe; the program has
/// neither end. The guard dies before the program's pid can mean somebody else.
const SHELL: &str = r#"
exec 3<&0 </dev/null
"$@" 3<&- >&2 &
program=$!
(read -r _ <&3; kill -KILL "$program") >/dev/null 2>&1 &
guard=$!
echo "$program"
wait "$program"
status=$?
kill -KILL "$guard" 2>/dev/null
exit "$status"
"#;

/// What [`Process::signal`] sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Stops it where it stands. See [`Process::pause`], which also waits for it.
    Stop,
    /// Lets it go on.
    Cont,
    /// Asks it to end.
    Term,
    /// Ends it.
    Kill,
}

/// A running program, which is killed on drop.
#[derive(Debug)]
pub struct Process {
    command: Vec<OsString>,
    log: PathBuf,
    running: Mutex<Running>,
}

#[derive(Debug)]
struct Running {
    pid: u32,
    shell: Child,
    /// Closing it kills. Taken from `shell`, whose `wait` would close it.
    guard: Option<ChildStdin>,
}

impl Process {
    /// Starts a program. Its input is empty, its output is appended to `log`.
    ///
    /// A program that cannot be started looks like one that ended at once: the log says why.
    pub fn start<A: Into<OsString>>(
        program: impl AsRef<Path>,
        args: impl IntoIterator<Item = A>,
        log: impl Into<PathBuf>,
    ) -> Self {
        let mut command = vec![program.as_ref().as_os_str().to_owned()];
        command.extend(args.into_iter().map(Into::into));
        let log = log.into();
        Self {
            running: Mutex::new(Running::start(&command, &log)),
            command,
            log,
        }
    }

    /// Starts it again with the same arguments; kills it before if it runs.
    pub fn restart(&self) {
        self.kill();
        *self.running() = Running::start(&self.command, &self.log);
    }

    /// Its process id. After its end, the one it had.
    pub fn pid(&self) -> u32 {
        self.running().pid
    }

    /// Whether it has not ended. A paused program is alive.
    pub fn is_alive(&self) -> bool {
        self.running().is_alive()
    }

    /// Sends a signal.
    ///
    /// # Panics
    ///
    /// When the program has ended.
    pub fn signal(&self, signal: Signal) {
        let mut running = self.running();
        assert!(
            running.is_alive() && running.signal(signal),
            "{signal:?} to a program that has ended: {}",
            self.describe()
        );
    }

    /// Stops it where it stands (SIGSTOP), and waits until it does. Its connections stay open.
    pub fn pause(&self) {
        self.signal(Signal::Stop);
        let stat = format!("/proc/{}/stat", self.pid());
        wait_until("a pause", END, || match fs::read_to_string(&stat) {
            Ok(stat) => match stat.rsplit_once(") ") {
                Some((_, rest)) if rest.starts_with('T') => Ok(()),
                _ => Err(stat),
            },
            // No such file system here: then the signal must do.
            Err(_) => Ok(()),
        });
    }

    /// Lets a paused program go on.
    pub fn resume(&self) {
        self.signal(Signal::Cont);
    }

    /// Ends it without notice (SIGKILL), paused or not, and waits until it is gone. Does nothing
    /// when it has ended.
    pub fn kill(&self) {
        self.end(Signal::Kill);
    }

    /// Asks it to end (SIGTERM) and waits until it is gone. Does nothing when it has ended.
    ///
    /// # Panics
    ///
    /// When it is still there after half a minute, for example because it is paused.
    pub fn stop(&self) {
        self.end(Signal::Term);
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    fn end(&self, signal: Signal) {
        let mut running = self.running();
        // It may end by itself between the two.
        if running.is_alive() && !running.signal(signal) && running.is_alive() {
            panic!("{signal:?} could not be sent to {}", self.describe());
        }
        let what = format!("end of a program by {signal:?}");
        wait_until(&what, END, || match running.is_alive() {
            true => Err(format!("it still runs: {}", self.describe())),
            false => Ok(()),
        });
    }

    fn describe(&self) -> String {
        format!("{:?}; its log ends:\n{}", self.command, self.log_tail())
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    fn start(command: &[OsString], log: &Path) -> Self {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .unwrap_or_else(|error| panic!("{}: {error}", log.display()));
        let mut shell = Command::new("sh")
            .args(["-c", SHELL, "sh"])
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            // The terminal's Ctrl-C ends the test, and only then the program.
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("sh does not start: {error}"));
        let guard = shell.stdin.take();
        let mut line = String::new();
        let output = shell.stdout.take().expect("piped");
        BufReader::new(output)
            .read_line(&mut line)
            .unwrap_or_else(|error| panic!("sh says no pid: {error}"));
        let pid = line
            .trim()
            .parse()
            .unwrap_or_else(|_| panic!("sh says no pid, but {line:?}"));
        Self { pid, shell, guard }
    }

    /// The shell waits for the program, so while the shell runs, the pid is the program's.
    fn is_alive(&mut self) -> bool {
        matches!(self.shell.try_wait(), Ok(None))
    }

    fn signal(&self, signal: Signal) -> bool {
        let name = match signal {
            Signal::Stop => "STOP",
            Signal::Cont => "CONT",
            Signal::Term => "TERM",
            Signal::Kill => "KILL",
        };
        // The shell's own `kill`: the program of that name is not installed everywhere.
        Command::new("sh")
            .args(["-c", r#"kill -s "$1" "$2""#, "sh", name])
            .arg(self.pid.to_string())
            .stdin(Stdio::null())
            .output()
            .is_ok_and(|output| output.status.success())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.guard.take());
        let _ = self.shell.wait();
    }
}
