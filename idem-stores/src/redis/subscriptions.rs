//! Waking waiters: sharded pub/sub, one channel per watched record, named as its key.
//!
//! The subscriptions have a connection of their own, which is opened by the first watch. The server
//! counts what it pushes against a limit, and closes a connection that exceeds it. When the
//! connection is lost all watches wake: their callers look, and watch again.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use idem_core::Watch;
use redis::{PushInfo, PushKind, Value};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::errors::CallError;
use super::link::Link;
use super::target::{Pushes, Target};
use crate::watchers::Watchers;

/// What this process is subscribed to.
#[derive(Clone)]
pub(super) struct Subscriptions {
    link: Arc<Link>,
    channels: Arc<Channels>,
}

impl Subscriptions {
    pub(super) fn new(target: Arc<Target>) -> Self {
        let channels = Arc::new(Channels::default());
        let receivers = Arc::clone(&channels);
        let pushes = move || -> Pushes {
            let receiver = Receiver(Arc::clone(&receivers));
            Arc::new(move |push: PushInfo| {
                receiver.0.receive(&push);
                Ok::<_, redis::aio::SendError>(())
            })
        };
        Self {
            link: Arc::new(Link::with_pushes(target, pushes)),
            channels,
        }
    }

    /// Subscribes. Every message that is published after this has returned wakes the watch.
    pub(super) async fn subscribe(&self, channel: Vec<u8>) -> Result<Subscription, CallError> {
        // Registered first: from the server's answer on, every message and the loss of the
        // connection must find the watch.
        let subscription = Subscription {
            woken: self.channels.watchers().register(&channel),
            subscriptions: self.clone(),
            runtime: Handle::current(),
            channel,
        };
        let channel = &subscription.channel;
        // Every watch sends it, also for one channel: the answer says that the subscription stands.
        let deadline = self.link.deadline();
        self.link
            .call(deadline, async |connection| {
                connection.subscribe(channel, deadline).await
            })
            .await?;
        Ok(subscription)
    }
}

/// The watches, by channel.
#[derive(Default)]
struct Channels(Mutex<Watchers<Vec<u8>>>);

impl Channels {
    fn receive(&self, push: &PushInfo) {
        match (&push.kind, push.data.first()) {
            (PushKind::SMessage, Some(Value::BulkString(channel))) => {
                self.watchers().wake(channel);
            }
            (PushKind::Disconnection, _) => self.watchers().wake_all(),
            _ => {}
        }
    }

    fn watchers(&self) -> MutexGuard<'_, Watchers<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Receives the messages of one connection, and is dropped with it, whatever ended it.
struct Receiver(Arc<Channels>);

impl Drop for Receiver {
    fn drop(&mut self) {
        self.0.watchers().wake_all();
    }
}

/// One watch of a channel.
pub(super) struct Subscription {
    channel: Vec<u8>,
    woken: watch::Receiver<()>,
    subscriptions: Subscriptions,
    runtime: Handle,
}

impl Subscription {
    pub(super) fn into_watch(mut self) -> Watch {
        Watch::new(async move {
            // The sender lives as long as this subscription.
            let _ = self.woken.changed().await;
        })
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let is_last = {
            let mut watchers = self.subscriptions.channels.watchers();
            watchers.unregister(&self.channel)
        };
        if !is_last {
            return;
        }
        let (subscriptions, channel) = (
            self.subscriptions.clone(),
            std::mem::take(&mut self.channel),
        );
        self.runtime.spawn(async move {
            let link = &subscriptions.link;
            let deadline = link.deadline();
            let unsubscribed = link
                .call(deadline, async |connection| {
                    connection.unsubscribe(&channel, deadline).await
                })
                .await;
            // If this fails, the subscription stays until the connection ends, and wakes nobody.
            drop(unsubscribed);
            // A watch that began meanwhile may have been unsubscribed with this one: it looks again.
            subscriptions.channels.watchers().wake(&channel);
        });
    }
}

impl fmt::Debug for Subscriptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriptions").finish_non_exhaustive()
    }
}
