//! The watches of one process: what is watched, and how its watches are woken. How a store learns of a
//! change is its own affair.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

use tokio::sync::watch;

/// Watches, by what they watch.
#[derive(Debug)]
pub(crate) struct Watchers<K> {
    watched: HashMap<K, Watched>,
}

#[derive(Debug, Default)]
struct Watched {
    woken: watch::Sender<()>,
    /// Never 0: the last watch removes the entry.
    watches: usize,
}

impl<K> Default for Watchers<K> {
    fn default() -> Self {
        Self {
            watched: HashMap::new(),
        }
    }
}

impl<K: Eq + Hash + Clone> Watchers<K> {
    /// Adds a watch, which every later wake-up of its key wakes.
    pub(crate) fn register(&mut self, key: &K) -> watch::Receiver<()> {
        let watched = self.watched.entry(key.clone()).or_default();
        watched.watches += 1;
        watched.woken.subscribe()
    }

    /// Removes one watch. `true` if it was the last one of its key.
    pub(crate) fn unregister(&mut self, key: &K) -> bool {
        let Some(watched) = self.watched.get_mut(key) else {
            return false;
        };
        watched.watches -= 1;
        let is_last = watched.watches == 0;
        if is_last {
            self.watched.remove(key);
        }
        is_last
    }

    pub(crate) fn wake<Q>(&self, key: &Q)
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        if let Some(watched) = self.watched.get(key) {
            watched.woken.send_replace(());
        }
    }

    pub(crate) fn wake_all(&self) {
        for watched in self.watched.values() {
            watched.woken.send_replace(());
        }
    }
}

#[cfg(any(feature = "postgres", feature = "sqlite"))]
impl<K> Watchers<K> {
    pub(crate) fn is_empty(&self) -> bool {
        self.watched.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watches_of_a_key_are_woken_until_the_last_one_is_gone() {
        let mut watchers = Watchers::default();
        let (one, two) = (watchers.register(&1), watchers.register(&1));
        let other = watchers.register(&2);
        watchers.wake(&1);
        let woken = |watch: &watch::Receiver<()>| watch.has_changed().unwrap();
        assert!(woken(&one) && woken(&two) && !woken(&other));
        watchers.wake_all();
        assert!(woken(&other));
        assert!(!watchers.unregister(&1));
        assert!(watchers.unregister(&1));
        // There is no one to wake.
        watchers.wake(&1);
        assert!(!watchers.unregister(&1));
        assert!(one.has_changed().is_err());
    }
}
