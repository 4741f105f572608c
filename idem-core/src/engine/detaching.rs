//! Work that nobody stops by going away.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tracing::{Instrument, Span};

/// Drives work on its caller's task. Where the caller drops it before its end, as a server does when a
/// client hangs up, the work goes on on a task of its own, in the span that this was made in. So a call
/// that nobody hangs up on costs no task.
#[must_use = "work that is dropped goes on without its caller"]
pub(crate) struct Detaching<F: Future<Output: Send> + Send + 'static> {
    /// `None` once it has ended.
    work: Option<Pin<Box<F>>>,
    runtime: Handle,
    span: Span,
}

impl<F: Future<Output: Send> + Send + 'static> Detaching<F> {
    /// `runtime` is where the work goes on.
    pub(crate) fn new(runtime: Handle, work: F) -> Self {
        Self {
            work: Some(Box::pin(work)),
            runtime,
            span: Span::current(),
        }
    }
}

impl<F: Future<Output: Send> + Send + 'static> Future for Detaching<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Some(work) = &mut self.work else {
            return Poll::Pending;
        };
        let polled = work.as_mut().poll(cx);
        if polled.is_ready() {
            self.work = None;
        }
        polled
    }
}

impl<F: Future<Output: Send> + Send + 'static> Drop for Detaching<F> {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            self.runtime
                .spawn(work.instrument(std::mem::replace(&mut self.span, Span::none())));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_nobody_drops_ends_on_its_callers_task() {
        let here = tokio::task::try_id();
        let work = async { tokio::task::try_id() };
        assert_eq!(Detaching::new(Handle::current(), work).await, here);
    }

    #[tokio::test]
    async fn what_is_dropped_goes_on_wherever_it_was() {
        for polled_before in [false, true] {
            let (go_on, told) = oneshot::channel::<()>();
            let (ended, end) = oneshot::channel();
            let work = async move {
                told.await.unwrap();
                ended.send(tokio::task::try_id()).unwrap();
            };
            let mut detaching = Detaching::new(Handle::current(), work);
            if polled_before {
                poll_fn(|cx| {
                    assert!(Pin::new(&mut detaching).poll(cx).is_pending());
                    Poll::Ready(())
                })
                .await;
            }
            drop(detaching);
            go_on.send(()).unwrap();
            assert_ne!(end.await.unwrap(), tokio::task::try_id());
        }
    }
}
