//! What airline, bank and database were told, against what the clients were.

use std::collections::HashMap;

use serde_json::Value;

use super::client::Booked;

#[derive(Default)]
pub(crate) struct Audit {
    pub(crate) faults: Vec<String>,
    /// Steps that ran again: each was interrupted before its value was kept.
    pub(crate) reruns: usize,
}

impl Audit {
    pub(crate) fn of(booked: &[Booked], calls: &str, orders: &[Value]) -> Self {
        let mut audit = Self::default();
        let mut calls_of: HashMap<&str, Vec<&str>> = HashMap::new();
        for call in calls.lines() {
            let mut words = call.split(' ');
            let (step, reference) = (words.next(), words.next());
            let calls = calls_of.entry(reference.unwrap_or_default()).or_default();
            calls.push(step.unwrap_or_default());
        }
        for trip in booked {
            audit.faults.extend(trip.fault.clone());
            let steps = calls_of.remove(&*trip.reference).unwrap_or_default();
            audit.check_calls(trip, &steps);
            audit.check_order(trip, orders);
        }
        for reference in calls_of.keys() {
            audit.faults.push(format!("{reference}: nobody booked it"));
        }
        if orders.len() != booked.len() {
            let (orders, trips) = (orders.len(), booked.len());
            audit
                .faults
                .push(format!("{orders} orders of {trips} trips"));
        }
        audit
    }

    /// The bank is called once the airline's answer is kept: from then on the airline is called no more.
    fn check_calls(&mut self, trip: &Booked, steps: &[&str]) {
        let holds = steps
            .iter()
            .take_while(|step| **step == "hold_seat")
            .count();
        let charges = &steps[holds..];
        let is_in_order = charges.iter().all(|step| *step == "charge_card");
        if holds == 0 || charges.is_empty() || !is_in_order {
            let fault = format!("{}: a finished step ran again: {steps:?}", trip.reference);
            self.faults.push(fault);
            return;
        }
        let reruns = holds + charges.len() - 2;
        self.reruns += reruns;
        if reruns > usize::try_from(trip.lost).unwrap_or(usize::MAX) {
            let fault = format!(
                "{}: {reruns} steps ran again, {} tries were cut off",
                trip.reference, trip.lost
            );
            self.faults.push(fault);
        }
    }

    fn check_order(&mut self, trip: &Booked, orders: &[Value]) {
        let reference = &trip.reference;
        let mut of_trip = orders
            .iter()
            .filter(|order| order["reference"] == **reference);
        let told: Value = serde_json::from_str(&trip.answer.body).unwrap_or_default();
        match (of_trip.next(), of_trip.next()) {
            (Some(order), None) if *order == told["order"] => {}
            (Some(order), None) => {
                let told = &told["order"];
                self.faults
                    .push(format!("{reference}: {order} was written, {told} told"));
            }
            (None, _) => self.faults.push(format!("{reference}: no order")),
            (Some(_), Some(_)) => self.faults.push(format!("{reference}: ordered twice")),
        }
    }
}
