//! `idem watch`: one record until it has an outcome.

use std::time::Duration;

use clap::Args;
use idem::store::RecordState;
use tokio::time::{Instant, sleep};

use crate::arguments::{RecordArguments, duration};
use crate::failure::Failure;
use crate::output::Output;
use crate::progress::interruptible;
use crate::report::{Report, state_of};
use crate::target::TargetArguments;

/// The shortest pause: a record is asked for no more often.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Args, Debug)]
pub(crate) struct Watch {
    #[command(flatten)]
    record: RecordArguments,
    /// How often the record is looked at; every 100ms at most.
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1s")]
    interval: Duration,
    /// For how long.
    #[arg(long = "for", value_name = "DURATION", value_parser = duration, default_value = "10m")]
    limit: Duration,
}

impl Watch {
    pub(crate) async fn run(
        self,
        target: &TargetArguments,
        output: &mut Output,
    ) -> Result<(), Failure> {
        interruptible(self.follow(target, output)).await
    }

    async fn follow(&self, target: &TargetArguments, output: &mut Output) -> Result<(), Failure> {
        let id = self.record.record_id()?;
        let target = target.attach().await?;
        let until = Instant::now().checked_add(self.limit);
        let mut shown = None;
        loop {
            let found = target.engine.operation("").inspect_record(&id).await?;
            let Some(found) = found else {
                return match shown {
                    None => Err(self.record.no_record()),
                    Some(_) if output.is_json() => Ok(()),
                    Some(_) => output.line("the record is gone"),
                };
            };
            let now_seen = (state_of(&found), found.attempt, found.steps.len());
            if shown != Some(now_seen) {
                if shown.is_some() && !output.is_json() {
                    output.line("")?;
                }
                let now = target.time().await?;
                Report::of(&id, &found, now, false).write(output)?;
                output.flush()?;
                shown = Some(now_seen);
            }
            if state_of(&found) == RecordState::Finished {
                return Ok(());
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                return Err(Failure::NotWell(
                    "the record has no outcome yet; the time for watching it is over".to_owned(),
                ));
            }
            sleep(self.interval.max(MIN_INTERVAL)).await;
        }
    }
}
