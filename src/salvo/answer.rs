//! Salvo's response on its way to the store, and what comes back in its place.
//!
//! Salvo's response says more than HTTP does: that it has no body, or that a catcher shall render
//! an error in its place. A header that no client sees keeps that.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::header::SET_COOKIE;
use http::{HeaderName, HeaderValue, StatusCode};
use http_body_util::BodyExt;
use idem_core::http::{CapturedBody, ProblemKind};
use salvo_core::http::{HeaderMap, ResBody, StatusError};
use salvo_core::{Depot, Request, Response, Writer};

use super::status_error::{decode, encode};
use crate::handler::Responded;

const BODY_IS: HeaderName = HeaderName::from_static("idem-salvo-body");
const NONE: HeaderValue = HeaderValue::from_static("none");
const ERROR: HeaderValue = HeaderValue::from_static("error");

/// What came of running the last extractor and the handler.
pub struct Reply(pub(super) Responded<ResBody>);

/// The handler's own response, with what of it a store cannot hold.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Option<StatusError>>>);

/// Takes the response that the handler has written.
pub fn answered(response: &mut Response) -> Reply {
    Reply(Responded::Answered(take(response)))
}

/// Takes the response in which the last extractor refuses.
pub fn rejected(response: &mut Response) -> Reply {
    Reply(Responded::Rejected(
        take(response).map(CapturedBody::streamed),
    ))
}

/// An extractor's error, as salvo's macro answers it.
pub async fn reject(
    error: impl Writer,
    request: &mut Request,
    depot: &mut Depot,
    response: &mut Response,
) {
    error.write(request, depot, response).await;
    let status = response.status_code.unwrap_or_default();
    if !status.is_client_error() && !status.is_server_error() {
        response.status_code(StatusCode::BAD_REQUEST);
    }
}

fn take(response: &mut Response) -> http::Response<ResBody> {
    // As salvo itself does it once the handler has ended.
    let status = response.status_code.unwrap_or(match &response.body {
        ResBody::Error(error) => error.code,
        _ => StatusCode::OK,
    });
    // Writes the cookies as headers, too.
    let mut taken = response.strip_to_hyper();
    *taken.status_mut() = status;
    taken.headers_mut().remove(BODY_IS);
    let kept = Kept::default();
    match taken.body() {
        ResBody::None => {
            taken.headers_mut().insert(BODY_IS, NONE);
        }
        ResBody::Error(error) => {
            let encoded = ResBody::Once(encode(error).into());
            taken.headers_mut().insert(BODY_IS, ERROR);
            if let ResBody::Error(error) = std::mem::replace(taken.body_mut(), encoded) {
                *lock(&kept) = Some(error);
            }
        }
        _ => {}
    }
    taken.extensions_mut().insert(kept);
    taken
}

fn lock(kept: &Kept) -> std::sync::MutexGuard<'_, Option<StatusError>> {
    kept.0.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers without the handler.
pub async fn answer(response: &mut Response, answer: http::Response<Bytes>) {
    let before = std::mem::take(&mut response.headers);
    put(response, before, answer.map(CapturedBody::buffered)).await;
}

/// Puts an answer where salvo expects it. `before` is what hoops had set before the handler.
pub(super) async fn put(
    response: &mut Response,
    before: HeaderMap,
    answer: http::Response<CapturedBody<ResBody>>,
) {
    let (mut head, body) = answer.into_parts();
    let body_is = head.headers.remove(BODY_IS);
    response.status_code = Some(head.status);
    let own = head.extensions.remove::<Kept>();
    let error = match own {
        Some(own) => {
            response.headers = head.headers;
            response.extensions = head.extensions;
            lock(&own).take()
        }
        None => {
            if head.headers.contains_key(SET_COOKIE) {
                // The jar's cookies have that name, too: it is emptied.
                let mut emptied = response.strip_to_hyper();
                response.extensions = std::mem::take(emptied.extensions_mut());
            }
            response.headers = before;
            for name in head.headers.keys() {
                response.headers.remove(name);
            }
            for (name, value) in &head.headers {
                // Beside what hoops have set, there may be no room for all.
                let _ = response.headers.try_append(name, value.clone());
            }
            if let Some(kind) = head.extensions.remove::<ProblemKind>() {
                response.extensions.insert(kind);
            }
            None
        }
    };
    response.body = match (error, body_is) {
        (Some(error), _) => ResBody::Error(error),
        (None, Some(is)) if is == NONE => ResBody::None,
        (None, Some(is)) if is == ERROR => {
            let encoded = buffered(body).await.unwrap_or_default();
            decode(head.status, &encoded).map_or(ResBody::None, ResBody::Error)
        }
        (None, _) => match body.into_streamed() {
            Ok(body) => body,
            Err(read) if read.is_whole() => {
                buffered(read).await.map_or(ResBody::None, ResBody::Once)
            }
            Err(read) => ResBody::Boxed(Box::pin(read.map_err(Into::into))),
        },
    };
}

async fn buffered(body: CapturedBody<ResBody>) -> Result<Bytes, io::Error> {
    let collected = body.collect().await.map_err(io::Error::from)?;
    Ok(collected.to_bytes())
}
