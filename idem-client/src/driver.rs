//! Sends an operation's tries over a transport, with tokio's timers. Knows nothing of any client.

use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Method, Response};
use http_body::Body;

use crate::answer_body::{self, AnswerBody};
use crate::key::{IdempotencyKey, KeyError};
use crate::operation::{Next, Operation};
use crate::outcome::{TryEnd, Unknown};
use crate::policy::Policy;
use crate::problem::Problem;

/// A mark for a request's extensions: an earlier process, or an earlier call, may have sent it with this
/// key. Then a refusal is never taken for "not carried out". The `journal` sets it; a program with an
/// outbox of its own does so itself.
#[derive(Clone, Copy, Debug)]
pub struct Resumed;

/// What sends one request over and over.
pub(crate) trait Transport {
    type Body: Body<Data = Bytes>;
    type Error;

    /// Sends the request, byte for byte the same every time.
    fn send(&mut self) -> impl Future<Output = Result<Response<Self::Body>, Self::Error>> + Send;

    fn judge(&self, error: &Self::Error) -> Failed;
}

/// How a transport failed.
pub(crate) enum Failed {
    /// As networks do.
    Try(TryEnd),
    /// No retry mends it: the request cannot be built, or another middleware gave it up.
    #[cfg_attr(
        not(feature = "reqwest-middleware"),
        allow(dead_code, reason = "every error of a tower service is a connection's")
    )]
    ForGood,
}

/// Why there is no answer.
pub(crate) enum NoAnswer<E> {
    Unknown(Unknown),
    /// The transport's own error; the operation was never carried out.
    Transport(E),
}

/// The key of a request, and the header with it: the given one, else that of the header, else, for an
/// operation, a new one. `None` for what is no operation.
///
/// # Errors
/// When the key is malformed, or there are two.
pub(crate) fn key_of(
    policy: &Policy,
    method: &Method,
    headers: &mut HeaderMap,
    given: Option<&IdempotencyKey>,
) -> Result<Option<IdempotencyKey>, KeyError> {
    let mut lines = headers.get_all(&policy.header).iter();
    let sent = lines
        .next()
        .map(IdempotencyKey::from_header_value)
        .transpose()?;
    if lines.next().is_some() {
        return Err(KeyError::Repeated);
    }
    let key = match (sent, given) {
        (Some(sent), Some(given)) if sent != *given => return Err(KeyError::Contradictory),
        // It stays as its caller has spelled it.
        (Some(sent), _) => return Ok(Some(sent)),
        (None, Some(given)) => given.clone(),
        (None, None) if Policy::is_operation(method) => IdempotencyKey::random(),
        (None, None) => return Ok(None),
    };
    headers.insert(&policy.header, key.header_value(policy.form));
    Ok(Some(key))
}

/// Sends until there is an outcome. Dropped, it sends nothing more, and what was sent may be carried
/// out.
pub(crate) async fn drive<T: Transport>(
    policy: &Policy,
    mut operation: Operation,
    mut transport: T,
) -> Result<Response<AnswerBody<T::Body>>, NoAnswer<T::Error>> {
    loop {
        let limit = operation.begin_try(now());
        let sent = tokio::time::timeout(limit, async {
            let response = transport.send().await.map_err(Some)?;
            let whole = answer_body::read(response, policy.max_answer_bytes).await;
            whole.map_err(|_| None)
        });
        let next = match sent.await {
            Ok(Ok(mut response)) => {
                let problem = problem_of(policy, &response);
                let (status, headers) = (response.status(), response.headers());
                match operation.answered(status, headers, problem.as_ref(), now()) {
                    Next::Answered(tries) => {
                        response.extensions_mut().insert(tries);
                        return Ok(response);
                    }
                    next => next,
                }
            }
            Ok(Err(None)) => operation.lost(TryEnd::Broken, now()),
            Ok(Err(Some(error))) => match transport.judge(&error) {
                Failed::Try(end) => operation.lost(end, now()),
                Failed::ForGood => {
                    return Err(match operation.failed(now()) {
                        Some(unknown) => NoAnswer::Unknown(unknown),
                        None => NoAnswer::Transport(error),
                    });
                }
            },
            Err(_) => operation.lost(TryEnd::TimedOut, now()),
        };
        match next {
            Next::Wait(wait) => tokio::time::sleep(wait).await,
            Next::Unknown(unknown) => return Err(NoAnswer::Unknown(unknown)),
            // Returned above.
            Next::Answered(_) => {}
        }
    }
}

fn problem_of<B>(policy: &Policy, response: &Response<AnswerBody<B>>) -> Option<Problem> {
    let body = response.body().whole()?;
    Problem::read(response.headers(), &body, &policy.problem_base)
}

/// The runtime's time, which tests can move.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
