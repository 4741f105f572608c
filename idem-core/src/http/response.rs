//! Which responses are stored.

use std::fmt;
use std::future::poll_fn;

use bytes::Bytes;
use http::Response;
use http::response::Parts;
use http_body::Body;
use http_body_util::BodyExt;

use super::body::{CapturedBody, Rest};
use super::flowing::{FlowingBody, Kept, Recording};
use super::live::LiveSender;
use super::settings::HttpSettings;
use super::stored::{IDEMPOTENT_REPLAYED, store};
use crate::current;
use crate::engine::Running;
use crate::outcome::{NotReplayable, Outcome, Verdict};

/// The statuses that say "not processed" unless the operation lists others: the key is freed.
pub const DEFAULT_RELEASE: &[u16] = &[307, 308, 401, 408, 425, 429, 503];

/// Marks a response that is not whole as it stands here, because an adapter had no room for all of its
/// headers: it is passed on, and not stored.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Incomplete;

/// A handler's response, judged.
#[derive(Debug)]
pub enum Captured<B: Body<Data = Bytes>> {
    /// The attempt has ended. The response is the handler's, whole, for the first caller.
    Ended(Verdict, Response<CapturedBody<B>>),
    /// The attempt ends with the response's body.
    Flows(FlowingResponse<B>),
}

/// Judges a handler's response, and reads its body if its length is known.
///
/// A status in `release` frees the key. Every other response is final, 5xx too. One that is longer
/// than `max_bytes`, or breaks off, leaves a tombstone.
pub async fn capture<B>(
    response: Response<B>,
    release: &[u16],
    max_bytes: usize,
    settings: &HttpSettings,
) -> Captured<B>
where
    B: Body<Data = Bytes>,
{
    let (mut head, body) = response.into_parts();
    // Of an operation elsewhere, whose answer this one passes on.
    head.headers.remove(IDEMPOTENT_REPLAYED);
    let tombstone = |reason| Verdict::Final(Outcome::NotReplayable(reason));
    let length = match body.is_end_stream() {
        true => Some(0),
        false => body.size_hint().exact(),
    };
    let (verdict, body) = match length {
        _ if release.contains(&head.status.as_u16())
            // The next attempt goes on where this one stopped.
            || head.status.is_server_error() && current::has_failed_step() =>
        {
            (Verdict::Released, CapturedBody::streamed(body))
        }
        // A protocol switch: what follows is no response that could be given again.
        _ if head.status.is_informational() => (
            tombstone(NotReplayable::Streamed),
            CapturedBody::streamed(body),
        ),
        _ if head.extensions.get::<Incomplete>().is_some() => (
            tombstone(NotReplayable::NotCaptured),
            CapturedBody::streamed(body),
        ),
        None => {
            return Captured::Flows(FlowingResponse {
                head,
                body,
                max_bytes,
                settings: settings.clone(),
            });
        }
        Some(length) if length > max_bytes as u64 => (
            tombstone(NotReplayable::TooLarge),
            CapturedBody::streamed(body),
        ),
        Some(length) => match body.collect().await {
            Err(error) => (
                tombstone(NotReplayable::NotCaptured),
                CapturedBody::broken(error),
            ),
            Ok(buffered) if buffered.trailers().is_some() => (
                tombstone(NotReplayable::NotCaptured),
                CapturedBody::with_trailers(buffered),
            ),
            Ok(buffered) => {
                let buffered = buffered.to_bytes();
                if buffered.len() as u64 == length {
                    let outcome = store(head.status, &head.headers, &buffered, settings);
                    (Verdict::Final(outcome), CapturedBody::buffered(buffered))
                } else {
                    // The server breaks off. A whole answer of that length would be another.
                    let body = CapturedBody::misannounced(buffered, length);
                    (tombstone(NotReplayable::NotCaptured), body)
                }
            }
        },
    };
    Captured::Ended(verdict, Response::from_parts(head, body))
}

/// A response whose body's length is not known.
pub struct FlowingResponse<B> {
    head: Parts,
    body: B,
    max_bytes: usize,
    settings: HttpSettings,
}

impl<B: Body<Data = Bytes>> FlowingResponse<B> {
    /// Records the body while it flows. The attempt ends with it. `read_on` reads what is left when the
    /// caller goes away, or all of it where duplicates may attach: [`Recording::spawn`], or [`Recording::spawn_local`].
    pub fn recorded(
        self,
        running: Running,
        read_on: fn(Recording<B>),
    ) -> Response<CapturedBody<B>> {
        let head = self.head.clone();
        let kept = Kept::up_to(self.max_bytes);
        let shared = match running.is_attachable() {
            true => LiveSender::new(&head, &self.settings),
            false => None,
        };
        let mut recording = Recording::new(self.head, self.body, kept, self.settings, running);
        let body = match shared {
            None => CapturedBody::flowing(FlowingBody::new(recording, read_on)),
            Some((sender, first, live)) => {
                recording.share(sender, live);
                recording.send_ahead();
                read_on(recording);
                CapturedBody::first(first)
            }
        };
        Response::from_parts(head, body)
    }

