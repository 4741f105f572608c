//! `idem stuck`: records that wait for somebody.

use std::time::Duration;

use clap::Args;
use idem::store::{Listing, RecordState};

use crate::arguments::duration;
use crate::failure::Failure;
use crate::output::Output;
use crate::progress::{Next, each_record, interruptible};
use crate::report::{Summary, age};
use crate::target::TargetArguments;

/// Crashed records wait for a retry that runs again, or, under on_crash = "refuse", for somebody who says
/// what happened. Suspended ones wait for a retry that goes on with their steps.
#[derive(Args, Debug)]
pub(crate) struct Stuck {
    /// Only records of this operation. Records that do not say theirs are left out.
    #[arg(long, value_name = "NAME")]
    operation: Option<String>,
    /// Also attempts that run for longer than this: bodies that hang.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    running_for: Option<Duration>,
}

impl Stuck {
    pub(crate) async fn run(
        self,
        target: &TargetArguments,
        output: &mut Output,
    ) -> Result<(), Failure> {
        interruptible(async {
            let target = target.attach().await?;
            let now = target.time().await?;
            let mut listing = Listing::new(Listing::MAX_LIMIT);
            if let Some(operation) = &self.operation {
                listing = listing.of_operation(operation);
            }
            let hangs = |age: Option<Duration>| {
                self.running_for
                    .is_some_and(|limit| age.is_some_and(|age| age > limit))
            };
            let mut has_head = output.is_json();
            each_record(&target, listing, |listed| {
                let is_stuck = match listed.state {
                    RecordState::Crashed | RecordState::Suspended => true,
                    RecordState::Running => hangs(age(listed.claimed_at, now)),
                    _ => false,
                };
                if is_stuck {
                    if !has_head {
                        Summary::head(output)?;
                        has_head = true;
                    }
                    Summary::of(listed, now).write(output)?;
                }
                Ok(Next::GoOn)
            })
            .await
        })
        .await
    }
}
