//! Many processes over one server.

use idem::RecordId;
use idem_tests::MariaDb;

use crate::many::{self, Server};
use crate::wall_clocks;

/// A server that keeps every statement, so that a test sees who has asked.
fn start() -> MariaDb {
    MariaDb::builder()
        .setting("general-log", "1")
        .setting("log-output", "TABLE")
        .start()
}

impl Server for MariaDb {
    fn url(&self) -> String {
        Self::url(self)
    }

    /// Waiters poll: these have been told that the record is taken. The first to ask is not one of them.
    fn watching(&self, record: &RecordId) -> usize {
        let count = self.sql(&format!(
            "SELECT COUNT(DISTINCT thread_id) FROM mysql.general_log \
             WHERE argument LIKE '%INSERT INTO idem_records%{record}%' AND argument NOT LIKE '%general_log%'"
        ));
        count.parse::<usize>().unwrap().saturating_sub(1)
    }
}

#[test]
fn of_1024_equal_requests_in_four_processes_one_runs_and_all_get_its_answer() {
    many::of_1024_equal_requests_one_runs(&start());
}

#[test]
fn duplicates_in_other_processes_are_refused_while_the_first_runs() {
    many::duplicates_elsewhere_are_refused(&MariaDb::start());
}

#[test]
fn after_kill_9_the_next_attempt_runs_when_the_lease_is_over() {
    many::after_kill_9_the_next_attempt_runs(&MariaDb::start());
}

#[tokio::test]
async fn after_kill_9_nothing_runs_where_a_crash_refuses() {
    many::after_kill_9_nothing_runs(&MariaDb::start()).await;
}

#[tokio::test]
async fn a_process_that_was_overtaken_in_its_sleep_cannot_complete() {
    many::paused(&MariaDb::start(), "end k").await;
}

#[tokio::test]
async fn a_process_that_was_overtaken_in_its_sleep_cannot_release() {
    many::paused(&MariaDb::start(), "release k").await;
}

#[test]
fn processes_whose_wall_clocks_are_hours_apart_neither_steal_nor_lose_a_lease() {
    wall_clocks::hours_apart_neither_steal_nor_lose_a_lease(&MariaDb::start());
}
