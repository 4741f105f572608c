//! One call of an annotated function that is no web handler.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;

use idem_core::{
    Engine, Error, Fingerprint, FingerprintError, Fingerprinter, Key, KeyError, KeyRequest,
    Operation, Policy, Replayable, Transactional,
};

use crate::plan::operation;

/// Whether the argument that the key is made of is part of the fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyArgument {
    InFingerprint,
    LeftOut,
}

/// One call of an annotated function, before its body.
#[derive(Debug)]
pub struct FunctionCall {
    operation: Result<Operation, Error>,
    key: Result<Key, KeyError>,
    fingerprint: Result<Fingerprint, FingerprintError>,
}

impl FunctionCall {
    pub fn new(
        engine: Option<Engine>,
        name: Result<&'static str, Error>,
        policy: Policy,
        key: Result<Key, KeyError>,
        scope: Option<Result<Key, KeyError>>,
        fingerprint: Result<Fingerprinter, FingerprintError>,
        key_argument: KeyArgument,
    ) -> Self {
        let operation = operation(
            Engine::resolve(engine, || None),
            name.map(Cow::Borrowed),
            policy,
            scope,
        );
        // As in the handler form: the target is always part of the fingerprint, and who asks without a scope.
        let has_scope = operation.as_ref().is_ok_and(Operation::has_scope);
        let request = key.as_ref().ok().and_then(Key::request);
        let fingerprint = fingerprint.map(|mut parts| {
            if let Some(KeyRequest { target, caller }) = request {
                if key_argument == KeyArgument::LeftOut {
                    parts.bytes("target", &target.to_bytes());
                }
                if !has_scope {
                    parts.bytes("caller", &caller.to_bytes());
                }
            }
            parts.finish()
        });
        Self {
            operation,
            key,
            fingerprint,
        }
    }

    pub async fn run<T, Errors, F>(self, body: Pin<Box<F>>) -> T
    where
        T: Replayable<Errors>,
        F: Future<Output = T>,
    {
        match self.ready() {
            Ok((operation, key, fingerprint)) => {
                operation.replay_or_run(key, fingerprint, body).await
            }
            Err(error) => T::refused(error),
        }
    }

    /// The same in a transaction, which the body gives back.
    pub async fn run_in<T, Errors, D, B, F>((call, database): (Self, D), body: B) -> T
    where
        T: Replayable<Errors>,
        D: Transactional,
        B: FnOnce(D::Transaction) -> F,
        F: Future<Output = (D::Transaction, T)>,
    {
        match call.ready() {
            Ok((operation, key, fingerprint)) => {
                let operation = operation.in_database(database);
                operation.run_encoded(key, fingerprint, body).await
            }
            Err(error) => T::refused(error),
        }
    }

    fn ready(self) -> Result<(Operation, Result<Key, KeyError>, Fingerprint), Error> {
        let ready = self
            .operation
            .and_then(|operation| Ok((operation, self.fingerprint?)));
        if let Err(error) = &ready {
            crate::report_misconfiguration(error);
        }
        let (operation, fingerprint) = ready?;
        Ok((operation, self.key, fingerprint))
    }
}
