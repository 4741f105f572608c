//! What the frameworks share whose handlers use the function form: the key of a request as an
//! argument, and a response as a value that is stored.

use std::fmt;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use idem_core::http::{
    Captured, DEFAULT_RELEASE, HttpSettings, Problem, RequestIdentity, capture, parse_key,
    replay_under,
};
use idem_core::{
    AfterCrash, Engine, Error, Fingerprint, Key, KeyError, KeyPart, KeyRequest, NotReplayable,
    Outcome, Settings, Verdict,
};
use serde::{Serialize, Serializer};

use crate::handler::Refused;

/// The settings of the engine that a request names, else of the installed one.
pub(crate) fn settings<T>(engine: Option<&Engine>, use_them: impl FnOnce(&HttpSettings) -> T) -> T {
    match Engine::resolve(engine.cloned(), || None) {
        Ok(engine) => use_them(engine.http()),
        Err(_) => use_them(&HttpSettings::default()),
    }
}

/// What of a request's head an idempotent function takes as an argument.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    key: Result<String, KeyError>,
    /// What it counts as an argument: method, path, query and content type.
    head: Fingerprint,
    /// What counts beside the arguments.
    request: KeyRequest,
}

impl Head {
    pub(crate) fn of(identity: RequestIdentity<'_>, name: &str, engine: Option<&Engine>) -> Self {
        let syntax = settings(engine, HttpSettings::accepted_keys);
        Self {
            key: parse_key(identity.headers.get_all(name), syntax),
            // The body is compared as the arguments that it was made into.
            head: identity.head_fingerprint(),
            request: KeyRequest {
                target: identity.target_fingerprint(),
                caller: identity.caller_fingerprint(),
            },
        }
    }

    pub(crate) fn key(&self) -> Result<KeyText<'_>, KeyError> {
        let text = self.key.as_deref().map_err(|error| *error)?;
        let request = self.request;
        Ok(KeyText { text, request })
    }
}

impl KeyPart for Head {
    fn append_to(&self, key: &mut Key) -> Result<(), KeyError> {
        self.key()?.append_to(key)
    }
}

impl Serialize for Head {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.head.to_bytes())
    }
}

/// The text of a request's key. As a key, or a part of one, it says what was asked and who asks, as
/// the whole does.
#[derive(Clone, Copy)]
pub struct KeyText<'a> {
    text: &'a str,
    request: KeyRequest,
}

impl Deref for KeyText<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        self.text
    }
}

impl fmt::Display for KeyText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text)
    }
}

/// Shows no content: keys often are personal data.
impl fmt::Debug for KeyText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyText").finish_non_exhaustive()
    }
}

impl KeyPart for KeyText<'_> {
    fn append_to(&self, key: &mut Key) -> Result<(), KeyError> {
        self.text.append_to(key)?;
        key.set_request(self.request);
        Ok(())
    }
}

/// A response's body, as far as it is known when the response is captured.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    Buffered(Bytes),
    /// Not read, and how long it says that it is.
    Unread(Option<u64>),
    Broken,
}

/// It failed while it was read; how is of no interest here.
#[derive(Debug)]
pub(crate) struct Unreadable;

impl Body for Content {
    type Data = Bytes;
    type Error = Unreadable;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Unreadable>>> {
        match &mut *self {
            Self::Buffered(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Buffered(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Unread(_) | Self::Broken => Poll::Ready(Some(Err(Unreadable))),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Buffered(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Unread(Some(length)) => SizeHint::with_exact(*length),
            Self::Unread(None) => SizeHint::default(),
            Self::Broken => SizeHint::with_exact(0),
        }
    }
}

/// What a handler's response leaves behind. Its body is read already, or is not to be read.
pub(crate) fn verdict(response: Response<Content>, settings: &Settings) -> Verdict {
    if Refused::by(response.extensions()).is_some() {
        // A call or a step within was refused, after whatever this one had done before.
        return Verdict::of_one_stopped_within();
    }
    let limit = settings.max_outcome_bytes();
    let captured = capture(response, DEFAULT_RELEASE, limit, settings.http());
    let tombstone = |reason| Verdict::Final(Outcome::NotReplayable(reason));
    match captured.now_or_never() {
        Some(Captured::Ended(verdict, _)) => verdict,
        // A function's value is there when it returns: what flows after that is not the attempt's.
        Some(Captured::Flows(_)) => tombstone(NotReplayable::Streamed),
        None => tombstone(NotReplayable::NotCaptured),
    }
}

/// The same where no engine is known.
pub(crate) fn verdict_of_installed(response: Response<Content>) -> Verdict {
    match Engine::installed() {
        Ok(engine) => verdict(response, engine.settings()),
        Err(_) => Verdict::Final(Outcome::NotReplayable(NotReplayable::NotCaptured)),
    }
}

/// A stored outcome as a response, marked as a replay.
pub(crate) fn replayed_response(
    outcome: &Outcome,
    settings: &HttpSettings,
) -> Result<Response<Bytes>, Error> {
    match outcome {
        Outcome::NotReplayable(reason) => Err(Error::NotReplayable(*reason)),
        outcome => Ok(replay_under(outcome, settings)?),
    }
}

/// The problem of a body that panicked. What it said has gone to the panic hook.
pub(crate) fn crashed(next: AfterCrash) -> Problem {
    match next {
        AfterCrash::RolledBack => Problem::rolled_back(),
        AfterCrash::RunsAgain => Problem::crashed(),
        AfterCrash::Refuses => Problem::crashed().not_run_again(),
    }
}

/// Whether what was written in a transaction stays when this is the answer.
pub(crate) fn keeps_writes(status: StatusCode) -> bool {
    !status.is_client_error() && !status.is_server_error()
}
