//! Workers over a real broker, killed between a payment and its acknowledgement.

use idem_examples::Worker;
use idem_tests::{Redis, Reply};

fn payments(redis: &Redis) -> Reply {
    redis.console().call(&["LRANGE", "payments", "0", "-1"])
}

fn one(payout: &str) -> Reply {
    Reply::Array(vec![Reply::Bulk(payout.into())])
}

#[test]
fn a_stream_is_acknowledged_after_the_outcome_and_a_dead_workers_entries_are_paid_once() {
    let redis = Redis::start();
    let payout = r#"{"id": "payout-1", "amount": 100}"#;
    // A producer that tried again, and one that is wrong.
    for payout in [payout, payout, "what?"] {
        let mut console = redis.console();
        console.call(&["XADD", "payouts", "*", "payout", payout]);
    }
    let url = redis.url();
    let stopping = ["--redis", &url, "--stop-before-acknowledging"];
    let mut first = Worker::start("stream-queue", &stopping);
    assert_eq!(first.line(), "worker-1 works");
    assert_eq!(first.line(), "payout-1: payment 1");
    first.kill();
    let taking_over = [
        "--redis",
        &url,
        "--name",
        "worker-2",
        "--take-over-after",
        "0",
    ];
    let mut second = Worker::start("stream-queue", &taking_over);
    assert_eq!(second.line(), "worker-2 works");
    for _ in 0..2 {
        assert_eq!(second.line(), "payout-1: payment 1");
        assert!(second.line().ends_with(" acknowledged"));
    }
    assert_eq!(second.line(), "set aside: no payout");
    assert!(second.line().ends_with(" acknowledged"));
    assert_eq!(payments(&redis), one("payout-1"));
    let mut console = redis.console();
    assert_eq!(console.call(&["XLEN", "payouts.dead"]), Reply::Integer(1));
    let Reply::Array(pending) = console.call(&["XPENDING", "payouts", "workers"]) else {
        panic!("no array")
    };
    assert_eq!(pending[0], Reply::Integer(0));
}

#[test]
fn jobs_of_apalis_that_are_pushed_twice_and_whose_worker_dies_are_paid_once() {
    let redis = Redis::start();
    let url = redis.url();
    let pushing = ["--redis", &url, "--heartbeat", "200", "--push", "payout-1"];
    let twice = [
        &pushing[..],
        &["--push", "payout-1", "--stop-before-acknowledging"],
    ]
    .concat();
    let mut first = Worker::start("apalis-worker", &twice);
    assert_eq!(first.line(), "worker-1 works");
    assert_eq!(first.line(), "payout-1: payment 1");
    first.kill();
    let taking_over = ["--redis", &url, "--name", "worker-2", "--heartbeat", "200"];
    let mut second = Worker::start("apalis-worker", &taking_over);
    assert_eq!(second.line(), "worker-2 works");
    for _ in 0..2 {
        assert_eq!(second.line(), "payout-1: payment 1");
    }
    assert_eq!(payments(&redis), one("payout-1"));
}
