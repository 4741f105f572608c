//! The writer. Writes that were requested during a commit are committed together in the next one, which
//! is as durable, and costs the disk as much, as the commit of one write. A transaction takes its writes
//! when it begins, so that lease holders go first.
//!
//! The writer has a thread of its own, and so outlives the runtimes of its callers. The thread ends with
//! the last handle. If it has ended otherwise, the next write starts another one.

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

use super::NAME;
use super::errors::{is_busy, keeps_connection_usable, while_writing};
use super::lanes::Lanes;
use super::limits::Limits;
use super::queue::{Queue, QueuePlace};
use super::statements::execute;
use super::sweeping::{self, SweepInterval, Sweeper};
use super::target::{Opened, Target};
use super::watches::{Watches, poll_other_processes};
use super::writes::{Job, Request, Write};

/// The least time between two tries to get the lock, if SQLite itself has not waited.
const MIN_LOCK_PAUSE: Duration = Duration::from_millis(1);

/// Takes requests from any runtime.
pub(super) struct Writer {
    work: Work,
    /// Of calls that hold no lease. Calls of lease holders have no bound: there are no more of them than
    /// leases.
    queue: Queue,
    state: Mutex<State>,
}

struct State {
    sender: Option<UnboundedSender<Write>>,
    /// For the first thread: it costs something to close the last connection of a database.
    opened: Option<Opened>,
}

/// What the thread needs.
#[derive(Clone)]
struct Work {
    target: Arc<Target>,
    watches: Arc<Watches>,
    lock_timeout: Duration,
    sweep_every: SweepInterval,
}

impl Writer {
    /// `opened` is a connection as [`Target::open_to_write`] opens it.
    pub(super) fn new(
        target: Arc<Target>,
        opened: Option<Opened>,
        watches: Arc<Watches>,
        limits: Limits,
    ) -> Self {
        Self {
            work: Work {
                target,
                watches,
                lock_timeout: limits.lock_timeout,
                sweep_every: limits.sweep_every,
            },
            queue: Queue::bounded(limits.max_waiting),
            state: Mutex::new(State {
                sender: None,
                opened,
            }),
        }
    }

    /// Requests a write for the holder of a lease, and answers when it is committed. It goes on if its
    /// caller goes away.
    pub(super) fn request<T, A>(
        &self,
        content: T,
        job: impl FnOnce(Request<T, A>) -> Job,
    ) -> impl Future<Output = Result<A, StoreError>> {
        self.write(content, Instant::now(), None, job)
    }

    /// Requests a write for a caller that holds no lease, and has waited since then.
    pub(super) async fn request_queued<T, A>(
        &self,
        content: T,
        since: Instant,
        job: impl FnOnce(Request<T, A>) -> Job,
    ) -> Result<A, StoreError> {
        let place = self.queue.enter()?;
        self.write(content, since, Some(place), job).await
    }

    async fn write<T, A>(
        &self,
        content: T,
        since: Instant,
        place: Option<QueuePlace>,
        job: impl FnOnce(Request<T, A>) -> Job,
    ) -> Result<A, StoreError> {
        let (request, answered) = Request::new(content);
        let sent = self.start()?.send(Write::new(job(request), since, place));
        sent.map_err(|_| StoreError::not_sent(NAME, Ended))?;
        let ended = |_| Err(StoreError::unavailable(NAME, Ended));
        answered.await.unwrap_or_else(ended)
    }

