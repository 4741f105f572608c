//! Many processes over one table.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use idem::RecordId;
use idem::store::Store;
use idem_tests::{DynamoDb, Emulator};

use crate::clock::strict;
use crate::many::{self, Server};
use crate::proxy::Proxy;
use crate::wall_clocks;

/// A table, and a way to it for each process.
struct Table {
    server: DynamoDb,
    ways: Vec<Proxy>,
    next: AtomicUsize,
}

impl Table {
    fn start() -> Option<Self> {
        let emulator = Emulator::best()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let start = move || runtime.block_on(DynamoDb::start(emulator));
        let server = std::thread::spawn(start).join().unwrap();
        let ways = (0..4).map(|_| Proxy::to(&server)).collect();
        Some(Self {
            server,
            ways,
            next: AtomicUsize::new(0),
        })
    }
}

impl Server for Table {
    /// Another way each time.
    fn url(&self) -> String {
        let next = self.next.fetch_add(1, Ordering::SeqCst);
        self.ways[next % self.ways.len()].url()
    }

    /// DynamoDB tells nobody: those wait that have been told that the record is held.
    fn watching(&self, _: &RecordId) -> usize {
        let is_refused = |way: &&Proxy| {
            way.has_passed(|passed| {
                // A claim has a token; what a store tries at its start has none.
                !passed.request.body["Item"]["t"].is_null() && passed.status == 400
            })
        };
        self.ways.iter().filter(is_refused).count()
    }

    async fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.server.store().await)
    }
}

#[test]
fn of_1024_equal_requests_in_four_processes_one_runs_and_all_get_its_answer() {
    if let Some(table) = Table::start() {
        many::of_1024_equal_requests_one_runs(&table);
    }
}

#[test]
fn duplicates_in_other_processes_are_refused_while_the_first_runs() {
    if let Some(table) = Table::start() {
        many::duplicates_elsewhere_are_refused(&table);
    }
}

#[test]
fn after_kill_9_the_next_attempt_runs_when_the_lease_is_over() {
    if let Some(table) = Table::start() {
        many::after_kill_9_the_next_attempt_runs(&table);
    }
}

#[tokio::test]
async fn after_kill_9_nothing_runs_where_a_crash_refuses() {
    if let Some(table) = Table::start() {
        many::after_kill_9_nothing_runs(&table).await;
    }
}

#[tokio::test]
async fn a_process_that_was_overtaken_in_its_sleep_cannot_complete() {
    if let Some(table) = Table::start() {
        many::paused(&table, "end k").await;
    }
}

#[tokio::test]
async fn a_process_that_was_overtaken_in_its_sleep_cannot_release() {
    if let Some(table) = Table::start() {
        many::paused(&table, "release k").await;
    }
}

/// The service refuses signatures that are five minutes off.
#[test]
fn processes_whose_wall_clocks_are_hours_apart_neither_steal_nor_lose_a_lease() {
    if let Some(table) = Table::start() {
        table.ways.iter().for_each(strict);
        wall_clocks::hours_apart_neither_steal_nor_lose_a_lease(&table);
    }
}
