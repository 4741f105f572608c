//! Processes whose wall clocks are hours apart: none steals a lease, loses one, or sees the end of one late.

use std::time::{Duration, Instant, SystemTime};

use idem_tests::wall_clock_off;
use serde_json::Value;

use crate::many::Server;
use crate::worker::{Effects, Worker};

const HOUR: i64 = 3600;
/// Long enough for a busy machine to renew it.
const KEPT: Duration = Duration::from_secs(12);
/// Of those who crash.
const LEFT: Duration = Duration::from_secs(2);

fn worker(server: &impl Server, effects: &Effects, off: i64, options: &[&str]) -> Worker {
    Worker::start_in(&server.url(), effects, options, &wall_clock_off(off))
}

/// How far the wall clock of who said this is off, to the hour.
fn hours_off(event: &Value) -> i64 {
    let micros: i64 = event["at"].as_str().unwrap().parse().unwrap();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = i64::try_from(now.unwrap().as_secs()).unwrap();
    // A busy machine may have been minutes about it.
    (micros / 1_000_000 - now + HOUR / 2).div_euclid(HOUR)
}

pub(crate) fn hours_apart_neither_steal_nor_lose_a_lease(server: &impl Server) {
    let effects = Effects::new();
    let kept = ["--lease-ms", "12000"];
    let mut slow = worker(server, &effects, -HOUR, &kept);
    let mut fast = worker(server, &effects, HOUR, &kept);
    let began = Instant::now();
    for (owner, key) in [(&mut slow, "slow"), (&mut fast, "fast")] {
        owner.tell(&format!("call {key} 1"));
        owner.expect("started");
    }
    // For longer than a lease: it is renewed, too.
    while began.elapsed() < KEPT + Duration::from_secs(1) {
        for (other, key) in [(&mut fast, "slow"), (&mut slow, "fast")] {
            other.tell(&format!("call {key} 1"));
            let answers = other.answers();
            let (answer, _) = answers.first_key_value().unwrap();
            assert!(answer.contains("is being processed"), "{key}: {answer}");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    for (key, hours) in [("slow", -1), ("fast", 1)] {
        let (owner, other) = match key {
            "slow" => (&mut slow, &mut fast),
            _ => (&mut fast, &mut slow),
        };
        owner.tell(&format!("end {key}"));
        let ended = owner.expect("ended");
        assert_eq!(ended["lost"], false, "{key}");
        assert_eq!(hours_off(&ended), hours, "the clock is not wrong: {ended}");
        let answers = owner.answers();
        assert_eq!(answers[&format!("1 of {}", owner.pid())], 1);
        other.tell(&format!("call {key} 1"));
        assert_eq!(other.answers(), answers);
        assert_eq!(effects.of(key), [1]);
    }

    // Processes crash. Others, whose clocks are wrong the other way, run what they ran: when its lease is over,
    // and not before.
    let left = ["--lease-ms", "2000"];
    let wait = ["--wait-ms", "600000"];
    let [slow, fast] = [(-HOUR, "of-slow"), (HOUR, "of-fast")].map(|(off, key)| {
        let next = worker(server, &effects, -off, &wait);
        let mut owner = worker(server, &effects, off, &left);
        let claimed = Instant::now();
        owner.tell(&format!("call {key} 1"));
        owner.expect("started");
        owner.kill();
        (next, key, claimed)
    });
    for (mut next, key, claimed) in [slow, fast] {
        next.tell(&format!("call {key} 1"));
        assert_eq!(next.expect("started")["attempt"], 2, "{key}");
        assert!(claimed.elapsed() >= LEFT, "{:?}", claimed.elapsed());
        next.tell(&format!("end {key}"));
        assert_eq!(next.expect("ended")["lost"], false);
        assert_eq!(effects.of(key), [1, 2]);
    }
}
