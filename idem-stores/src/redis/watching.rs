//! Waking those who wait: sharded pub/sub, one channel per watched record, named as its key.
//!
//! The subscriptions live on a connection of their own, opened when something is first watched:
//! what a server sends unasked counts against a limit at which it cuts the connection off.
//! When that connection is lost all watches wake: their callers look, and watch again.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use idem_core::Watch;
use redis::{PushInfo, PushKind, Value};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::connection::{Link, Pushes};
use super::errors::CallError;
use super::target::Target;

#[derive(Clone)]
pub(super) struct Watching {
    link: Arc<Link>,
    channels: Arc<Channels>,
}

impl Watching {
    pub(super) fn new(target: Arc<Target>) -> Self {
        let channels = Arc::new(Channels::default());
        let heard = Arc::clone(&channels);
        let pushes = move || -> Pushes {
            let ear = Ear(Arc::clone(&heard));
            Arc::new(move |push: PushInfo| {
                ear.0.heard(&push);
                Ok::<_, redis::aio::SendError>(())
            })
        };
        Self {
            link: Arc::new(Link::listening(target, pushes)),
            channels,
        }
    }

    /// Subscribes. What is published after this has returned wakes the watch.
    pub(super) async fn subscribe(&self, channel: Vec<u8>) -> Result<Subscription, CallError> {
        // Registered first: from the server's answer on everything is heard, the loss of the
        // connection, too.
        let subscription = Subscription {
            woken: self.channels.register(&channel),
            watching: self.clone(),
            runtime: Handle::current(),
            channel,
        };
        let channel = &subscription.channel;
        // By every watch, also of one channel: an answer says that the subscription stands.
        self.link
            .call(self.link.deadline(), async |connection| {
                connection.subscribe(channel).await
            })
            .await?;
        Ok(subscription)
    }
}

/// What this process is subscribed to.
#[derive(Default)]
struct Channels(Mutex<HashMap<Vec<u8>, Channel>>);

#[derive(Default)]
struct Channel {
    woken: watch::Sender<()>,
    watches: usize,
}

impl Channels {
    fn register(&self, channel: &[u8]) -> watch::Receiver<()> {
        let mut channels = self.lock();
        let channel = channels.entry(channel.to_owned()).or_default();
        channel.watches += 1;
        channel.woken.subscribe()
    }

    /// Whether nobody watches the channel any more.
    fn unregister(&self, channel: &[u8]) -> bool {
        let mut channels = self.lock();
        let Some(registered) = channels.get_mut(channel) else {
            return false;
        };
        registered.watches -= 1;
        let is_last = registered.watches == 0;
        if is_last {
            channels.remove(channel);
        }
        is_last
    }

    fn heard(&self, push: &PushInfo) {
        match (&push.kind, push.data.first()) {
            (PushKind::SMessage, Some(Value::BulkString(channel))) => self.wake(channel),
            (PushKind::Disconnection, _) => self.wake_all(),
            _ => {}
        }
    }

    fn wake(&self, channel: &[u8]) {
        if let Some(channel) = self.lock().get(channel) {
            channel.woken.send_replace(());
        }
    }

    fn wake_all(&self) {
        for channel in self.lock().values() {
            channel.woken.send_replace(());
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Channel>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Belongs to one connection, and is dropped with it, whatever ended it.
struct Ear(Arc<Channels>);

impl Drop for Ear {
    fn drop(&mut self) {
        self.0.wake_all();
    }
}

/// One watch of a channel.
pub(super) struct Subscription {
    channel: Vec<u8>,
    woken: watch::Receiver<()>,
    watching: Watching,
    runtime: Handle,
}

impl Subscription {
    pub(super) fn into_watch(mut self) -> Watch {
        Watch::new(async move {
            // It cannot end before this is dropped.
            let _ = self.woken.changed().await;
        })
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if !self.watching.channels.unregister(&self.channel) {
            return;
        }
        let (watching, channel) = (self.watching.clone(), std::mem::take(&mut self.channel));
        self.runtime.spawn(async move {
            let unsubscribed = watching
                .link
                .call(watching.link.deadline(), async |connection| {
                    connection.unsubscribe(&channel).await
                })
                .await;
            // A lost one leaves a subscription that nobody hears, until the connection ends.
            drop(unsubscribed);
            // Who began to watch meanwhile may be unsubscribed with this one: it looks again.
            watching.channels.wake(&channel);
        });
    }
}

impl fmt::Debug for Watching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watching").finish_non_exhaustive()
    }
}
