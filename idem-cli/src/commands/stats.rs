//! `idem stats`: how many records there are.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use idem::store::{Listed, Listing, RecordState};
use serde::Serialize;

use crate::failure::Failure;
use crate::output::{Output, millis, short};
use crate::progress::{Next, each_record, interruptible};
use crate::report::age;
use crate::target::TargetArguments;

/// Operations that are counted apart. More than a program has.
const MAX_OPERATIONS: usize = 10_000;

#[derive(Args, Debug)]
pub(crate) struct Stats {
    /// Only records of this operation. Records that do not say theirs are left out.
    #[arg(long, value_name = "NAME")]
    operation: Option<String>,
}

/// Of one operation, or of all.
#[derive(Debug, Default, Serialize)]
struct Counts {
    records: u64,
    running: u64,
    crashed: u64,
    suspended: u64,
    finished: u64,
    /// Of outcomes and steps.
    bytes: u64,
    /// Of the running attempt that was claimed first.
    longest_running_ms: u64,
}

impl Counts {
    fn add(&mut self, listed: &Listed, age: Option<Duration>) {
        self.records += 1;
        self.bytes += listed.bytes as u64;
        match listed.state {
            RecordState::Running => {
                self.running += 1;
                let age = age.map(millis).unwrap_or_default();
                self.longest_running_ms = self.longest_running_ms.max(age);
            }
            RecordState::Crashed => self.crashed += 1,
            RecordState::Suspended => self.suspended += 1,
            RecordState::Finished => self.finished += 1,
            _ => {}
        }
    }

    fn row(&self, operation: &str) -> String {
        format!(
            "{:>9}  {:>9}  {:>9}  {:>9}  {:>9}  {:>12}  {:>8}  {operation}",
            self.records,
            self.running,
            self.crashed,
            self.suspended,
            self.finished,
            self.bytes,
            match self.running {
                0 => "-".to_owned(),
                _ => short(Duration::from_millis(self.longest_running_ms)),
            },
        )
    }
}

#[derive(Debug, Serialize)]
struct Counted {
    total: Counts,
    /// Under the name `""` those that do not say their operation.
    operations: BTreeMap<String, Counts>,
    /// Operations beyond those above: they are in the total alone.
    operations_not_shown: bool,
}

impl Stats {
    pub(crate) async fn run(
        self,
        target: &TargetArguments,
        output: &mut Output,
    ) -> Result<(), Failure> {
        let counted = interruptible(self.count(target)).await?;
        if output.is_json() {
            return output.object(&counted);
        }
        output.line(&format!(
            "{:>9}  {:>9}  {:>9}  {:>9}  {:>9}  {:>12}  {:>8}  OPERATION",
            "RECORDS", "RUNNING", "CRASHED", "SUSPENDED", "FINISHED", "BYTES", "LONGEST"
        ))?;
        for (operation, counts) in &counted.operations {
            let operation = match &**operation {
                "" => "(not known)",
                name => name,
            };
            output.line(&counts.row(operation))?;
        }
        if counted.operations_not_shown {
            output.line("… and more operations")?;
        }
        output.line(&counted.total.row("(all)"))
    }

    async fn count(&self, target: &TargetArguments) -> Result<Counted, Failure> {
        let target = target.attach().await?;
        let now = target.time().await?;
        let mut listing = Listing::new(Listing::MAX_LIMIT);
        if let Some(operation) = &self.operation {
            listing = listing.of_operation(operation);
        }
        let mut counted = Counted {
            total: Counts::default(),
            operations: BTreeMap::new(),
            operations_not_shown: false,
        };
        each_record(&target, listing, |listed| {
            let age = age(listed.claimed_at, now);
            counted.total.add(listed, age);
            let name = listed.operation.as_str();
            let operations = &mut counted.operations;
            if operations.len() < MAX_OPERATIONS || operations.contains_key(name) {
                let counts = operations.entry(name.to_owned()).or_default();
                counts.add(listed, age);
            } else {
                counted.operations_not_shown = true;
            }
            Ok(Next::GoOn)
        })
        .await?;
        Ok(counted)
    }
}
