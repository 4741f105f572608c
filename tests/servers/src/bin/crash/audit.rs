//! The ledger beside what clients were told.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use super::http::Meaning;
use super::order::Deal;

/// What every account begins with.
const BALANCE: i64 = 1_000_000;

#[derive(Default)]
pub(crate) struct Audit {
    pub(crate) transfers: u64,
    /// There more than once; each one too many counts.
    pub(crate) duplicated: u64,
    /// The client was told that it is there, and it is not, or is another one.
    pub(crate) lost: u64,
    /// There, and the client was told that it failed for good; or nobody ordered it.
    pub(crate) phantom: u64,
    /// By how much accounts differ from the sum of their transfers.
    pub(crate) money_off: u64,
    /// Answered, but not as an order of its kind must be.
    pub(crate) wrong: u64,
    pub(crate) unanswered: u64,
    /// The client was told that nobody knows.
    pub(crate) unknown: u64,
    /// Rightly answered that it cannot be carried out.
    pub(crate) refused: u64,
    /// Each fault, in words.
    pub(crate) faults: Vec<String>,
    may_duplicate: bool,
}

impl Audit {
    pub(crate) fn of(
        deals: &[Deal],
        may_duplicate: bool,
        transfers: &Value,
        accounts: &Value,
    ) -> Self {
        let transfers = rows(transfers);
        let mut audit = Self {
            may_duplicate,
            ..Self::default()
        };
        let mut booked: HashMap<&str, Vec<&Value>> = HashMap::new();
        for row in transfers {
            booked.entry(text(row, "reference")).or_default().push(row);
        }
        for deal in deals {
            let rows = booked.remove(&deal.order.reference[..]);
            audit.deal(deal, &rows.unwrap_or_default());
        }
        for row in booked.into_values().flatten() {
            audit.phantom += 1;
            audit.faults.push(format!("nobody ordered {row}"));
        }
        audit.money(transfers, rows(accounts));
        audit
    }

    fn deal(&mut self, deal: &Deal, rows: &[&Value]) {
        self.transfers += rows.len() as u64;
        let mut faults = Vec::new();
        if rows.len() > 1 {
            self.duplicated += rows.len() as u64 - 1;
            if !self.may_duplicate {
                faults.push("duplicated");
            }
        }
        if deal.changed > 0 {
            faults.push("answered in another way later");
        }
        let order = &deal.order;
        match &deal.answer {
            None => {
                self.unanswered += 1;
                faults.push("unanswered");
            }
            Some(answer) if answer.meaning() == Meaning::Unknown => self.unknown += 1,
            Some(answer) if answer.status == 201 => {
                let told: Value = serde_json::from_str(&answer.body).unwrap_or_default();
                let mut ordered = json!({
                    "from_account": order.from,
                    "to_account": order.to,
                    "amount": order.amount,
                    "reference": order.reference,
                });
                ordered["id"] = told["id"].clone();
                if told != ordered || order.expected != 201 {
                    self.wrong += 1;
                    faults.push("not what was ordered");
                }
                if !rows.contains(&&told) {
                    self.lost += 1;
                    faults.push("lost");
                }
            }
            Some(answer) => {
                if !rows.is_empty() {
                    self.phantom += 1;
                    faults.push("a phantom");
                }
                if answer.status == order.expected && answer.problem().is_none() {
                    self.refused += 1;
                } else {
                    self.wrong += 1;
                    faults.push("answered as it must not be");
                }
            }
        }
        if !faults.is_empty() {
            self.faults.push(deal.tell(&faults.join(", "), rows));
        }
    }

    fn money(&mut self, transfers: &[Value], accounts: &[Value]) {
        let mut off: BTreeMap<&str, i64> = BTreeMap::new();
        for account in accounts {
            *off.entry(text(account, "name")).or_default() += number(account, "balance") - BALANCE;
        }
        for transfer in transfers {
            let amount = number(transfer, "amount");
            *off.entry(text(transfer, "from_account")).or_default() += amount;
            *off.entry(text(transfer, "to_account")).or_default() -= amount;
        }
        self.money_off = off.values().map(|off| off.unsigned_abs()).sum();
        if self.money_off > 0 {
            self.faults.push(format!("accounts are off by {off:?}"));
        }
    }
}

fn rows(answer: &Value) -> &[Value] {
    answer
        .as_array()
        .unwrap_or_else(|| panic!("no list: {answer}"))
}

fn text<'a>(row: &'a Value, field: &str) -> &'a str {
    row[field]
        .as_str()
        .unwrap_or_else(|| panic!("no {field}: {row}"))
}

fn number(row: &Value, field: &str) -> i64 {
    row[field]
        .as_i64()
        .unwrap_or_else(|| panic!("no {field}: {row}"))
}
