//! One connection to one server, shared by many calls. Commands leave in the order in which they
//! were given, and replies come back in that order. Knows nothing of records.
//!
//! It does what the driver's multiplexed connection does, for less, because most of what a call to a
//! near server costs this process is system calls and wake-ups:
//!
//! * A command is written straight into the buffer that is sent. Commands of calls that are ready
//!   at the same time leave in one write.
//! * A call needs no allocation, no channel and no timer of its own.
//! * A call that is dropped or over before it was sent is not sent.
//!
//! One task reads and writes. It belongs to the runtime that opened the connection. Calls of another
//! runtime are ended at their deadlines although that one may be blocked: every runtime looks after the
//! deadlines of its own calls.

mod calls;

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use redis::{RedisError, Value};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::runtime::{Handle, Id};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

use self::calls::{Calls, KEPT_BUFFER, SlotState, Watch, lock};
use super::command::Command;
use super::replies::{self, Reply};

/// What one read asks for, and the most.
const READ: usize = 8 * 1024;
const MAX_READ: usize = 1024 * 1024;

/// With so many calls under way the next write does not wait for more of them.
const MANY_CALLS: usize = 128;

/// How many callers are woken before they run.
const MAX_WOKEN: usize = 32;

/// A connection. It is closed when it is dropped.
pub(super) struct Wire {
    calls: Arc<Mutex<Calls>>,
    task: AbortHandle,
}

impl Wire {
    /// Takes a connection over whose login is done, and that has no reply on its way.
    pub(super) fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let calls = Arc::new(Mutex::new(Calls::default()));
        let transport = Transport {
            stream,
            calls: Arc::clone(&calls),
            outgoing: Vec::new(),
            written: 0,
            received: BytesMut::new(),
            missing: READ,
            replies: Vec::new(),
            wakers: Vec::new(),
            has_yielded: false,
        };
        let task = tokio::spawn(transport.run()).abort_handle();
        Self { calls, task }
    }

    /// Sends a command and takes its reply. An error that the server answers is a value.
    ///
    /// # Errors
    /// When the connection fails, or there is no reply at the deadline.
    pub(super) fn send(&self, command: &(impl Command + ?Sized), deadline: Instant) -> Call<'_> {
        Call {
            slot: Some(self.begin(command, deadline)),
            calls: &self.calls,
        }
    }

    fn begin(&self, command: &(impl Command + ?Sized), deadline: Instant) -> usize {
        let runtime = Handle::current();
        let mut calls = lock(&self.calls);
        if let Some(error) = calls.ended.clone() {
            let slot = calls.occupy(0, deadline, runtime.id());
            calls.replied(slot, Err(error));
            return slot;
        }
        let before = calls.unsent.len();
        command.encode(&mut calls.unsent);
        let length = calls.unsent.len() - before;
        let slot = calls.occupy(length, deadline, runtime.id());
        calls.unsent_calls.push((slot, length));
        let (mut sooner, mut started) = (None, None);
        match calls.watch(runtime.id()) {
            Some(watch) if deadline >= watch.looks_at => {}
            Some(watch) => sooner = Some(Arc::clone(&watch.sooner)),
            None => started = Some(self.add_watch(&mut calls, &runtime, deadline)),
        }
        let transport = calls.transport.take();
        // What is woken or spawned may run, or be dropped, at once.
        drop(calls);
        if let Some(transport) = transport {
            transport.wake();
        }
        if let Some(watched) = started {
            runtime.spawn(watched.look_after(deadline));
        }
        if let Some(sooner) = sooner {
            sooner.notify_one();
        }
        slot
    }

    /// Has somebody look after the deadlines of this runtime's calls, until there have been none for a
    /// while.
    fn add_watch(&self, calls: &mut Calls, runtime: &Handle, first: Instant) -> Watched {
        let sooner = Arc::new(Notify::new());
        calls.watches.push(Watch {
            runtime: runtime.id(),
            looks_at: first,
            sooner: Arc::clone(&sooner),
        });
        Watched {
            calls: Arc::downgrade(&self.calls),
            runtime: runtime.id(),
            sooner,
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A call that waits for its reply. If it is dropped without a reply, nobody gets that.
pub(super) struct Call<'a> {
    calls: &'a Mutex<Calls>,
    /// `None` once the answer was taken.
    slot: Option<usize>,
}

impl Future for Call<'_> {
    type Output = Result<Value, RedisError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(slot) = self.slot else {
            // Not polled after its end.
            return Poll::Pending;
        };
        let mut calls = lock(self.calls);
        let is_overdue = calls.slots[slot].is_overdue;
        match &mut calls.slots[slot].state {
            SlotState::Waiting(_) if is_overdue => {
                calls.leave(slot);
                drop(calls);
                self.slot = None;
                return Poll::Ready(Err(timed_out()));
            }
            SlotState::Waiting(Some(waker)) => waker.clone_from(cx.waker()),
            SlotState::Waiting(waker) => *waker = Some(cx.waker().clone()),
            state => {
                let answered = std::mem::replace(state, SlotState::Left);
                calls.free_if_over(slot);
                drop(calls);
                self.slot = None;
                return match answered {
                    SlotState::Answered(answer) => Poll::Ready(answer),
                    _ => Poll::Pending,
                };
            }
        }
        Poll::Pending
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            lock(self.calls).leave(slot);
        }
    }
}

