//! Many processes over one server.

use idem::RecordId;
use idem_tests::Postgres;

use crate::many::{self, Server};
use crate::wall_clocks;

impl Server for Postgres {
    fn url(&self) -> String {
        Self::url(self)
    }

    fn watching(&self, record: &RecordId) -> usize {
        let is_watched = format!(
            "SELECT FROM idem_records WHERE id = '\\x{record}' AND watched AND outcome IS NULL"
        );
        let listen = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'";
        let count = self.psql(&format!("{listen} AND EXISTS ({is_watched})"));
        count.parse().unwrap()
    }
}

#[test]
fn of_1024_equal_requests_in_four_processes_one_runs_and_all_get_its_answer() {
    many::of_1024_equal_requests_one_runs(&Postgres::start());
}

#[test]
fn duplicates_in_other_processes_are_refused_while_the_first_runs() {
    many::duplicates_elsewhere_are_refused(&Postgres::start());
}

#[test]
fn after_kill_9_the_next_attempt_runs_when_the_lease_is_over() {
    many::after_kill_9_the_next_attempt_runs(&Postgres::start());
}

#[tokio::test]
async fn after_kill_9_nothing_runs_where_a_crash_refuses() {
    many::after_kill_9_nothing_runs(&Postgres::start()).await;
}

#[tokio::test]
async fn a_process_that_was_overtaken_in_its_sleep_cannot_complete() {
    many::paused(&Postgres::start(), "end k").await;
}

#[tokio::test]
async fn a_process_that_was_overtaken_in_its_sleep_cannot_release() {
    many::paused(&Postgres::start(), "release k").await;
}

#[test]
fn processes_whose_wall_clocks_are_hours_apart_neither_steal_nor_lose_a_lease() {
    wall_clocks::hours_apart_neither_steal_nor_lose_a_lease(&Postgres::start());
}
