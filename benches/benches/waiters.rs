//! Duplicates that wait in one process for one running attempt: from the end of the leader's
//! body until the last waiter has its answer.

use idem_benches::Target::{AtMost, Baseline, None};
use idem_benches::waiting::Duplicates;
use idem_benches::{Contender, interleave, print, runtime, scaled};

fn main() {
    let runtime = runtime();
    for (waiters, rounds) in [(64, scaled(501, 51)), (10_000, scaled(41, 7))] {
        let of = &Duplicates::new(&runtime, waiters, || 0);
        let contenders = vec![
            Contender::new("`Notify` + `OnceLock`", Baseline, move || {
                [of.of_notify(false).nanoseconds]
            }),
            Contender::new("the same, each within a `timeout`", None, move || {
                [of.of_notify(true).nanoseconds]
            }),
            Contender::new("the same, in handlers of axum", None, move || {
                [of.of_a_handler().nanoseconds]
            }),
            Contender::new("**idem, `run`**", AtMost(1.5), move || {
                [of.of_run().nanoseconds]
            }),
            Contender::new(
                "**idem, the attribute over axum**",
                AtMost(3.0),
                move || [of.of_the_attribute().nanoseconds],
            ),
        ];
        let [figures] = interleave(rounds, contenders);
        let title = format!("{waiters} waiters, until the last has its answer");
        print(&title, "µs", 1000.0, &figures);
    }
}
