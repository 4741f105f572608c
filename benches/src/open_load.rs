//! Load that comes whether or not there are answers: requests are due at a fixed rate.
//!
//! A request that is due takes a connection that is free. Where none is, it is turned away, as a load
//! balancer does it. What a request takes counts from when it was due.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::http::Keys;
use crate::socket::Connection;

/// Keeps the calling thread, and all that it starts from now on, on one core. Without effect where there
/// is only one.
pub fn keep_to_core(core: usize) {
    if std::thread::available_parallelism().is_ok_and(|cores| cores.get() > core) || core == 0 {
        let mut cores = CpuSet::new();
        cores.set(core);
        sched_setaffinity(None, &cores).ok();
    }
}

/// Connections to one server.
pub struct Connections(Arc<Mutex<Vec<Connection>>>);

/// What came of the requests that were due in some time.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    /// Answered with success.
    pub completed: usize,
    /// Answered with success when the time was over.
    pub completed_late: usize,
    /// Answered with 503.
    pub refused: usize,
    /// There was no connection for them.
    pub turned_away: usize,
    /// How long each of the completed took.
    pub latencies: Vec<Duration>,
}

impl Connections {
    /// # Panics
    /// When nobody listens.
    pub fn open(runtime: &Runtime, address: SocketAddr, count: usize) -> Self {
        let opened = runtime.block_on(async {
            let mut opened = Vec::with_capacity(count);
            for _ in 0..count {
                opened.push(Connection::open(address).await);
            }
            opened
        });
        Self(Arc::new(Mutex::new(opened)))
    }

    fn free(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets so many requests per second be due for some time, and waits for the last answer.
    ///
    /// # Panics
    /// When an answer is neither a success nor 503.
    pub fn offer(&self, runtime: &Runtime, per_second: f64, time: Duration) -> Answers {
        runtime.block_on(async {
            let mut calls = JoinSet::new();
            let mut answers = Answers::default();
            let started = Instant::now();
            let mut due: u32 = 0;
            while started.elapsed() < time {
                loop {
                    let at = started + Duration::from_secs_f64(f64::from(due) / per_second);
                    if at > Instant::now() || at >= started + time {
                        break;
                    }
                    due += 1;
                    match self.free().pop() {
                        None => answers.turned_away += 1,
                        Some(connection) => {
                            calls.spawn(call(connection, at, Arc::clone(&self.0)));
                        }
                    }
                }
                while let Some(call) = calls.try_join_next() {
                    answers.count(call.expect("a call"));
                }
                // As fine as the timer is.
                sleep(Duration::from_millis(1)).await;
            }
            let end = started + time;
            while let Some(call) = calls.join_next().await {
                let call = call.expect("a call");
                if call.answered <= end {
                    answers.count(call);
                } else {
                    answers.completed_late += usize::from(call.status == 200);
                }
            }
            answers
        })
    }
}

struct Call {
    status: u16,
    due: Instant,
    answered: Instant,
}

async fn call(mut connection: Connection, due: Instant, free: Arc<Mutex<Vec<Connection>>>) -> Call {
    connection.prepare(&Keys::Fresh.key(0));
    let status = connection.exchange().await;
    free.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(connection);
    Call {
        status,
        due,
        answered: Instant::now(),
    }
}

impl Answers {
    /// Also what was answered late.
    pub const fn all_completed(&self) -> usize {
        self.completed + self.completed_late
    }

    /// The milliseconds that so many of 100 requests needed at most, of those that were completed in time.
    pub fn percentile(&self, percent: usize) -> f64 {
        let mut all = self.latencies.clone();
        all.sort_unstable();
        let place = (all.len() * percent / 100).min(all.len().saturating_sub(1));
        all.get(place)
            .map_or(f64::NAN, |took| took.as_secs_f64() * 1e3)
    }

    fn count(&mut self, call: Call) {
        match call.status {
            200 => {
                self.completed += 1;
                self.latencies.push(call.answered - call.due);
            }
            503 => self.refused += 1,
            other => panic!("{other}"),
        }
    }
}