    /// The sender to the thread, which is started if there is none.
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

/// How a transaction ended.
enum BatchEnd {
    /// Every caller has an answer, or an error.
    Done,
    /// No caller has an answer: another connection holds the lock.
    Busy(Vec<Write>, StoreError),
    /// No caller has an answer: one of the writes failed, and the others may succeed.
    RetrySingly(Vec<Write>),
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
        // However the thread ends, no watch waits in vain.
        let _end = WakeAllOnDrop(Arc::clone(&self.watches));
        runtime.block_on(async {
            // Both tasks end with the runtime.
            tokio::spawn(poll_other_processes(
                Arc::clone(&self.watches),
                Arc::clone(&self.target),
            ));
            if let Some(every) = self.sweep_every {
                tokio::spawn(sweeping::sweep_periodically(OwnSweeper(own), every));
            }
            let mut lanes = Lanes::default();
            // While another connection has the lock.
            let mut busy = None;
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
                busy = self.write(&mut lanes, &mut opened, busy).await;
            }
        });
    }

    /// Writes the next batch, unless another connection holds the lock: then it gives the error.
    async fn write(
        &self,
        lanes: &mut Lanes,
        opened: &mut Option<Opened>,
        busy: Option<StoreError>,
    ) -> Option<StoreError> {
        let batch = lanes.next_batch(self.lock_timeout, busy.as_ref());
        if batch.is_empty() {
            return None;
        }
        let began = Instant::now();
        match self.write_batch(batch, opened).await {
            BatchEnd::Done => None,
            BatchEnd::RetrySingly(mut batch) => {
                batch.iter_mut().for_each(Write::isolate);
                lanes.put_back(batch);
                None
            }
            BatchEnd::Busy(batch, error) => {
                lanes.put_back(batch);
                lanes.fail_after_busy_lock(began, self.lock_timeout, &error);
                if began.elapsed() < MIN_LOCK_PAUSE {
                    sleep(MIN_LOCK_PAUSE).await;
                }
                Some(error)
            }
        }
    }

    async fn write_batch(&self, mut batch: Vec<Write>, opened: &mut Option<Opened>) -> BatchEnd {
        let used = match self.open(opened).await {
            Ok(used) => used,
            Err(busy @ StoreError::Busy { .. }) => return BatchEnd::Busy(batch, busy),
            Err(error) => return fail(batch, &error),
        };
        // A single statement is a transaction of its own.
        let done = match &mut batch[..] {
            [write] => write.run(&mut used.connection).await,
            many => Self::together(many, used).await,
        };
        let error = match done {
            Ok(()) => match self.target.check_in_place(used) {
                Ok(()) => return self.reply_all(batch),
                Err(replaced) => {
                    *opened = None;
                    return fail(batch, &replaced.after_writing());
                }
            },
            Err(error) => error,
        };
        if is_busy(&error) {
            return BatchEnd::Busy(batch, while_writing(error));
        }
        if !keeps_connection_usable(&error) {
            *opened = None;
        }
        match batch.len() {
            1 => fail(batch, &while_writing(error)),
            _ => BatchEnd::RetrySingly(batch),
        }
    }

    /// All in one transaction, or none.
    async fn together(batch: &mut [Write], used: &mut Opened) -> Result<(), sqlx::Error> {
        let connection = &mut used.connection;
        // Never a transaction that reads first and writes later: if another process writes in between,
        // SQLite refuses the rest.
        execute(connection, "BEGIN IMMEDIATE").await?;
        let done = match Write::run_all(batch, connection).await {
            Ok(()) => execute(connection, "COMMIT").await,
            failed => failed,
        };
        match done {
            // SQLite may have rolled back already. Then this fails, and nothing is lost.
            Err(error) => match execute(connection, "ROLLBACK").await {
                Err(broken @ sqlx::Error::WorkerCrashed) => Err(broken),
                _ => Err(error),
            },
            done => done,
        }
    }

    async fn open<'a>(&self, opened: &'a mut Option<Opened>) -> Result<&'a mut Opened, StoreError> {
        // Opening it anew finds out what is there instead.
        let in_place = opened.take_if(|opened| self.target.check_in_place(opened).is_err());
        drop(in_place);
        match opened {
            Some(opened) => Ok(opened),
            none => Ok(none.insert(self.target.open_to_write().await?)),
        }
    }

    /// Wakes watches and replies: the batch is committed.
    fn reply_all(&self, batch: Vec<Write>) -> BatchEnd {
        for write in batch {
            if let Some(id) = write.record_to_wake() {
                self.watches.wake(id);
            }
            write.reply();
        }
        BatchEnd::Done
    }
}

fn fail(batch: Vec<Write>, error: &StoreError) -> BatchEnd {
    for write in batch {
        write.fail(error.clone());
    }
    BatchEnd::Done
}

/// Sweeps through the thread's own lanes.
struct OwnSweeper(WeakUnboundedSender<Write>);

impl Sweeper for OwnSweeper {
    async fn sweep(&mut self, batch: u32) -> Option<Result<u64, StoreError>> {
        let (request, answered) = Request::new(batch);
        let write = Write::new(Job::Sweep(request), Instant::now(), None);
        // `None` after the last handle is gone.
        self.0.upgrade()?.send(write).ok()?;
        answered.await.ok()
    }
}

struct WakeAllOnDrop(Arc<Watches>);

impl Drop for WakeAllOnDrop {
    fn drop(&mut self) {
        self.0.wake_all();
    }
}

/// The thread has ended, perhaps in the middle of a write.
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
        let acquired = Claimed::acquired(1);
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
            let _ = sender.send(Write::new(Job::Panic, Instant::now(), None));
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