/// Removes its watch when it ends, also with its runtime.
struct Watched {
    calls: Weak<Mutex<Calls>>,
    runtime: Id,
    sooner: Arc<Notify>,
}

impl Watched {
    async fn look_after(self, first: Instant) {
        let pause = first
            .saturating_duration_since(Instant::now())
            .max(Duration::from_millis(1));
        let (mut looks_at, mut is_idle) = (first, false);
        loop {
            let _ = timeout_at(looks_at, self.sooner.notified()).await;
            let Some(all) = self.calls.upgrade() else {
                return;
            };
            let (now, mut wakers) = (Instant::now(), Vec::new());
            {
                let mut calls = lock(&all);
                let next = calls.wake_overdue(self.runtime, now, &mut wakers);
                if next.is_none() && is_idle {
                    // Under the lock: the next call starts another one.
                    self.remove(&mut calls);
                    return;
                }
                is_idle = next.is_none();
                looks_at = next.unwrap_or(now + pause);
                let watch = calls.watches.iter_mut();
                for watch in watch.filter(|watch| self.is_of(watch)) {
                    watch.looks_at = looks_at;
                }
            }
            drop(all);
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    fn remove(&self, calls: &mut Calls) {
        calls.watches.retain(|watch| !self.is_of(watch));
    }

    fn is_of(&self, watch: &Watch) -> bool {
        Arc::ptr_eq(&watch.sooner, &self.sooner)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(calls) = self.calls.upgrade() {
            self.remove(&mut lock(&calls));
        }
    }
}

/// Reads and writes.
struct Transport<S> {
    stream: S,
    calls: Arc<Mutex<Calls>>,
    /// What is being written, and how much of it is.
    outgoing: Vec<u8>,
    written: usize,
    received: BytesMut,
    /// What the next read asks for.
    missing: usize,
    replies: Vec<Value>,
    wakers: Vec<Waker>,
    has_yielded: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Transport<S> {
    async fn run(mut self) {
        let error = poll_fn(|cx| self.poll(cx)).await;
        self.end(&error);
    }

    /// Goes on until the connection fails.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<RedisError> {
        if !self.wake_some(cx) {
            return Poll::Pending;
        }
        // Both directions: a server that cannot write may not read either.
        if let Err(error) = self.read(cx).and_then(|()| self.write(cx)) {
            return Poll::Ready(error);
        }
        Poll::Pending
    }

    /// Wakes callers whose replies are there. `false` if there are more: they come when these have run.
    /// Woken all at once they would overflow the worker's queue, and some would wait behind every task of
    /// the program.
    fn wake_some(&mut self, cx: &mut Context<'_>) -> bool {
        let some = self.wakers.len().min(MAX_WOKEN);
        self.wakers.drain(..some).for_each(Waker::wake);
        if !self.wakers.is_empty() {
            cx.waker().wake_by_ref();
        }
        self.wakers.is_empty()
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Result<(), RedisError> {
        loop {
            if !self.wake_some(cx) {
                return Ok(());
            }
            if self.received.is_empty() && self.received.capacity() > KEPT_BUFFER {
                self.received = BytesMut::new();
            }
            self.received.reserve(self.missing);
            let read = pin!(self.stream.read_buf(&mut self.received)).poll(cx);
            match read {
                Poll::Ready(Ok(0)) => return Err(closed()),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Err(error.into()),
                Poll::Pending => return Ok(()),
            }
            self.missing = self.split()?.clamp(READ, MAX_READ);
            self.deliver();
        }
    }

    /// Splits what was received. Returns how much is missing to the next reply.
    fn split(&mut self) -> Result<usize, RedisError> {
        loop {
            match replies::first(&self.received)? {
                Reply::Whole(value, length) => {
                    self.received.advance(length);
                    self.replies.push(value);
                }
                Reply::NeedsAtLeast(length) => return Ok(length - self.received.len()),
            }
        }
    }

    fn deliver(&mut self) {
        if self.replies.is_empty() {
            return;
        }
        let mut calls = lock(&self.calls);
        for value in self.replies.drain(..) {
            if let Some(slot) = calls.sent.pop_front() {
                self.wakers.extend(calls.replied(slot, Ok(value)));
            }
        }
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Result<(), RedisError> {
        loop {
            if self.written == self.outgoing.len() && !self.take_unsent(cx) {
                return Ok(());
            }
            let left = &self.outgoing[self.written..];
            match Pin::new(&mut self.stream).poll_write(cx, left) {
                Poll::Ready(Ok(0)) => return Err(closed()),
                Poll::Ready(Ok(written)) => self.written += written,
                Poll::Ready(Err(error)) => return Err(error.into()),
                Poll::Pending => return Ok(()),
            }
        }
    }

    /// Takes what is to be sent. `false` if there is nothing, or more is likely to come first.
    fn take_unsent(&mut self, cx: &mut Context<'_>) -> bool {
        self.written = 0;
        self.outgoing.clear();
        if self.outgoing.capacity() > KEPT_BUFFER {
            self.outgoing = Vec::new();
        }
        let mut calls = lock(&self.calls);
        calls.forget_withdrawn();
        if calls.unsent.is_empty() {
            self.has_yielded = false;
            match &mut calls.transport {
                Some(waker) => waker.clone_from(cx.waker()),
                waker => *waker = Some(cx.waker().clone()),
            }
            return false;
        }
        if !self.has_yielded && calls.under_way() < MANY_CALLS {
            // Tasks that are ready now may have calls, too. They go first, unless there are so many that
            // it may take long.
            self.has_yielded = true;
            drop(calls);
            cx.waker().wake_by_ref();
            return false;
        }
        self.has_yielded = false;
        calls.take_unsent(&mut self.outgoing);
        true
    }
}

impl<S> Transport<S> {
    fn end(&mut self, error: &RedisError) {
        let wakers = lock(&self.calls).end(error);
        let answered = self.wakers.drain(..);
        answered.chain(wakers).for_each(Waker::wake);
    }
}

impl<S> Drop for Transport<S> {
    fn drop(&mut self) {
        // Its runtime may have ended.
        self.end(&closed());
    }
}

fn closed() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::BrokenPipe).into()
}

fn timed_out() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

#[cfg(test)]
mod tests;
