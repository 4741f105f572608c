//! What is logged.

use std::io::Write;
use std::sync::{Arc, LazyLock, Mutex};

use tracing::Dispatch;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Listens to everything and keeps nothing. Where there is one listener alone, an event that a
/// thread without one comes to first is taken for one that nobody hears, by all threads.
static ANOTHER: LazyLock<Dispatch> = LazyLock::new(|| {
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_writer(std::io::sink);
    Dispatch::new(subscriber.finish())
});

/// What is logged, whoever logs it.
#[derive(Clone)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Default for Log {
    fn default() -> Self {
        LazyLock::force(&ANOTHER);
        Self(Arc::default())
    }
}

impl Log {
    /// What was logged since the last look.
    pub(crate) fn take(&self) -> String {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap());
        String::from_utf8(bytes).unwrap()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Warnings of this thread, while the guard lives.
pub(crate) fn listen() -> (Log, tracing::subscriber::DefaultGuard) {
    listen_to(LevelFilter::WARN)
}

/// What this thread says down to a level, while the guard lives.
pub(crate) fn listen_to(level: LevelFilter) -> (Log, tracing::subscriber::DefaultGuard) {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .with_writer(log.clone())
        .finish();
    (log, tracing::subscriber::set_default(subscriber))
}
