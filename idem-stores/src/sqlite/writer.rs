//! The one that writes. Whatever has been asked for while a commit was under way is committed
//! together in the next one, which is as durable and costs the disk as much as a single one. What
//! each transaction takes along is taken when it begins, so that who holds a lease goes first.
//!
//! It has a thread of its own, and so outlives the runtimes of those who ask. The thread ends
//! with the last handle, and begins anew with the next write if it has ended otherwise.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use idem_core::StoreError;
use tokio::runtime::{self, Runtime};
use tokio::sync::mpsc::{
    UnboundedReceiver, UnboundedSender, WeakUnboundedSender, unbounded_channel,
};
use tokio::time::sleep;

use super::builder::Limits;
use super::errors::{is_busy, spares_the_connection, while_writing};
use super::lanes::{Lanes, Queue};
use super::sweeping::{self, Pause, Sweeper};
use super::target::{Opened, Target};
use super::watching::{Watchers, look_out};
use super::writes::{Asked, Change, Write};
use super::{NAME, execute};

/// The pause before the lock is asked for again, where SQLite itself has not waited.
const BREATH: Duration = Duration::from_millis(1);

/// Takes writes, from any runtime.
pub(super) struct Writer {
    work: Work,
    /// Of those who hold no lease. Who holds one waits beside it: there are no more of them than
    /// there are leases.
    queue: Queue,
    state: Mutex<State>,
}

struct State {
    sender: Option<UnboundedSender<Write>>,
    /// For the first thread: a database that nobody has open is closed at some cost.
    opened: Option<Opened>,
}

/// What the thread needs.
#[derive(Clone)]
struct Work {
    target: Arc<Target>,
    watchers: Arc<Watchers>,
    /// How long a write waits for the lock.
    patience: Duration,
    sweep_every: Pause,
}

impl Writer {
    /// `opened` is a connection as [`Target::open_to_write`] opens it.
    pub(super) fn new(
        target: Arc<Target>,
        opened: Option<Opened>,
        watchers: Arc<Watchers>,
        limits: Limits,
    ) -> Self {
        Self {
            work: Work {
                target,
                watchers,
                patience: limits.patience,
                sweep_every: limits.sweep_every,
            },
            queue: Queue::bounded(limits.max_waiting),
            state: Mutex::new(State {
                sender: None,
                opened,
            }),
        }
    }

    /// Writes what the holder of a lease asks for, and answers when it is committed. A caller that
    /// goes away does not stop it.
    pub(super) async fn ask<Q, A>(
        &self,
        question: Q,
        change: impl FnOnce(Asked<Q, A>) -> Change,
    ) -> Result<A, StoreError> {
        let (asked, answered) = Asked::new(question);
        self.send(Write::new(change(asked), Instant::now(), None))?;
        answered.await.unwrap_or_else(|_| Err(ended()))
    }

    /// The same for who holds no lease, and has waited since then.
    pub(super) async fn ask_in_the_queue<Q, A>(
        &self,
        question: Q,
        since: Instant,
        change: impl FnOnce(Asked<Q, A>) -> Change,
    ) -> Result<A, StoreError> {
        let place = self.queue.enter()?;
        let (asked, answered) = Asked::new(question);
        self.send(Write::new(change(asked), since, Some(place)))?;
        answered.await.unwrap_or_else(|_| Err(ended()))
    }

    fn send(&self, write: Write) -> Result<(), StoreError> {
        let unsent = |_| StoreError::not_sent(NAME, Ended);
        self.start()?.send(write).map_err(unsent)
    }

    /// The way to the thread, which is started where there is none.
    pub(super) fn start(&self) -> Result<UnboundedSender<Write>, StoreError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = state.sender.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let unsent = |error| StoreError::not_sent(NAME, error);
        let mut runtime = runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().build().map_err(unsent)?;
        let (sender, writes) = unbounded_channel();
        let (work, own, opened) = (self.work.clone(), sender.downgrade(), state.opened.take());
        thread::Builder::new()
            .name("idem-sqlite".to_owned())
            .spawn(move || work.run(&runtime, writes, own, opened))
            .map_err(unsent)?;
        state.sender = Some(sender.clone());
        Ok(sender)
    }
}

/// What became of a transaction.
enum Attempted {
    /// Everybody has an answer, or an error.
    Done,
    /// Nobody has: another connection holds the lock.
    Busy(Vec<Write>, StoreError),
    /// Nobody has: one of them cannot be written, and the others can.
    OneByOne(Vec<Write>),
}

impl Work {
    /// The thread.
    fn run(
        self,
        runtime: &Runtime,
        mut writes: UnboundedReceiver<Write>,
        own: WeakUnboundedSender<Write>,
        mut opened: Option<Opened>,
    ) {
        // However it ends, nobody waits for news that do not come.
        let _end = WakesAll(Arc::clone(&self.watchers));
        runtime.block_on(async {
            // Both end with the runtime.
            tokio::spawn(look_out(
                Arc::clone(&self.watchers),
                Arc::clone(&self.target),
            ));
            if let Some(every) = self.sweep_every {
                tokio::spawn(sweeping::now_and_then(OwnSweeper(own), every));
            }
            let mut lanes = Lanes::default();
            loop {
                if lanes.is_empty() {
                    match writes.recv().await {
                        Some(write) => lanes.add(write),
                        None => return,
                    }
                }
                while let Ok(write) = writes.try_recv() {
                    lanes.add(write);
                }
                self.write(&mut lanes, &mut opened).await;
            }
        });
    }