    /// Reads the body before it is passed on, for an attempt that must have ended before.
    pub async fn collected(self) -> (Verdict, Response<CapturedBody<B>>) {
        let mut body = Box::pin(self.body);
        let mut kept = Kept::up_to(self.max_bytes);
        let mut frames = Vec::new();
        let (reason, rest) = loop {
            match poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
                None if !kept.has_trailers => {
                    let buffered = kept.buffered();
                    let outcome = store(
                        self.head.status,
                        &self.head.headers,
                        &buffered,
                        &self.settings,
                    );
                    let response =
                        Response::from_parts(self.head, CapturedBody::buffered(buffered));
                    return (Verdict::Final(outcome), response);
                }
                None => break (NotReplayable::NotCaptured, Rest::None),
                Some(Err(error)) => break (NotReplayable::NotCaptured, Rest::Failed(error)),
                Some(Ok(frame)) => {
                    let fits = kept.keep(&frame);
                    frames.push(frame);
                    if !fits {
                        break (NotReplayable::TooLarge, Rest::Body(body));
                    }
                }
            }
        };
        let verdict = Verdict::Final(Outcome::NotReplayable(reason));
        let body = CapturedBody::begun(frames, rest);
        (verdict, Response::from_parts(self.head, body))
    }
}

impl<B> fmt::Debug for FlowingResponse<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlowingResponse")
            .field("status", &self.head.status)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use http::{HeaderName, HeaderValue};
    use http_body::{Frame, SizeHint};
    use http_body_util::Full;

    use super::super::stored::replay;
    use super::*;
    use crate::outcome::Undecodable;

    /// Says that it is ten bytes long.
    struct Ten(Full<Bytes>);

    impl Body for Ten {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Pin::new(&mut self.0).poll_frame(cx)
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(10)
        }
    }

    #[tokio::test]
    async fn a_body_of_another_length_than_announced_is_never_a_whole_answer() {
        for (content, is_kept) in [
            ("short", false),
            ("ten  bytes", true),
            ("too many bytes", false),
        ] {
            let response = Response::new(Ten(content.into()));
            let settings = HttpSettings::new();
            let captured = capture(response, DEFAULT_RELEASE, 1000, &settings).await;
            let Captured::Ended(verdict, response) = captured else {
                panic!("its length is known");
            };
            let kept = matches!(verdict, Verdict::Final(Outcome::Response(_)));
            assert_eq!(kept, is_kept, "{content}");
            let body = response.into_body();
            assert_eq!(body.size_hint().exact(), Some(10));
            assert_eq!(body.collect().await.unwrap().to_bytes(), content);
        }
    }

    /// More lines than a map of headers has room for names.
    const MANY: usize = 25_000;

    #[tokio::test]
    async fn many_lines_of_one_header_are_given_back() {
        let mut response = Response::new(Full::<Bytes>::from("body"));
        for number in 0..MANY {
            let value = HeaderValue::from(number);
            response.headers_mut().append("x-line", value);
        }
        let settings = HttpSettings::new();
        let captured = capture(response, DEFAULT_RELEASE, 1 << 20, &settings).await;
        let Captured::Ended(Verdict::Final(outcome), _) = captured else {
            panic!("{captured:?}");
        };
        let replay = replay(&outcome).unwrap();
        let lines = replay.headers().get_all("x-line").iter();
        assert!(lines.eq((0..MANY).map(HeaderValue::from).collect::<Vec<_>>().iter()));
    }

    #[tokio::test]
    async fn a_response_with_all_the_headers_there_can_be_is_no_panic() {
        let mut response = Response::new(Full::<Bytes>::from("body"));
        for number in 0.. {
            let name = HeaderName::try_from(format!("x-{number}")).unwrap();
            let value = HeaderValue::from_static("1");
            if response.headers_mut().try_append(name, value).is_err() {
                break;
            }
        }
        let settings = HttpSettings::new();
        let captured = capture(response, DEFAULT_RELEASE, 1 << 20, &settings).await;
        let Captured::Ended(Verdict::Final(outcome), _) = captured else {
            panic!("{captured:?}");
        };
        // There is no room for the mark of a replay.
        assert_eq!(replay(&outcome).err(), Some(Undecodable));
    }
}
