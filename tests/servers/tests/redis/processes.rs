//! Many processes over one server, or one cluster.

use idem::RecordId;
use idem_tests::{Redis, RedisCluster, Reply};

use crate::conformance::key_of;
use crate::many::{self, Server};
use crate::wall_clocks;

fn subscribed(servers: &[Redis], record: &RecordId) -> usize {
    let channel = key_of(record);
    let words: [&[u8]; 3] = [b"PUBSUB", b"SHARDNUMSUB", &channel];
    let subscribed = |server: &Redis| match server.console().call(&words).items() {
        [_, Reply::Integer(count)] => usize::try_from(*count).unwrap(),
        other => panic!("{other:?}"),
    };
    servers.iter().map(subscribed).sum()
}

impl Server for Redis {
    fn url(&self) -> String {
        Self::url(self)
    }

    fn watching(&self, record: &RecordId) -> usize {
        subscribed(std::slice::from_ref(self), record)
    }
}

impl Server for RedisCluster {
    fn url(&self) -> String {
        Self::url(self)
    }

    fn watching(&self, record: &RecordId) -> usize {
        subscribed(self.nodes(), record)
    }
}

#[test]
fn of_1024_equal_requests_in_four_processes_one_runs_and_all_get_its_answer() {
    many::of_1024_equal_requests_one_runs(&Redis::start());
}

#[test]
fn so_it_is_in_a_cluster() {
    many::of_1024_equal_requests_one_runs(&RedisCluster::start());
}

#[test]
fn duplicates_in_other_processes_are_refused_while_the_first_runs() {
    many::duplicates_elsewhere_are_refused(&Redis::start());
}

#[test]
fn after_kill_9_the_next_attempt_runs_when_the_lease_is_over() {
    many::after_kill_9_the_next_attempt_runs(&Redis::start());
}

#[tokio::test]
async fn after_kill_9_nothing_runs_where_a_crash_refuses() {
    many::after_kill_9_nothing_runs(&Redis::start()).await;
}

#[tokio::test]
async fn a_process_that_was_overtaken_in_its_sleep_cannot_complete() {
    many::paused(&Redis::start(), "end k").await;
}

#[tokio::test]
async fn a_process_that_was_overtaken_in_its_sleep_cannot_release() {
    many::paused(&Redis::start(), "release k").await;
}

#[test]
fn processes_whose_wall_clocks_are_hours_apart_neither_steal_nor_lose_a_lease() {
    wall_clocks::hours_apart_neither_steal_nor_lose_a_lease(&Redis::start());
}
