//! Work with a connection that must not stop halfway.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;

/// A future that goes on in the background when it is dropped. Its result is dropped then.
pub(crate) struct GoesOn<T: Send + 'static> {
    work: Option<BoxFuture<'static, T>>,
    runtime: Handle,
}

impl<T: Send + 'static> GoesOn<T> {
    /// Called within a runtime.
    pub(crate) fn new(work: BoxFuture<'static, T>) -> Self {
        Self {
            work: Some(work),
            runtime: Handle::current(),
        }
    }
}

impl<T: Send + 'static> Future for GoesOn<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let Some(work) = &mut self.work else {
            return Poll::Pending;
        };
        let polled = work.as_mut().poll(context);
        if polled.is_ready() {
            self.work = None;
        }
        polled
    }
}

impl<T: Send + 'static> Drop for GoesOn<T> {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            // A call may be dropped outside of the runtime, which the driver's pool needs.
            let _context = self.runtime.enter();
            self.runtime.spawn(async move { drop(work.await) });
        }
    }
}
