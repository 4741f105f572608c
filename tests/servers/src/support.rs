//! Waiting, free ports and temporary directories.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
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
pub(crate) fn free_port() -> u16 {
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
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new(name: &str) -> Self {
        // Short: a socket's path has room for about a hundred bytes.
        let path = std::env::temp_dir().join(format!("idem-{name}-{:016x}", unique()));
        fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
