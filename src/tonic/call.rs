//! What the attribute writes calls to: one call of a method, before its body.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;

use http::{HeaderName, HeaderValue, Method, Uri};
use idem_core::http::{RequestIdentity, parse_key};
use idem_core::{
    Begun, Engine, Error, ExecutionError, Fingerprint, FingerprintError, Fingerprinter, Key,
    KeyError, Operation,
};
use prost::Message;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use super::host::Target;
use super::refusal::{crashed, status, status_of_key};
use super::stored::{replay, verdict};
use crate::plan::{KeySource, Plan, operation};

/// `RESOURCE_EXHAUSTED`, `UNAVAILABLE`, `UNAUTHENTICATED`.
pub const DEFAULT_RELEASE: &[u16] = &[8, 14, 16];

/// A request's message.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no message that can be compared on a retry",
    label = "not a `prost::Message`",
    note = "a stream of requests has no fingerprint: an idempotent method takes one message, `Request<M>`"
)]
pub trait RequestMessage: Message {}

#[diagnostic::do_not_recommend]
impl<M: Message> RequestMessage for M {}

/// A response's message.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no message that can be stored and given back",
    label = "not a `prost::Message + Default`",
    note = "a stream of responses cannot be given again: an idempotent method answers with one message, `Result<Response<M>, Status>`"
)]
pub trait ResponseMessage: Message + Default + Send + 'static {}

#[diagnostic::do_not_recommend]
impl<M: Message + Default + 'static> ResponseMessage for M {}

/// What a method is called on.
#[diagnostic::on_unimplemented(
    message = "the body of an idempotent method runs on a task of its own, and `{Self}` cannot go there",
    label = "not `Clone + Send + Sync + 'static`",
    note = "derive `Clone` for the service, and keep what it owns behind an `Arc`"
)]
pub trait Service: Clone + Send + Sync + 'static {}

#[diagnostic::do_not_recommend]
impl<S: Clone + Send + Sync + 'static> Service for S {}

/// The service for the body's task.
pub fn service<S: Service>(service: &S) -> S {
    service.clone()
}

/// One call.
pub struct Call {
    ready: Result<Ready, Error>,
    /// Where the key is looked for, if it is in the metadata.
    metadata: Option<HeaderName>,
    release: Cow<'static, [u16]>,
}

struct Ready {
    operation: Operation,
    /// `None`: not required, and missing.
    key: Option<Result<Key, KeyError>>,
    fingerprint: Fingerprint,
}

impl Call {
    pub fn of<M: RequestMessage>(plan: Plan, request: &Request<M>) -> Self {
        Self {
            release: plan.release.clone(),
            metadata: match &plan.key {
                KeySource::Header(name) => Some(name.clone()),
                KeySource::Value(_) => None,
            },
            ready: prepare(plan, request),
        }
    }

    /// Runs the body, unless there is an answer without it. A client that goes away does not stop it.
    pub async fn run<N, F>(self, body: Pin<Box<F>>) -> Result<Response<N>, Status>
    where
        N: ResponseMessage,
        F: Future<Output = Result<Response<N>, Status>> + Send + 'static,
    {
        let release = self.release;
        let begun = match self.ready {
            // Boxed: it is large, and gone before the body runs.
            Ok(ready) => Box::pin(ready.begin()).await,
            Err(error) => {
                crate::report_misconfiguration(&error);
                Err(error)
            }
        };
        let ended = match begun.map_err(|error| status_of_key(&error, self.metadata.as_ref()))? {
            Begun::Replay(outcome) => {
                return replay(&outcome).unwrap_or_else(|error| Err(status(&error)));
            }
            Begun::Unprotected(unprotected) => {
                let ended = unprotected.drive_detached(body).await;
                ended.map_err(ExecutionError::Panicked)
            }
            Begun::Execute(execution) => {
                let judged = async move {
                    let answer = body.await;
                    (verdict(&answer, &release), answer)
                };
                execution.drive_detached(Box::pin(judged)).await
            }
        };
        ended.unwrap_or_else(|error| {
            Err(match error {
                ExecutionError::NotRun(error) | ExecutionError::Stopped(error) => status(&error),
                // The panic's message has gone to the panic hook, and is not for clients.
                ExecutionError::Panicked(_) => crashed(),
            })
        })
    }
}

impl Ready {
    async fn begin(self) -> Result<Begun, Error> {
        let Self {
            operation,
            key,
            fingerprint,
        } = self;
        match key {
            None => Ok(Begun::Unprotected(operation.unprotected())),
            Some(key) => operation.keyed(key)?.begin(fingerprint).await,
        }
    }
}

fn prepare<M: Message>(plan: Plan, request: &Request<M>) -> Result<Ready, Error> {
    let metadata = request.metadata();
    let engine = Engine::resolve(plan.engine, || request.extensions().get().cloned())?;
    let key = match plan.key {
        KeySource::Value(key) => key,
        KeySource::Header(name) => key_in(metadata, name.as_str(), &engine),
    };
    let operation = operation(Ok(engine), plan.name, plan.policy, plan.scope)?;
    let fingerprint = fingerprint(plan.fingerprint, request, operation.has_scope())?;
    Ok(Ready {
        operation,
        key: (plan.required || key != Err(KeyError::Missing)).then_some(key),
        fingerprint,
    })
}

fn key_in(metadata: &MetadataMap, name: &str, engine: &Engine) -> Result<Key, KeyError> {
    let lines: Result<Vec<_>, _> = metadata
        .get_all(name)
        .iter()
        .map(|line| HeaderValue::from_bytes(line.as_encoded_bytes()))
        .collect();
    let lines = lines.map_err(|_| KeyError::Malformed)?;
    let key = parse_key(&lines, engine.http().accepted_keys())?;
    Key::of(&key)
}

fn fingerprint<M: Message>(
    named: Option<Result<Fingerprinter, FingerprintError>>,
    request: &Request<M>,
    has_scope: bool,
) -> Result<Fingerprint, FingerprintError> {
    let mut parts = match named {
        Some(parts) => parts?,
        None => {
            let mut parts = Fingerprinter::new();
            parts.bytes("message", &request.get_ref().encode_to_vec());
            parts
        }
    };
    if !has_scope {
        // Another caller's answer is never given back.
        let unknown = Uri::default();
        let target = request.extensions().get::<Target>();
        let identity = RequestIdentity {
            method: &Method::POST,
            uri: target.map_or(&unknown, |target| &target.0),
            headers: request.metadata().as_ref(),
        };
        identity.count_caller(&mut parts);
    }
    Ok(parts.finish())
}
