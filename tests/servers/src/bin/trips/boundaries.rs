//! Crashes exactly at the boundaries of each step.

use super::agency::Agency;
use super::client::Client;
use super::options::Store;

/// Where the example crashes, and how often airline and bank are called in the end.
const CRASHES: [(&str, &str, usize, usize); 6] = [
    ("--crash-within", "hold_seat", 2, 1),
    ("--crash-after", "hold_seat", 1, 1),
    ("--crash-within", "charge_card", 1, 2),
    ("--crash-after", "charge_card", 1, 1),
    // The order has no gap: its row and its value commit together.
    ("--crash-within", "write_order", 1, 1),
    ("--crash-after", "write_order", 1, 1),
];

/// What was wrong.
pub(crate) fn check(store: Store) -> Vec<String> {
    let mut faults = Vec::new();
    for (crash, step, holds, charges) in CRASHES {
        let agency = Agency::start(store, &[crash, step]);
        Client::new(0, agency.port()).is_cut_off("trip");
        let agency = agency.start_again_when_it_has_crashed();
        let trip = Client::new(0, agency.port()).book("trip");
        faults.extend(trip.fault.map(|fault| format!("{crash} {step}: {fault}")));
        let calls = agency.calls();
        let count = |step| calls.lines().filter(|call| call.starts_with(step)).count();
        let seen = (
            count("hold_seat"),
            count("charge_card"),
            agency.orders().len(),
        );
        if seen != (holds, charges, 1) {
            faults.push(format!(
                "{crash} {step}: airline, bank and database were told {seen:?} times"
            ));
        }
    }
    faults
}
