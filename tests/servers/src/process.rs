//! A child program that does not outlive this process, and signals to it and its children.
//!
//! A shell stands between: it holds the read end of a pipe whose write end is held here and
//! nowhere else. Whatever ends this process closes the pipe, and then the shell kills the program.

mod family;

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::support::{User, wait_until};

pub use family::Signal;
use family::{CHILDREN, END, children, send, state, wait_until_stopped};

/// Ends when the program ends, with its status. Only the guard keeps the pipe; the program has
/// neither end. The guard dies before the program's pid can mean somebody else, unless it has
/// fired: then nobody is left to remove the directory.
const SHELL: &str = r#"
directory=$1
shift
# The system hangs up on a group that its parent has left when a member is stopped.
trap '' HUP
exec 3<&0 </dev/null
"$@" 3<&- >&2 &
program=$!
(
    read -r _ <&3
    trap '' TERM
    kill -STOP "$program"
    kill -KILL $(children "$program") "$program"
) >/dev/null 2>&1 &
guard=$!
echo "$program"
wait "$program"
status=$?
kill -TERM "$guard" 2>/dev/null
wait "$guard" 2>/dev/null
fired=$?
# Who is killed leaves shared memory behind, and a system has only so many pieces.
if [ -r /proc/sysvipc/shm ]; then
    while read -r _ piece _ _ creator _; do
        [ "$creator" = "$program" ] && ipcrm -m "$piece"
    done </proc/sysvipc/shm
fi
[ "$fired" = 0 ] && [ -n "$directory" ] && rm -rf "$directory"
exit "$status"
"#;

/// A running program, which is killed on drop.
#[derive(Debug)]
pub struct Process {
    program: Program,
    running: Mutex<Running>,
}

#[derive(Debug)]
struct Program {
    command: Vec<OsString>,
    log: PathBuf,
    /// Where it runs, unless it is here. Goes with the holder.
    directory: Option<PathBuf>,
    /// Whom it runs as, unless it is us.
    user: Option<User>,
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
        Self::run(Program {
            command,
            log: log.into(),
            directory: None,
            user: None,
        })
    }

    /// The same in a directory that is removed with the holder, which has the file `log`.
    pub(crate) fn start_in(directory: &Path, user: Option<User>, command: Vec<OsString>) -> Self {
        Self::run(Program {
            command,
            log: directory.join("log"),
            directory: Some(directory.to_owned()),
            user,
        })
    }

    fn run(program: Program) -> Self {
        Self {
            running: Mutex::new(Running::start(&program)),
            program,
        }
    }

    /// Starts it again with the same arguments; kills it before if it runs.
    pub fn restart(&self) {
        self.kill();
        *self.running() = Running::start(&self.program);
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

    /// Stops it and its children where they stand (SIGSTOP), and waits until they do. Their
    /// connections stay open.
    pub fn pause(&self) {
        self.signal(Signal::Stop);
        let pid = self.pid();
        wait_until_stopped(pid);
        let children = children(pid);
        send(Signal::Stop, &children);
        children.into_iter().for_each(wait_until_stopped);
    }

    /// Lets a paused program and its children go on.
    pub fn resume(&self) {
        send(Signal::Cont, &children(self.pid()));
        self.signal(Signal::Cont);
    }

    /// Ends it and its children without notice (SIGKILL), paused or not, and waits until they are
    /// gone. Does nothing when it has ended.
    pub fn kill(&self) {
        let children = self.stop_and_list();
        send(Signal::Kill, &children);
        self.end(Signal::Kill);
        for child in children {
            wait_until("end of a program's child", END, || match state(child) {
                None | Some('Z' | 'X') => Ok(()),
                Some(state) => Err(format!("{child} is in state {state}: {}", self.describe())),
            });
        }
    }

    /// Asks it to end (SIGTERM) and waits until it is gone. Does nothing when it has ended.
    ///
    /// # Panics
    ///
    /// When it is still there after half a minute, for example because it is paused.
    pub fn stop(&self) {
        self.end(Signal::Term);
    }

    /// See [`Process::stop`]: the same with SIGINT.
    pub(crate) fn interrupt(&self) {
        self.end(Signal::Int);
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let log = fs::read(&self.program.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Its children before it ends. None when it has ended.
    fn stop_and_list(&self) -> Vec<u32> {
        let mut running = self.running();
        if !(running.is_alive() && running.signal(Signal::Stop)) {
            return Vec::new();
        }
        wait_until_stopped(running.pid);
        children(running.pid)
    }

    fn end(&self, signal: Signal) {
        let mut running = self.running();
        // It may end by itself between the two.
        if running.is_alive() {
            running.signal(signal);
        }
        let what = format!("end of a program by {signal:?}");
        wait_until(&what, END, || match running.is_alive() {
            true => Err(format!("it still runs: {}", self.describe())),
            false => Ok(()),
        });
    }

    fn describe(&self) -> String {
        let command = &self.program.command;
        format!("{command:?}; its log ends:\n{}", self.log_tail())
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    fn start(program: &Program) -> Self {
        let Program {
            command,
            log,
            directory,
            user,
        } = program;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .unwrap_or_else(|error| panic!("{}: {error}", log.display()));
        let mut shell = Command::new("sh");
        if let Some(directory) = directory {
            shell.current_dir(directory);
        }
        if let Some(user) = user {
            user.runs(&mut shell);
        }
        let mut shell = shell
            .args(["-c", &format!("{CHILDREN}{SHELL}"), "sh"])
            .arg(directory.as_deref().unwrap_or(Path::new("")))
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
        send(signal, &[self.pid])
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.guard.take());
        let _ = self.shell.wait();
    }
}
