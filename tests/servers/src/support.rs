//! Waiting, free ports, temporary directories and programs that end.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Asks until the answer is `Ok`. The `Err` says what is seen instead.
///
/// # Panics
///
/// When the answer is still `Err` after `limit`.
#[track_caller]
pub fn wait_until<T>(
    what: &str,
    limit: Duration,
    mut check: impl FnMut() -> Result<T, String>,
) -> T {
    let start = Instant::now();
    loop {
        match check() {
            Ok(value) => return value,
            Err(seen) => assert!(
                start.elapsed() < limit,
                "{what}: did not happen within {limit:?}, but: {seen}"
            ),
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// A number that no other process is likely to use, and this one uses once.
fn unique() -> u64 {
    static NEXT: LazyLock<AtomicU64> =
        LazyLock::new(|| AtomicU64::new(RandomState::new().hash_one(std::process::id())));
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A port of 127.0.0.1 that nobody listens on. Somebody else may take it before the caller does.
///
/// It lies below the ports that systems give to clients. From among those, a client that retries
/// a server that is down can be given the server's own port, and then connects to itself and
/// keeps the server from coming back.
///
/// # Panics
///
/// When there is none.
pub fn free_port() -> u16 {
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 22_000;
    for _ in 0..COUNT {
        let port = FIRST + u16::try_from(unique() % u64::from(COUNT)).expect("less than COUNT");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port on 127.0.0.1 from {FIRST} on");
}

/// A directory that is removed on drop.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// Makes a new one.
    ///
    /// # Panics
    ///
    /// When that is not possible.
    pub fn new(name: &str) -> Self {
        // Short: a socket's path has room for about a hundred bytes.
        let path = std::env::temp_dir().join(format!("idem-{name}-{:016x}", unique()));
        fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Somebody else, whom programs can run as when we are root.
#[derive(Debug, Clone, Copy)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl User {
    pub(crate) fn runs(self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }

    pub(crate) fn owns(self, path: &Path) {
        chown(path, Some(self.uid), Some(self.gid))
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

/// Runs a program to its end and gives its output. The `Err` says what went wrong, in the
/// program's words if it has any.
pub(crate) fn run(command: &mut Command, input: &[u8], limit: Duration) -> Result<Vec<u8>, String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut stdin), Some(stdout), Some(stderr)) = pipes else {
        unreachable!("all are piped");
    };
    thread::scope(|scope| {
        // It may end before it has read everything.
        scope.spawn(move || stdin.write_all(input));
        let output = scope.spawn(|| read(stdout));
        let errors = scope.spawn(|| read(stderr));
        let start = Instant::now();
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if start.elapsed() < limit => thread::sleep(Duration::from_millis(1)),
                other => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(format!(
                        "{command:?} did not end within {limit:?}: {other:?}"
                    ));
                }
            }
        };
        let [output, errors] = [output, errors].map(|it| it.join().expect("reads"));
        if status.success() {
            return Ok(output);
        }
        let errors = String::from_utf8_lossy(&errors).trim().to_owned();
        Err(if errors.is_empty() {
            format!("{command:?}: {status}")
        } else {
            errors
        })
    })
}

fn read(mut from: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _: io::Result<usize> = from.read_to_end(&mut bytes);
    bytes
}

/// As in a URL: `%` and the number for all that might mean something.
pub(crate) fn escaped(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}
