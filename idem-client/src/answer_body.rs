//! The body of an answer: read whole before the answer counts, or flowing.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;

/// The body of an answer: whole, or what was read of it and the rest, which flows.
pub struct AnswerBody<B> {
    read: Option<Bytes>,
    trailers: Option<HeaderMap>,
    rest: Option<Pin<Box<B>>>,
}

impl<B> AnswerBody<B> {
    /// As it comes.
    pub(crate) fn flowing(body: B) -> Self {
        Self {
            read: None,
            trailers: None,
            rest: Some(Box::pin(body)),
        }
    }

    /// The body's bytes, where it was read whole.
    pub fn whole(&self) -> Option<Bytes> {
        match self.rest {
            None => Some(self.read.clone().unwrap_or_default()),
            Some(_) => None,
        }
    }
}

/// Reads an answer's body, up to the limit.
///
/// # Errors
/// When it breaks off.
pub(crate) async fn read<B>(
    response: Response<B>,
    max_bytes: usize,
) -> Result<Response<AnswerBody<B>>, B::Error>
where
    B: Body<Data = Bytes>,
{
    let (head, body) = response.into_parts();
    let mut body = AnswerBody::flowing(body);
    let longer = |rest: &Pin<Box<B>>, read: usize| {
        let known = usize::try_from(rest.size_hint().lower()).unwrap_or(usize::MAX);
        read.saturating_add(known) > max_bytes
    };
    let mut read = BytesMut::new();
    if !flows(&head.headers) {
        while let Some(rest) = body.rest.as_mut() {
            if longer(rest, read.len()) {
                break;
            }
            match rest.frame().await.transpose()? {
                None => body.rest = None,
                Some(frame) => match frame.into_data() {
                    Ok(data) => read.extend_from_slice(&data),
                    Err(frame) => body.trailers = frame.into_trailers().ok(),
                },
            }
        }
    }
    body.read = (!read.is_empty()).then(|| read.freeze());
    Ok(Response::from_parts(head, body))
}

/// Events are wanted as they come.
fn flows(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok());
    let essence = value.and_then(|it| it.split(';').next());
    essence.is_some_and(|it| it.trim().eq_ignore_ascii_case("text/event-stream"))
}

impl<B: Body<Data = Bytes>> Body for AnswerBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if let Some(read) = self.read.take() {
            return Poll::Ready(Some(Ok(Frame::data(read))));
        }
        if let Some(rest) = self.rest.as_mut() {
            return rest.as_mut().poll_frame(cx);
        }
        let trailers = self.trailers.take();
        Poll::Ready(trailers.map(|it| Ok(Frame::trailers(it))))
    }

    fn is_end_stream(&self) -> bool {
        let rest = self.rest.as_ref();
        self.read.is_none() && self.trailers.is_none() && rest.is_none_or(|it| it.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let read = self.read.as_ref().map_or(0, Bytes::len) as u64;
        let Some(rest) = self.rest.as_ref().map(|it| it.size_hint()) else {
            return SizeHint::with_exact(read);
        };
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(read));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(read));
        }
        hint
    }
}

impl<B> fmt::Debug for AnswerBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = &mut f.debug_struct("AnswerBody");
        body.field("is_whole", &self.rest.is_none());
        body.finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;

    use super::*;

    /// Chunks of unknown length, then perhaps a break.
    struct Chunks(VecDeque<Result<Frame<Bytes>, &'static str>>);

    impl Body for Chunks {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
            Poll::Ready(self.0.pop_front())
        }
    }

    fn data(text: &'static str) -> Result<Frame<Bytes>, &'static str> {
        Ok(Frame::data(Bytes::from_static(text.as_bytes())))
    }

    fn chunks(
        frames: impl IntoIterator<Item = Result<Frame<Bytes>, &'static str>>,
    ) -> Response<Chunks> {
        Response::new(Chunks(frames.into_iter().collect()))
    }

    #[tokio::test]
    async fn a_body_within_the_limit_is_read_whole_with_its_trailers() {
        let mut trailers = HeaderMap::new();
        trailers.insert("sum", http::HeaderValue::from_static("1"));
        let frames = [data("ab"), data("cd"), Ok(Frame::trailers(trailers))];
        let body = read(chunks(frames), 4).await.unwrap().into_body();
        assert_eq!(body.whole().unwrap(), "abcd");
        assert_eq!(body.size_hint().exact(), Some(4));
        let collected = body.collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["sum"], "1");
        assert_eq!(collected.to_bytes(), "abcd");
    }

    #[tokio::test]
    async fn a_longer_body_flows_with_what_was_read_of_it() {
        let frames = [data("ab"), data("cde"), data("f"), Err("broken")];
        let mut body = read(chunks(frames), 4).await.unwrap().into_body();
        assert_eq!(body.whole(), None);
        let mut next = async || {
            body.frame()
                .await
                .unwrap()
                .map(|it| it.into_data().unwrap())
        };
        assert_eq!(next().await.unwrap(), "abcde");
        assert_eq!(next().await.unwrap(), "f");
        assert_eq!(next().await.unwrap_err(), "broken");
    }

    #[tokio::test]
    async fn a_body_that_breaks_within_the_limit_is_no_answer() {
        let broken = read(chunks([data("ab"), Err("broken")]), 4).await;
        assert_eq!(broken.unwrap_err(), "broken");
    }

    #[tokio::test]
    async fn what_is_known_to_be_longer_and_events_are_not_waited_for() {
        let full = Response::new(http_body_util::Full::new(Bytes::from_static(b"abcde")));
        let body = read(full, 4).await.unwrap().into_body();
        assert!(body.read.is_none() && body.rest.is_some());
        let mut events = chunks([data("ab"), Err("broken")]);
        let value = http::HeaderValue::from_static("text/event-stream; charset=utf-8");
        events.headers_mut().insert(CONTENT_TYPE, value);
        let body = read(events, 4).await.unwrap().into_body();
        assert!(body.read.is_none() && body.rest.is_some());
        let empty: Response<http_body_util::Empty<Bytes>> = Response::default();
        let empty = read(empty, 0)
            .await
            .unwrap_or_else(|it: Infallible| match it {});
        assert_eq!(empty.body().whole().unwrap(), "");
        assert!(empty.body().is_end_stream());
    }
}
