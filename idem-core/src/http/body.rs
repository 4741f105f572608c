//! The body of a response on its way to the client that was executed for.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::vec;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{Collected, Full};

use super::body_error::{CapturedBodyError, Given, of_body};
use super::flowing::FlowingBody;
use super::live::{FirstFollower, Follower};

/// The body of a response after [`capture`](super::capture): what the first caller gets.
pub struct CapturedBody<B: Body<Data = Bytes>>(Captured<B>);

enum Captured<B: Body<Data = Bytes>> {
    /// Read whole.
    Buffered(Full<Bytes>),
    /// Read whole, with trailers, which are not stored.
    WithTrailers(Collected<Bytes>),
    /// Read whole, and of another length than it had announced, which it still announces: the
    /// server breaks off as it would have done.
    Misannounced(Full<Bytes>, u64),
    /// Not read.
    Streamed(B),
    /// It failed while it was read: the first caller sees that failure.
    Broken(Option<B::Error>),
    /// Recorded while it flows.
    Flowing(FlowingBody<B>),
    /// The same, where duplicates may attach.
    First(FirstFollower<B>),
    /// A duplicate's.
    Attached(Follower),
    /// Read in part.
    Begun(vec::IntoIter<Frame<Bytes>>, Rest<B>),
}

/// What is left of a body that was read in part.
pub(super) enum Rest<B: Body<Data = Bytes>> {
    Body(Pin<Box<B>>),
    Failed(B::Error),
    None,
}

impl<B: Body<Data = Bytes>> CapturedBody<B> {
    /// A body that is known whole.
    pub fn buffered(body: impl Into<Bytes>) -> Self {
        Self(Captured::Buffered(Full::new(body.into())))
    }

    /// A body that is passed on as it comes, unread.
    pub const fn streamed(body: B) -> Self {
        Self(Captured::Streamed(body))
    }

    pub(super) const fn with_trailers(body: Collected<Bytes>) -> Self {
        Self(Captured::WithTrailers(body))
    }

    pub(super) fn misannounced(body: Bytes, announced: u64) -> Self {
        Self(Captured::Misannounced(Full::new(body), announced))
    }

    pub(super) const fn broken(error: B::Error) -> Self {
        Self(Captured::Broken(Some(error)))
    }

    pub(super) const fn flowing(body: FlowingBody<B>) -> Self {
        Self(Captured::Flowing(body))
    }

    pub(super) const fn first(body: FirstFollower<B>) -> Self {
        Self(Captured::First(body))
    }

    pub(super) const fn attached(body: Follower) -> Self {
        Self(Captured::Attached(body))
    }

    pub(super) fn begun(frames: Vec<Frame<Bytes>>, rest: Rest<B>) -> Self {
        Self(Captured::Begun(frames.into_iter(), rest))
    }

    /// The handler's own body, where it was not read.
    ///
    /// # Errors
    /// The body, where it was read.
    #[allow(
        clippy::result_large_err,
        reason = "the error is the other body, and is moved once"
    )]
    pub fn into_streamed(self) -> Result<B, Self> {
        match self.0 {
            Captured::Streamed(body) => Ok(body),
            read => Err(Self(read)),
        }
    }

    /// Whether it is known whole, and is what it says that it is.
    pub const fn is_whole(&self) -> bool {
        matches!(self.0, Captured::Buffered(_))
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for CapturedBody<B>
where
    B::Error: Unpin,
{
    type Data = Bytes;
    type Error = CapturedBodyError<B::Error>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Given<B::Error>> {
        let frame = match &mut self.get_mut().0 {
            Captured::Buffered(body) | Captured::Misannounced(body, _) => {
                Pin::new(body).poll_frame(cx)
            }
            Captured::WithTrailers(body) => Pin::new(body).poll_frame(cx),
            Captured::First(body) => return body.poll_frame(cx),
            Captured::Attached(body) => {
                let data = ready!(body.poll(cx));
                return Poll::Ready(data.map(|data| match data {
                    Ok(data) => Ok(Frame::data(data)),
                    Err(cut_off) => Err(CapturedBodyError::CutOff(cut_off)),
                }));
            }
            Captured::Streamed(body) => return of_body(Pin::new(body).poll_frame(cx)),
            Captured::Broken(error) => {
                return Poll::Ready(
                    error
                        .take()
                        .map(|error| Err(CapturedBodyError::Body(error))),
                );
            }
            Captured::Flowing(body) => return Pin::new(body).poll_frame(cx),
            Captured::Begun(frames, rest) => {
                if let Some(frame) = frames.next() {
                    return Poll::Ready(Some(Ok(frame)));
                }
                if let Rest::Body(body) = rest {
                    return of_body(body.as_mut().poll_frame(cx));
                }
                return Poll::Ready(match std::mem::replace(rest, Rest::None) {
                    Rest::Failed(error) => Some(Err(CapturedBodyError::Body(error))),
                    Rest::Body(_) | Rest::None => None,
                });
            }
        };
        frame.map(|frame| frame.map(|frame| frame.map_err(|never| match never {})))
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Captured::Buffered(body) => body.is_end_stream(),
            Captured::Misannounced(..) => false,
            Captured::WithTrailers(body) => body.is_end_stream(),
            Captured::Streamed(body) => body.is_end_stream(),
            Captured::Broken(error) => error.is_none(),
            Captured::Flowing(body) => body.is_end_stream(),
            Captured::First(body) => body.is_end_stream(),
            Captured::Attached(body) => body.is_at_end(),
            Captured::Begun(frames, rest) => {
                frames.as_slice().is_empty()
                    && match rest {
                        Rest::Body(body) => body.is_end_stream(),
                        Rest::Failed(_) => false,
                        Rest::None => true,
                    }
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Captured::Buffered(body) => body.size_hint(),
            Captured::Misannounced(_, announced) => SizeHint::with_exact(*announced),
            Captured::WithTrailers(body) => body.size_hint(),
            Captured::Streamed(body) => body.size_hint(),
            Captured::Flowing(body) => body.size_hint(),
            Captured::Broken(_)
            | Captured::First(_)
            | Captured::Attached(_)
            | Captured::Begun(..) => SizeHint::default(),
        }
    }
}

/// Shows no content.
impl<B: Body<Data = Bytes>> fmt::Debug for CapturedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.0 {
            Captured::Buffered(_) => "buffered",
            Captured::WithTrailers(_) => "with trailers",
            Captured::Misannounced(..) => "misannounced",
            Captured::Streamed(_) => "streamed",
            Captured::Broken(_) => "broken",
            Captured::Flowing(_) => "flowing",
            Captured::First(_) => "shared",
            Captured::Attached(_) => "attached",
            Captured::Begun(..) => "begun",
        };
        write!(f, "CapturedBody({kind})")
    }
}
