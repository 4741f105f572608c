//! Response bodies whose length is not known when they begin: they flow to the first caller as they
//! come, and are kept beside it until they have ended whole. Until then the attempt runs.
//!
//! Nobody reads ahead of the caller. One who reads no more polls nothing, so the deadline has a watcher.
//! When the caller goes away, the rest is read on a task of the attempt's own. The end of the body is
//! passed on when the outcome is stored, so that who has seen it finds a replay.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http::response::Parts;
use http_body::{Body, Frame, SizeHint};
use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::Instrument;

use super::body_error::{CapturedBodyError, Given, ResponseCutOff, of_body};
use super::held::Held;
use super::live::{LiveSender, Unshared};
use super::settings::HttpSettings;
use super::stored::store;
use crate::current::CURRENT;
use crate::engine::{LiveAnswer, Running};
use crate::outcome::{NotReplayable, Outcome, Verdict};

/// The body of a response that flows to its first caller. Dropped before its end, it is read on in
/// the background, up to the engine's limit of outcomes.
pub(super) struct FlowingBody<B: Body<Data = Bytes>> {
    state: State<B>,
    /// Reads what is left when the caller is gone.
    read_on: fn(Recording<B>),
}

enum State<B: Body<Data = Bytes>> {
    Recorded(Box<Recording<B>>),
    /// Longer than what is kept: it is passed on, and nothing of it is recorded any more.
    PassedOn(Pin<Box<B>>),
    /// The attempt's end is being stored. (Never locked: bodies are shared between threads by their
    /// type alone.)
    Ending {
        stored: Mutex<BoxFuture<'static, ()>>,
        runtime: Handle,
        next: Next<B>,
    },
    Ended,
}

/// What is passed on when the attempt's end is stored.
enum Next<B: Body<Data = Bytes>> {
    /// The frame with which the body became too long, and the rest.
    Rest(Frame<Bytes>, Pin<Box<B>>),
    Failure(B::Error),
    CutOff,
    End,
}

/// A body, what was kept of it, and the attempt that it belongs to.
pub struct Recording<B: Body<Data = Bytes>> {
    body: Pin<Box<B>>,
    kept: Kept,
    head: Parts,
    settings: HttpSettings,
    attempt: Held,
    /// Resolves when the body is stopped.
    deadline: Pin<Box<Sleep>>,
    /// Where duplicates may attach.
    live: Option<LiveSender<B>>,
    /// What was read ahead, and is to be looked at.
    ahead: Option<Polled<B::Error>>,
    /// The body is being polled: if it panics there, it is not polled again.
    is_polled: bool,
}

pub(super) struct Kept {
    frames: Vec<Bytes>,
    bytes: usize,
    max_bytes: usize,
    /// There were trailers, which are not kept.
    pub(super) has_trailers: bool,
}

impl Kept {
    pub(super) const fn up_to(max_bytes: usize) -> Self {
        Self {
            frames: Vec::new(),
            bytes: 0,
            max_bytes,
            has_trailers: false,
        }
    }

    /// `false` when it has become too large.
    pub(super) fn keep(&mut self, frame: &Frame<Bytes>) -> bool {
        self.has_trailers |= frame.is_trailers();
        if let Some(data) = frame.data_ref() {
            self.bytes = self.bytes.saturating_add(data.len());
            if self.bytes > self.max_bytes {
                return false;
            }
            // Empty frames weigh nothing, and would be kept without a bound.
            if !data.is_empty() {
                self.frames.push(data.clone());
            }
        }
        true
    }

    pub(super) fn buffered(&mut self) -> Bytes {
        match self.frames.len() {
            0 | 1 => self.frames.pop().unwrap_or_default(),
            _ => {
                let mut buffered = BytesMut::with_capacity(self.bytes);
                self.frames
                    .drain(..)
                    .for_each(|frame| buffered.extend(frame));
                buffered.freeze()
            }
        }
    }
}

impl<B: Body<Data = Bytes>> Recording<B> {
    pub(super) fn new(
        head: Parts,
        body: B,
        kept: Kept,
        settings: HttpSettings,
        running: Running,
    ) -> Self {
        // Without a record behind it there is no deadline, and no recording either.
        let deadline = running.deadline().unwrap_or_else(Instant::now);
        Self {
            attempt: Held::new(running),
            deadline: Box::pin(sleep_until(deadline)),
            body: Box::pin(body),
            kept,
            head,
            settings,
            live: None,
            ahead: None,
            is_polled: false,
        }
    }

    /// Duplicates may attach from now on. Whoever reads on sends what it reads.
    pub(super) fn share(&mut self, sender: LiveSender<B>, live: LiveAnswer) {
        self.live = Some(sender);
        if let Some(running) = &*self.attempt.lock() {
            running.share(live);
        }
    }

