//! Waking those who wait: sharded pub/sub, one channel per watched record, named as its key.
//!
//! The subscriptions live on a connection of their own, opened when something is first watched:
//! what a server sends unasked counts against a limit at which it cuts the connection off.
//! When that connection is lost all watches wake: their callers look, and watch again.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use idem_core::Watch;
use redis::{PushInfo, PushKind, RedisError, Value};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::connection::{Link, Pushes};
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
    pub(super) async fn subscribe(&self, channel: Vec<u8>) -> Result<Subscription, RedisError> {
        // Registered first, so that nothing falls between the server's answer and here.
        let subscription = Subscription {
            woken: self.channels.register(&channel),
            watching: self.clone(),
            runtime: Handle::current(),
            channel,
        };
        let channel = &subscription.channel;
        // By every watch, also of one channel: an answer says that the subscription stands.
        self.link
            .call(async |connection| connection.subscribe(channel).await)
            .await?;
        Ok(subscription)
    }
}

/// What this process is subscribed to.
#[derive(Default)]
struct Channels(Mutex<HashMap<Vec<u8>, Weak<watch::Sender<()>>>>);

impl Channels {
    fn register(&self, channel: &[u8]) -> Arc<watch::Sender<()>> {
        let mut channels = self.lock();
        if let Some(woken) = channels.get(channel).and_then(Weak::upgrade) {
            return woken;
        }
        let woken = Arc::new(watch::Sender::new(()));
        channels.insert(channel.to_owned(), Arc::downgrade(&woken));
        woken
    }

    fn heard(&self, push: &PushInfo) {
        match (&push.kind, push.data.first()) {
            (PushKind::SMessage, Some(Value::BulkString(channel))) => self.wake(channel),
            (PushKind::Disconnection, _) => self.wake_all(),
            _ => {}
        }
    }

    fn wake(&self, channel: &[u8]) {
        if let Some(woken) = self.lock().get(channel).and_then(Weak::upgrade) {
            woken.send_replace(());
        }
    }

    fn wake_all(&self) {
        for woken in self.lock().values().filter_map(Weak::upgrade) {
            woken.send_replace(());
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Weak<watch::Sender<()>>>> {
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
    woken: Arc<watch::Sender<()>>,
    watching: Watching,
    runtime: Handle,
}

impl Subscription {
    pub(super) fn into_watch(self) -> Watch {
        let mut woken = self.woken.subscribe();
        Watch::new(async move {
            let _ = woken.changed().await;
            drop(self);
        })
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let channels = &self.watching.channels;
        {
            let mut registered = channels.lock();
            // This one and no other.
            if Arc::strong_count(&self.woken) > 1 {
                return;
            }
            registered.remove(&self.channel);
        }
        let (watching, channel) = (self.watching.clone(), std::mem::take(&mut self.channel));
        self.runtime.spawn(async move {
            let unsubscribed = watching
                .link
                .call(async |connection| connection.unsubscribe(&channel).await)
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
