//! The one that writes. Whatever has been asked for while a commit was under way is committed
//! together in the next one, which is as durable and costs the disk as much as a single one.
//!
//! It has a thread of its own, and so outlives the runtimes of those who ask. The thread ends
//! with the last handle, and begins anew with the next write if it has ended otherwise.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use idem_core::StoreError;
use sqlx::sqlite::SqliteConnection;
use tokio::runtime;
use tokio::sync::mpsc::{
    UnboundedReceiver, UnboundedSender, WeakUnboundedSender, unbounded_channel,
};
use tokio::time::{Instant, sleep};
use tracing::{debug, error};

use super::errors::{is_busy, spares_the_connection, store_error};
use super::target::Target;
use super::watching::{Watchers, look_out};
use super::writes::{Asked, Write};
use super::{NAME, execute};

/// The most writes of one transaction, and the most bytes of outcomes: how long others wait.
const MOST: usize = 128;
const HEAVY: usize = 4 * 1024 * 1024;

/// Records that are swept in one transaction, and the pause after it.
const SWEPT: u32 = 256;
const PAUSE: Duration = Duration::from_millis(20);

/// Takes writes, from any runtime.
pub(super) struct Writer {
    work: Work,
    state: Mutex<State>,
}

struct State {
    queue: Option<UnboundedSender<Write>>,
    /// For the first thread: a database that nobody has open is closed at some cost.
    opened: Option<SqliteConnection>,
}

/// What the thread needs.
#[derive(Clone)]
struct Work {
    target: Arc<Target>,
    watchers: Arc<Watchers>,
    /// How long a write waits for the lock.
    patience: Duration,
    sweep_every: Option<Duration>,
}

impl Writer {
    /// `opened` is a connection as [`Target::open_to_write`] opens it.
    pub(super) fn new(
        target: Arc<Target>,
        opened: Option<SqliteConnection>,
        watchers: Arc<Watchers>,
        patience: Duration,
        sweep_every: Option<Duration>,
    ) -> Self {
        Self {
            work: Work {
                target,
                watchers,
                patience,
                sweep_every,
            },
            state: Mutex::new(State {
                queue: None,
                opened,
            }),
        }
    }

    /// Writes, and answers when it is committed. A caller that goes away does not stop it.
    pub(super) async fn ask<Q, A>(
        &self,
        question: Q,
        write: impl FnOnce(Asked<Q, A>) -> Write,
    ) -> Result<A, StoreError> {
        let (asked, answered) = Asked::new(question);
        let ended = || Err(StoreError::unavailable(NAME, Ended));
        match self.queue()?.send(write(asked)) {
            Ok(()) => answered.await.unwrap_or_else(|_| ended()),
            Err(_) => ended(),
        }
    }

    /// The way to the thread, which is started where there is none.
    pub(super) fn queue(&self) -> Result<UnboundedSender<Write>, StoreError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = state.queue.as_ref().filter(|queue| !queue.is_closed()) {
            return Ok(queue.clone());
        }
        let (sender, writes) = unbounded_channel();
        let (work, own, opened) = (self.work.clone(), sender.downgrade(), state.opened.take());
        thread::Builder::new()
            .name("idem-sqlite".to_owned())
            .spawn(move || work.run(writes, own, opened))
            .map_err(|error| StoreError::unavailable(NAME, error))?;
        state.queue = Some(sender.clone());
        Ok(sender)
    }
}

impl Work {
    /// The thread.
    fn run(
        self,
        mut writes: UnboundedReceiver<Write>,
        own: WeakUnboundedSender<Write>,
        mut connection: Option<SqliteConnection>,
    ) {
        // However it ends, nobody waits for news that do not come.
        let _end = WakesAll(Arc::clone(&self.watchers));
        let runtime = match runtime::Builder::new_current_thread().enable_time().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                error!(
                    target: "idem",
                    error = &error as &dyn std::error::Error,
                    "the sqlite store cannot write"
                );
                return;
            }
        };
        runtime.block_on(async {
            // Both end with the runtime.
            tokio::spawn(look_out(
                Arc::clone(&self.watchers),
                Arc::clone(&self.target),
            ));
            if let Some(pause) = self.sweep_every {
                tokio::spawn(sweep(own, pause));
            }
            while let Some(first) = writes.recv().await {
                let batch = collect(first, &mut writes);
                self.write(batch, &mut connection).await;
            }
        });
    }

    /// Writes, as soon as nobody else does.
    async fn write(&self, mut batch: Vec<Write>, connection: &mut Option<SqliteConnection>) {
        let since = Instant::now();
        while let Err((left, busy)) = self.attempt(batch, connection).await {
            if since.elapsed() >= self.patience {
                return fail(left, busy);
            }
            batch = left;
        }
    }

    /// # Errors
    /// With what is left to write, when another process holds the lock.
    async fn attempt(
        &self,
        mut batch: Vec<Write>,
        connection: &mut Option<SqliteConnection>,
    ) -> Result<(), (Vec<Write>, sqlx::Error)> {
        batch.retain(Write::is_wanted);
        // A statement of its own is a transaction of its own.
        if batch.len() > 1 {
            match self.together(&mut batch, connection).await {
                Ok(()) => {
                    self.announce(batch);
                    return Ok(());
                }
                Err(error) if is_busy(&error) => return Err((batch, error)),
                // One of them cannot be written; the others can.
                Err(_) => {}
            }
        }
        let mut batch = batch.into_iter();
        while let Some(mut write) = batch.next() {
            let done = match self.open(connection).await {
                Ok(used) => write.run(used).await,
                Err(error) => Err(error),
            };
            let Err(error) = done else {
                self.announce([write]);
                continue;
            };
            if is_busy(&error) {
                return Err(([write].into_iter().chain(batch).collect(), error));
            }
            if !spares_the_connection(&error) {
                *connection = None;
            }
            write.fail(store_error(error));
        }
        Ok(())
    }

    /// All in one transaction, or none.
    async fn together(
        &self,
        batch: &mut [Write],
        connection: &mut Option<SqliteConnection>,
    ) -> Result<(), sqlx::Error> {
        let used = self.open(connection).await?;
        // Never a transaction that begins with a look and becomes one that writes: another
        // process could write in between, and SQLite would refuse the rest.
        execute(used, "BEGIN IMMEDIATE").await?;
        let done = match Write::run_all(batch, used).await {
            Ok(()) => execute(used, "COMMIT").await,
            failed => failed,
        };
        if done.is_err() && execute(used, "ROLLBACK").await.is_err() {
            // It has rolled itself back, or it is broken: closing does the same.
            *connection = None;
        }
        done
    }

    async fn open<'a>(
        &self,
        connection: &'a mut Option<SqliteConnection>,
    ) -> Result<&'a mut SqliteConnection, sqlx::Error> {
        match connection {
            Some(connection) => Ok(connection),
            none => Ok(none.insert(self.target.open_to_write().await?)),
        }
    }

    /// It is committed.
    fn announce(&self, batch: impl IntoIterator<Item = Write>) {
        for write in batch {
            if let Some(id) = write.news() {
                self.watchers.wake(id);
            }
            write.give();
        }
    }
}