    /// Sends what is there at once: who asks for the body first finds it beside the head.
    pub(super) fn send_ahead(&mut self) {
        let Poll::Ready(polled) = self.poll(&mut Context::from_waker(Waker::noop())) else {
            return;
        };
        match (polled, &self.live) {
            (Polled::Frame(Some(Ok(frame))), Some(live))
                if frame.is_data() && self.kept.keep(&frame) =>
            {
                if let Ok(data) = frame.into_data() {
                    live.send(data);
                }
            }
            (polled, _) => self.ahead = Some(polled),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Polled<B::Error>> {
        if let Some(polled) = self.ahead.take() {
            return Poll::Ready(polled);
        }
        let running = self.attempt.lock();
        let Some(attempt) = running.as_ref().and_then(Running::attempt) else {
            return Poll::Ready(Polled::Deadline);
        };
        self.is_polled = true;
        let body = self.body.as_mut();
        let polled = CURRENT.sync_scope(attempt, || body.poll_frame(cx));
        self.is_polled = false;
        match polled {
            // A body that is always ready has a deadline, too.
            Poll::Ready(Some(Ok(_))) if Instant::now() >= self.deadline.deadline() => {
                Poll::Ready(Polled::Deadline)
            }
            Poll::Ready(frame) => Poll::Ready(Polled::Frame(frame)),
            Poll::Pending => {
                ready!(self.deadline.as_mut().poll(cx));
                Poll::Ready(Polled::Deadline)
            }
        }
    }

    /// What the body has come to, at its end.
    fn verdict(&mut self, failed: bool) -> Verdict {
        Verdict::Final(if failed || self.kept.has_trailers {
            Outcome::NotReplayable(NotReplayable::NotCaptured)
        } else {
            let buffered = self.kept.buffered();
            store(
                self.head.status,
                &self.head.headers,
                &buffered,
                &self.settings,
            )
        })
    }

    /// The deadline has come: the body is dropped, and what is left counts as crashed.
    fn stop(self) -> BoxFuture<'static, ()> {
        let Self { body, attempt, .. } = self;
        let Some(running) = attempt.take() else {
            drop(body);
            return Box::pin(attempt.given_up());
        };
        match running.attempt() {
            Some(attempt) => CURRENT.sync_scope(attempt, || drop(body)),
            None => drop(body),
        }
        Box::pin(running.crash("deadline"))
    }

    /// Reads to the end, or until it is too large to be kept.
    async fn read_on(mut self) {
        self.attempt.unwatch();
        let mut trailers = None;
        let (verdict, came_to) = loop {
            match poll_fn(|cx| self.poll(cx)).await {
                Polled::Deadline => {
                    // Everybody is cut off when the attempt has been given up.
                    let _live = self.live.take();
                    return self.stop().await;
                }
                Polled::Frame(None) => break (self.verdict(false), CameTo::End),
                Polled::Frame(Some(Err(error))) => {
                    break (self.verdict(true), CameTo::Failure(error));
                }
                Polled::Frame(Some(Ok(frame))) if !self.kept.keep(&frame) => {
                    break (TOO_LARGE, CameTo::TooLong(frame));
                }
                Polled::Frame(Some(Ok(frame))) => match (&self.live, frame.into_data()) {
                    (Some(live), Ok(data)) => live.send(data),
                    (Some(_), Err(frame)) => trailers = frame.into_trailers().ok(),
                    (None, _) => {}
                },
            }
        };
        if let Some(running) = self.attempt.take() {
            running.end(verdict).await;
        }
        if let Some(live) = self.live {
            live.end(match came_to {
                CameTo::End | CameTo::Deadline => trailers.map(Unshared::Trailers),
                CameTo::Failure(error) => Some(Unshared::Failure(error)),
                CameTo::TooLong(frame) => Some(Unshared::Rest(frame, self.body)),
            });
        }
    }
}

const TOO_LARGE: Verdict = Verdict::Final(Outcome::NotReplayable(NotReplayable::TooLarge));

impl<B: Body<Data = Bytes, Error: Send> + Send + 'static> Recording<B> {
    /// Reads what is left on a task of the runtime.
    pub fn spawn(self) {
        let runtime = self.attempt.runtime().clone();
        runtime.spawn(self.read_on().in_current_span());
    }
}

impl<B: Body<Data = Bytes> + 'static> Recording<B> {
    /// Reads what is left on a task of this thread.
    pub fn spawn_local(self) {
        tokio::task::spawn_local(self.read_on().in_current_span());
    }
}

impl<B: Body<Data = Bytes>> FlowingBody<B> {
    pub(super) fn new(mut recording: Recording<B>, read_on: fn(Recording<B>)) -> Self {
        let deadline = recording.deadline.deadline();
        recording.attempt.watch(deadline);
        Self {
            state: State::Recorded(Box::new(recording)),
            read_on,
        }
    }

