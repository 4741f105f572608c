//! Everything that a process says: logs and spans of all targets, panics, labels of metrics.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use metrics_util::debugging::{DebuggingRecorder, Snapshotter};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::layer::SubscriberExt;

use crate::USERS_PANIC;

#[derive(Clone, Default)]
struct Text(Arc<Mutex<Vec<u8>>>);

impl Write for Text {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Of crates that do not trace, but log.
impl log::Log for Text {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let target = record.target();
        writeln!(self.clone(), "log {target} {}", record.args()).unwrap();
    }

    fn flush(&self) {}
}

pub(crate) struct Heard {
    text: Text,
    metrics: Snapshotter,
}

impl Heard {
    /// Once in a process, before anything else happens in it.
    pub(crate) fn listen() -> Self {
        let text = Text::default();
        let writer = text.clone();
        let lines = tracing_subscriber::fmt::layer()
            .with_span_events(FmtSpan::NEW | FmtSpan::CLOSE)
            .with_ansi(false)
            .with_writer(move || writer.clone());
        // The one that the guide says to filter out: the SDK of AWS writes out whole answers.
        let heard = Targets::new().with_default(LevelFilter::TRACE).with_target(
            "aws_smithy_runtime::client::orchestrator",
            LevelFilter::DEBUG,
        );
        let subscriber = tracing_subscriber::registry().with(lines.with_filter(heard));
        tracing::subscriber::set_global_default(subscriber).unwrap();
        log::set_boxed_logger(Box::new(text.clone())).unwrap();
        log::set_max_level(log::LevelFilter::Trace);
        let panics = text.clone();
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // What a user's body says is the user's.
            let said = panic.payload().downcast_ref::<String>();
            if said.is_none_or(|said| said != USERS_PANIC) {
                writeln!(panics.clone(), "panic {panic}").unwrap();
                print(panic);
            }
        }));
        let recorder = DebuggingRecorder::new();
        let metrics = recorder.snapshotter();
        recorder.install().unwrap();
        Self { text, metrics }
    }

    /// Beside what the process says by itself.
    pub(crate) fn note(&self, said: &str) {
        writeln!(self.text.clone(), "{said}").unwrap();
    }

    /// An error, and all that caused it.
    pub(crate) fn note_error(&self, error: &dyn std::error::Error) {
        let mut next = Some(error);
        while let Some(error) = next {
            self.note(&format!("error {error} {error:?}"));
            next = error.source();
        }
    }

    /// What was said since the last look.
    pub(crate) fn take(&self) -> String {
        for (key, unit, description, value) in self.metrics.snapshot().into_vec() {
            self.note(&format!(
                "metric {key:?} {unit:?} {description:?} {value:?}"
            ));
        }
        let bytes = std::mem::take(&mut *self.text.0.lock().unwrap());
        String::from_utf8_lossy(&bytes).into_owned()
    }
}