/// What waits, up to the bounds of a transaction.
fn collect(first: Write, writes: &mut UnboundedReceiver<Write>) -> Vec<Write> {
    let mut heavy = first.weight();
    let mut batch = vec![first];
    while batch.len() < MOST
        && heavy < HEAVY
        && let Ok(write) = writes.try_recv()
    {
        heavy += write.weight();
        batch.push(write);
    }
    batch
}

fn fail(batch: impl IntoIterator<Item = Write>, error: sqlx::Error) {
    let error = store_error(error);
    for write in batch {
        write.fail(error.clone());
    }
}

/// Deletes what is over, a little at a time: in between, others write.
async fn sweep(queue: WeakUnboundedSender<Write>, pause: Duration) {
    let pause = pause.max(Duration::from_millis(1));
    loop {
        sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
        loop {
            let (asked, answered) = Asked::new(SWEPT);
            // Gone with the last handle.
            let Some(queue) = queue.upgrade() else {
                return;
            };
            if queue.send(Write::Sweep(asked)).is_err() {
                return;
            }
            drop(queue);
            match answered.await {
                Ok(Ok(swept)) if swept == u64::from(SWEPT) => sleep(PAUSE).await,
                Ok(Ok(_)) => break,
                Ok(Err(error)) => {
                    debug!(
                        target: "idem",
                        error = &error as &dyn std::error::Error,
                        "the sqlite database could not be swept"
                    );
                    break;
                }
                Err(_) => return,
            }
        }
    }
}

struct WakesAll(Arc<Watchers>);

impl Drop for WakesAll {
    fn drop(&mut self) {
        self.0.wake_all();
    }
}

/// The thread has ended in the middle of a write.
#[derive(Debug)]
struct Ended;

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the thread that writes has ended, and whether it has written is not known")
    }
}

impl std::error::Error for Ended {}

#[cfg(test)]
mod tests {
    use idem_core::{Claim, Claimed, Fingerprint, RecordId, Store};

    use super::*;
    use crate::sqlite::SqliteStore;

    #[tokio::test]
    async fn a_thread_that_panicked_loses_no_commit_and_begins_anew() {
        let name = format!("idem-writer-{}.db", std::process::id());
        let path = std::env::temp_dir().join(name);
        let url = format!("sqlite://{}", path.display());
        let store = SqliteStore::connect(&url).await.unwrap();
        let claim = |number| {
            Claim::new(
                RecordId::from_bytes([number; 32]),
                Fingerprint::of("request").unwrap(),
                Duration::from_secs(30),
                Duration::from_secs(3600),
            )
        };
        let acquired = Claimed::Acquired { attempt: 1 };
        for number in 0..20 {
            let before = claim(number);
            assert_eq!(store.claim(&before).await.unwrap(), acquired);
            let watch = store.watch(&before.id).await.unwrap();

            // A claim, the panic, and two claims: alone or together with it.
            let queue = store.inner.writer.queue().unwrap();
            let first = tokio::spawn({
                let (store, claim) = (store.clone(), claim(100 + number));
                async move { store.claim(&claim).await }
            });
            tokio::task::yield_now().await;
            let _ = queue.send(Write::Panic);
            let beside = [claim(30 + number), claim(60 + number)];
            let answers = tokio::join!(store.claim(&beside[0]), store.claim(&beside[1]), first);
            let answers = [answers.0, answers.1, answers.2.unwrap()];
            for answer in &answers {
                // Answered, or lost.
                match answer {
                    Ok(answer) => assert_eq!(*answer, acquired),
                    Err(error) => assert!(matches!(error, StoreError::Unavailable { .. })),
                }
            }
            // Whoever waited looks.
            watch.await;
            // Nothing of a transaction that was not committed has happened, and what was is there.
            for claim in [&before].into_iter().chain(&beside) {
                let answer = loop {
                    match store.claim(claim).await {
                        Ok(answer) => break answer,
                        // The thread was still ending when this came to it.
                        Err(StoreError::Unavailable { source, .. }) if source.is::<Ended>() => {
                            tokio::task::yield_now().await;
                        }
                        Err(error) => panic!("{error:?}"),
                    }
                };
                assert_eq!(answer, acquired);
            }
        }
        drop(store);
        for end in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{end}", path.display()));
        }
    }
}