    /// Ends the attempt with what the body has come to.
    fn end(&mut self, came_to: CameTo<B::Error>) {
        let State::Recorded(mut recording) = std::mem::replace(&mut self.state, State::Ended)
        else {
            return;
        };
        let runtime = recording.attempt.runtime().clone();
        let running = match came_to {
            CameTo::Deadline => None,
            _ => recording.attempt.take(),
        };
        let Some(running) = running else {
            self.state = State::Ending {
                stored: Mutex::new(recording.stop()),
                runtime,
                next: Next::CutOff,
            };
            return;
        };
        let (verdict, next) = match came_to {
            CameTo::TooLong(frame) => (TOO_LARGE, Next::Rest(frame, recording.body)),
            CameTo::Failure(error) => (recording.verdict(true), Next::Failure(error)),
            CameTo::End | CameTo::Deadline => (recording.verdict(false), Next::End),
        };
        self.state = State::Ending {
            stored: Mutex::new(Box::pin(running.end(verdict))),
            runtime,
            next,
        };
    }
}

enum CameTo<E> {
    TooLong(Frame<Bytes>),
    Failure(E),
    Deadline,
    End,
}

/// What a look at a body has brought.
enum Polled<E> {
    Frame(Option<Result<Frame<Bytes>, E>>),
    /// It has taken too long.
    Deadline,
}

impl<B: Body<Data = Bytes>> Body for FlowingBody<B>
where
    B::Error: Unpin,
{
    type Data = Bytes;
    type Error = CapturedBodyError<B::Error>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Given<B::Error>> {
        let this = self.get_mut();
        loop {
            match &mut this.state {
                State::Recorded(recording) => {
                    let Poll::Ready(frame) = recording.poll(cx) else {
                        return Poll::Pending;
                    };
                    match frame {
                        Polled::Frame(Some(Ok(frame))) if recording.kept.keep(&frame) => {
                            return Poll::Ready(Some(Ok(frame)));
                        }
                        Polled::Frame(Some(Ok(frame))) => this.end(CameTo::TooLong(frame)),
                        Polled::Frame(Some(Err(error))) => this.end(CameTo::Failure(error)),
                        Polled::Frame(None) => this.end(CameTo::End),
                        Polled::Deadline => this.end(CameTo::Deadline),
                    }
                }
                State::PassedOn(body) => return of_body(body.as_mut().poll_frame(cx)),
                State::Ending { stored, .. } => {
                    let stored = stored.get_mut().unwrap_or_else(PoisonError::into_inner);
                    if stored.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    let State::Ending { next, .. } =
                        std::mem::replace(&mut this.state, State::Ended)
                    else {
                        continue;
                    };
                    return Poll::Ready(match next {
                        Next::Rest(frame, body) => {
                            this.state = State::PassedOn(body);
                            Some(Ok(frame))
                        }
                        Next::Failure(error) => Some(Err(CapturedBodyError::Body(error))),
                        Next::CutOff => Some(Err(CapturedBodyError::CutOff(ResponseCutOff))),
                        Next::End => None,
                    });
                }
                State::Ended => return Poll::Ready(None),
            }
        }
    }

    /// Never before the outcome is stored: a server that is told so does not ask again.
    fn is_end_stream(&self) -> bool {
        match &self.state {
            State::PassedOn(body) => body.is_end_stream(),
            State::Ended => true,
            State::Recorded(_) | State::Ending { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Recorded(recording) => recording.body.size_hint(),
            State::PassedOn(body) => body.size_hint(),
            State::Ending { .. } => SizeHint::default(),
            State::Ended => SizeHint::with_exact(0),
        }
    }
}

impl<B: Body<Data = Bytes>> Drop for FlowingBody<B> {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.state, State::Ended) {
            // Dropped with it, the attempt counts as crashed.
            State::Recorded(recording) if recording.is_polled => {}
            State::Recorded(recording) => (self.read_on)(*recording),
            State::Ending {
                stored, runtime, ..
            } => {
                runtime.spawn(stored.into_inner().unwrap_or_else(PoisonError::into_inner));
            }
            State::PassedOn(_) | State::Ended => {}
        }
    }
}

impl<B: Body<Data = Bytes>> fmt::Debug for FlowingBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.state {
            State::Recorded(_) => "FlowingBody(recorded)",
            State::PassedOn(_) => "FlowingBody(passed on)",
            State::Ending { .. } => "FlowingBody(ending)",
            State::Ended => "FlowingBody(ended)",
        })
    }
}

impl<B: Body<Data = Bytes>> fmt::Debug for Recording<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recording")
            .field("bytes", &self.kept.bytes)
            .finish_non_exhaustive()
    }
}
