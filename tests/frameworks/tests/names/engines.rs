//! What an engine says when it starts in a program whose functions share names.

use std::sync::{Arc, Mutex};

use idem::stores::memory::MemoryStore;
use idem::{Engine, Error, InstallError};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Level, Metadata, Subscriber};

/// The operations that errors of this thread speak of.
#[derive(Clone, Default)]
struct Errors(Arc<Mutex<Vec<String>>>);

impl Visit for Errors {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "operation" {
            self.0.lock().unwrap().push(value.to_owned());
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

impl Subscriber for Errors {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        event.record(&mut self.clone());
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[test]
fn an_engine_says_which_names_are_taken_when_it_is_built() {
    let errors = Errors::default();
    // Where there is one listener alone, an event that a thread without one comes to first is taken
    // for one that nobody hears, by all threads.
    let _another = Dispatch::new(Errors::default());
    tracing::subscriber::with_default(errors.clone(), || Engine::new(MemoryStore::new()));
    let errors = errors.0.lock().unwrap();
    assert!(errors.contains(&"payments.create".to_owned()), "{errors:?}");
}

#[test]
fn an_engine_is_not_installed_while_names_are_taken_and_says_where() {
    let error = Engine::new(MemoryStore::new()).install().unwrap_err();
    assert!(matches!(error, InstallError::NamesTaken(_)), "{error}");
    let message = format!("{error:?}");
    for says in ["payments.create", "`create`", "refused.rs:", "name = "] {
        assert!(message.contains(says), "{message}");
    }
    assert!(matches!(Engine::installed(), Err(Error::NoEngine)));
}
