//! Long work: how far it is, on standard error, and Ctrl-C.

use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use idem::store::{Listed, Listing};

use crate::failure::Failure;
use crate::target::Target;

/// How often a terminal's line is written again.
const ON_TERMINAL: Duration = Duration::from_millis(200);
/// How often a line is added where there is no terminal.
const IN_FILE: Duration = Duration::from_secs(10);

/// Says how far long work is.
pub(crate) struct Progress {
    what: &'static str,
    is_terminal: bool,
    said: Instant,
    has_line: bool,
}

impl Progress {
    pub(crate) fn new(what: &'static str) -> Self {
        Self {
            what,
            is_terminal: io::stderr().is_terminal(),
            said: Instant::now(),
            has_line: false,
        }
    }

    pub(crate) fn say(&mut self, count: u64) {
        let pause = if self.is_terminal {
            ON_TERMINAL
        } else {
            IN_FILE
        };
        if self.said.elapsed() < pause {
            return;
        }
        self.said = Instant::now();
        let mut stderr = io::stderr();
        // Nobody is hurt where it cannot be said.
        let _ = match self.is_terminal {
            true => write!(stderr, "\r{count} {}\u{1b}[K", self.what),
            false => writeln!(stderr, "{count} {}", self.what),
        };
        let _ = stderr.flush();
        self.has_line = self.is_terminal;
    }
}

/// The terminal's line makes room for what comes.
impl Drop for Progress {
    fn drop(&mut self) {
        if self.has_line {
            let _ = write!(io::stderr(), "\r\u{1b}[K");
        }
    }
}

/// Work that can be dropped at any time, and is, with Ctrl-C.
pub(crate) async fn interruptible<T>(
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::select! {
        biased;
        pressed = tokio::signal::ctrl_c() => match pressed {
            Ok(()) => Err(Failure::Interrupted),
            Err(error) => Err(Failure::usage(format!("Ctrl-C cannot be listened for: {error}"))),
        },
        ended = work => ended,
    }
}

/// Asks for page after page, and hands on each record.
pub(crate) async fn each_record(
    target: &Target,
    mut listing: Listing,
    mut found: impl FnMut(&Listed) -> Result<Next, Failure>,
) -> Result<(), Failure> {
    let mut progress = Progress::new("records found");
    let mut count = 0;
    loop {
        let page = target.engine.list(&listing).await?;
        for record in &page.records {
            count += 1;
            if let Next::Enough = found(record)? {
                return Ok(());
            }
        }
        progress.say(count);
        match page.next {
            Some(next) => listing = listing.after(next),
            None => return Ok(()),
        }
    }
}

pub(crate) enum Next {
    GoOn,
    Enough,
}
