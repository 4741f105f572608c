//! A response that duplicates attach to while it is on its way: it is read on the attempt's own task,
//! and everybody follows what has been read.
//!
//! What has been read is kept up to the engine's limit of outcomes. The first caller is given the rest
//! of a longer body; others are cut off there, as they are where the body fails.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::FutureExt;
use http::response::Parts;
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::sync::oneshot;

use super::body_error::{CapturedBodyError, Given, ResponseCutOff};
use super::settings::HttpSettings;
use super::stored::{replay_under, store};
use crate::engine::LiveAnswer;

/// A response on its way, as duplicates get it.
#[derive(Debug)]
pub(super) struct LiveResponse {
    pub(super) status: StatusCode,
    /// As a replay has them.
    pub(super) headers: HeaderMap,
    read: Mutex<Read>,
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Read {
    frames: Vec<Bytes>,
    end: Option<End>,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Whole,
    CutOff,
}

impl LiveResponse {
    fn read(&self) -> MutexGuard<'_, Read> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Read)) {
        change(&mut self.read());
        self.changed.notify_waiters();
    }
}

/// The side that reads. Dropped before the body's end, it cuts everybody off.
pub(super) struct LiveSender<B: Body> {
    live: Arc<LiveResponse>,
    first: Option<oneshot::Sender<Unshared<B>>>,
}

/// What the first caller alone is given, after what is shared.
pub(super) enum Unshared<B: Body> {
    Trailers(HeaderMap),
    Failure(B::Error),
    /// The frame with which the body became too long, and the rest.
    Rest(Frame<Bytes>, Pin<Box<B>>),
}

impl<B: Body<Data = Bytes>> LiveSender<B> {
    /// Both sides of a response, and what duplicates attach to. `None` where its head is not what can
    /// be replayed.
    pub(super) fn new(
        head: &Parts,
        settings: &HttpSettings,
    ) -> Option<(Self, FirstFollower<B>, LiveAnswer)> {
        let outcome = store(head.status, &head.headers, &Bytes::new(), settings);
        let replayed = replay_under(&outcome, settings).ok()?;
        let live = Arc::new(LiveResponse {
            status: head.status,
            headers: replayed.into_parts().0.headers,
            read: Mutex::default(),
            changed: Arc::default(),
        });
        let (first, unshared) = oneshot::channel();
        let follower = FirstFollower {
            follower: Follower::new(Arc::clone(&live)),
            unshared,
            rest: None,
        };
        let answer: LiveAnswer = Arc::<LiveResponse>::clone(&live);
        let first = Some(first);
        Some((Self { live, first }, follower, answer))
    }

    pub(super) fn send(&self, data: Bytes) {
        if !data.is_empty() {
            self.live.change(|read| read.frames.push(data));
        }
    }

    /// The outcome is stored: everybody has the whole body, but for what is not shared.
    pub(super) fn end(mut self, unshared: Option<Unshared<B>>) {
        let end = match &unshared {
            Some(_) => End::CutOff,
            None => End::Whole,
        };
        if let (Some(first), Some(unshared)) = (self.first.take(), unshared) {
            // Whoever has gone needs nothing.
            let _ = first.send(unshared);
        }
        self.live.change(|read| read.end = Some(end));
    }
}

impl<B: Body> Drop for LiveSender<B> {
    fn drop(&mut self) {
        self.first = None;
        self.live.change(|read| {
            read.end.get_or_insert(End::CutOff);
        });
    }
}

/// Follows what is read of a body.
pub(super) struct Follower {
    live: Arc<LiveResponse>,
    next: usize,
    changed: Option<Pin<Box<OwnedNotified>>>,
    has_ended: bool,
}

impl Follower {
    pub(super) const fn new(live: Arc<LiveResponse>) -> Self {
        Self {
            live,
            next: 0,
            changed: None,
            has_ended: false,
        }
    }

    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, ResponseCutOff>>> {
        loop {
            if self.has_ended {
                return Poll::Ready(None);
            }
            if let Some(changed) = &mut self.changed {
                ready!(changed.as_mut().poll(cx));
            }
            let mut changed = Box::pin(Arc::clone(&self.live.changed).notified_owned());
            // Registered before the look, so that no change falls between the two.
            changed.as_mut().enable();
            self.changed = Some(changed);
            let read = self.live.read();
            if let Some(data) = read.frames.get(self.next) {
                self.next += 1;
                self.changed = None;
                return Poll::Ready(Some(Ok(data.clone())));
            }
            let Some(end) = read.end else {
                continue;
            };
            self.has_ended = true;
            if let End::CutOff = end {
                return Poll::Ready(Some(Err(ResponseCutOff)));
            }
        }
    }

    pub(super) fn is_at_end(&self) -> bool {
        let read = self.live.read();
        self.has_ended || (self.next >= read.frames.len() && matches!(read.end, Some(End::Whole)))
    }
}

/// Follows a body for the first caller, who gets what is not shared, too.
pub(super) struct FirstFollower<B: Body> {
    follower: Follower,
    unshared: oneshot::Receiver<Unshared<B>>,
    rest: Option<Rest<B>>,
}

enum Rest<B> {
    Body(Pin<Box<B>>),
    None,
}

impl<B: Body<Data = Bytes>> FirstFollower<B> {
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Given<B::Error>> {
        match &mut self.rest {
            Some(Rest::Body(body)) => {
                let frame = ready!(body.as_mut().poll_frame(cx));
                return Poll::Ready(frame.map(|frame| frame.map_err(CapturedBodyError::Body)));
            }
            Some(Rest::None) => return Poll::Ready(None),
            None => {}
        }
        Poll::Ready(match ready!(self.follower.poll(cx)) {
            Some(Ok(data)) => Some(Ok(Frame::data(data))),
            None => None,
            Some(Err(ResponseCutOff)) => {
                let unshared = ready!(self.unshared.poll_unpin(cx));
                self.rest = Some(Rest::None);
                Some(match unshared {
                    Ok(Unshared::Trailers(trailers)) => Ok(Frame::trailers(trailers)),
                    Ok(Unshared::Failure(error)) => Err(CapturedBodyError::Body(error)),
                    Ok(Unshared::Rest(frame, body)) => {
                        self.rest = Some(Rest::Body(body));
                        Ok(frame)
                    }
                    Err(_) => Err(CapturedBodyError::CutOff(ResponseCutOff)),
                })
            }
        })
    }

    pub(super) fn is_end_stream(&self) -> bool {
        match &self.rest {
            Some(Rest::Body(body)) => body.is_end_stream(),
            Some(Rest::None) => true,
            None => self.follower.is_at_end(),
        }
    }
}
