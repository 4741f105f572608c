//! Bodies of actix-web as bodies of the crate `http-body`, and back.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use bytes::Bytes;
use futures_util::Stream;
use http_body::{Body, Frame, SizeHint};
use idem_core::http::{BodyError, CapturedBody, CapturedBodyError};

/// The body of a request.
pub(super) struct Incoming(pub(super) Payload);

impl Body for Incoming {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let chunk = Pin::new(&mut self.0).poll_next(cx);
        let frame = |chunk: Result<Bytes, PayloadError>| match chunk {
            Ok(chunk) => Ok(Frame::data(chunk)),
            Err(PayloadError::Overflow) => Err(BodyError::TooLarge { limit: None }),
            Err(_) => Err(BodyError::Unreadable),
        };
        chunk.map(|chunk| chunk.map(frame))
    }
}

/// The body of a response.
pub(super) struct Outgoing {
    body: BoxBody,
}

impl Outgoing {
    pub(super) const fn of(body: BoxBody) -> Self {
        Self { body }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Box<dyn Error>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Box<dyn Error>>>> {
        let chunk = self.body.as_pin_mut().poll_next(cx);
        chunk.map(|chunk| chunk.map(|chunk| chunk.map(Frame::data)))
    }

    fn size_hint(&self) -> SizeHint {
        match self.body.size() {
            BodySize::None => SizeHint::with_exact(0),
            BodySize::Sized(length) => SizeHint::with_exact(length),
            BodySize::Stream => SizeHint::default(),
        }
    }
}

/// What a client gets.
pub(super) fn answer(body: CapturedBody<Outgoing>) -> BoxBody {
    match body.into_streamed() {
        Ok(outgoing) => outgoing.body,
        Err(read) => BoxBody::new(Captured(read)),
    }
}

struct Captured(CapturedBody<Outgoing>);

impl MessageBody for Captured {
    type Error = Box<dyn Error>;

    fn size(&self) -> BodySize {
        match self.0.size_hint().exact() {
            Some(length) => BodySize::Sized(length),
            None => BodySize::Stream,
        }
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Box<dyn Error>>>> {
        loop {
            match ready!(Pin::new(&mut self.0).poll_frame(cx)) {
                None => return Poll::Ready(None),
                Some(Err(CapturedBodyError::Body(error))) => return Poll::Ready(Some(Err(error))),
                Some(Err(CapturedBodyError::CutOff(error))) => {
                    return Poll::Ready(Some(Err(error.into())));
                }
                Some(Ok(frame)) => {
                    // HTTP/1.1 as actix writes it has no trailers.
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
            }
        }
    }
}