    /// Writes what goes next, if nobody else does at this moment.
    async fn write(&self, lanes: &mut Lanes, opened: &mut Option<Opened>) {
        let batch = lanes.next_batch(self.patience);
        if batch.is_empty() {
            return;
        }
        let began = Instant::now();
        match self.attempt(batch, opened).await {
            Attempted::Done => {}
            Attempted::OneByOne(mut batch) => {
                batch.iter_mut().for_each(Write::be_alone);
                lanes.put_back(batch);
            }
            Attempted::Busy(batch, error) => {
                lanes.put_back(batch);
                lanes.lock_was_busy(began, self.patience, &error);
                if began.elapsed() < BREATH {
                    sleep(BREATH).await;
                }
            }
        }
    }

    async fn attempt(&self, mut batch: Vec<Write>, opened: &mut Option<Opened>) -> Attempted {
        let used = match self.open(opened).await {
            Ok(used) => used,
            Err(busy @ StoreError::Busy { .. }) => return Attempted::Busy(batch, busy),
            Err(error) => return fail(batch, &error),
        };
        // A statement of its own is a transaction of its own.
        let done = match &mut batch[..] {
            [write] => write.run(&mut used.connection).await,
            many => Self::together(many, used).await,
        };
        let error = match done {
            Ok(()) => match self.target.still_has(used) {
                Ok(()) => return self.announce(batch),
                Err(replaced) => {
                    *opened = None;
                    return fail(batch, &replaced.after_writing());
                }
            },
            Err(error) => error,
        };
        if is_busy(&error) {
            return Attempted::Busy(batch, while_writing(error));
        }
        if !spares_the_connection(&error) {
            *opened = None;
        }
        match batch.len() {
            1 => fail(batch, &while_writing(error)),
            _ => Attempted::OneByOne(batch),
        }
    }

    /// All in one transaction, or none.
    async fn together(batch: &mut [Write], used: &mut Opened) -> Result<(), sqlx::Error> {
        let connection = &mut used.connection;
        // Never a transaction that begins with a look and becomes one that writes: another
        // process could write in between, and SQLite would refuse the rest.
        execute(connection, "BEGIN IMMEDIATE").await?;
        let done = match Write::run_all(batch, connection).await {
            Ok(()) => execute(connection, "COMMIT").await,
            failed => failed,
        };
        match done {
            // It may have rolled itself back; nothing is left to roll back then.
            Err(error) => match execute(connection, "ROLLBACK").await {
                Err(broken @ sqlx::Error::WorkerCrashed) => Err(broken),
                _ => Err(error),
            },
            done => done,
        }
    }

    async fn open<'a>(&self, opened: &'a mut Option<Opened>) -> Result<&'a mut Opened, StoreError> {
        // Opened again, it is known what is there instead.
        let in_place = opened.take_if(|opened| self.target.still_has(opened).is_err());
        drop(in_place);
        match opened {
            Some(opened) => Ok(opened),
            none => Ok(none.insert(self.target.open_to_write().await?)),
        }
    }

    /// It is committed.
    fn announce(&self, batch: Vec<Write>) -> Attempted {
        for write in batch {
            if let Some(id) = write.news() {
                self.watchers.wake(id);
            }
            write.give();
        }
        Attempted::Done
    }
}

fn fail(batch: Vec<Write>, error: &StoreError) -> Attempted {
    for write in batch {
        write.fail(error.clone());
    }
    Attempted::Done
}

/// Sweeps by way of the thread's own lanes.
struct OwnSweeper(WeakUnboundedSender<Write>);

impl Sweeper for OwnSweeper {
    async fn sweep(&mut self, batch: u32) -> Option<Result<u64, StoreError>> {
        let (asked, answered) = Asked::new(batch);
        let write = Write::new(Change::Sweep(asked), Instant::now(), None);
        // Gone with the last handle.
        self.0.upgrade()?.send(write).ok()?;
        answered.await.ok()
    }
}

struct WakesAll(Arc<Watchers>);

impl Drop for WakesAll {
    fn drop(&mut self) {
        self.0.wake_all();
    }
}

fn ended() -> StoreError {
    StoreError::unavailable(NAME, Ended)
}

/// The thread has ended, in the middle of a write perhaps.
#[derive(Debug)]
struct Ended;

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the thread that writes has ended")
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
            let sender = store.inner.writer.start().unwrap();
            let first = tokio::spawn({
                let (store, claim) = (store.clone(), claim(100 + number));
                async move { store.claim(&claim).await }
            });
            tokio::task::yield_now().await;
            let _ = sender.send(Write::new(Change::Panic, Instant::now(), None));
            let beside = [claim(30 + number), claim(60 + number)];
            let answers = tokio::join!(store.claim(&beside[0]), store.claim(&beside[1]), first);
            let answers = [answers.0, answers.1, answers.2.unwrap()];
            for answer in &answers {
                // Answered, or lost.
                match answer {
                    Ok(answer) => assert_eq!(*answer, acquired),
                    Err(StoreError::Unavailable { .. } | StoreError::NotSent { .. }) => {}
                    Err(error) => panic!("{error:?}"),
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
                        Err(
                            StoreError::NotSent { source, .. }
                            | StoreError::Unavailable { source, .. },
                        ) if source.is::<Ended>() => {
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
