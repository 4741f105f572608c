//! `idem sweep`: records whose retention is over.

use std::pin::pin;

use clap::Args;
use idem::store::Swept;
use serde::Serialize;

use crate::audit::{AuditArguments, What};
use crate::failure::Failure;
use crate::output::Output;
use crate::progress::Progress;
use crate::target::{Target, TargetArguments};

/// Records between two looks at Ctrl-C. The store deletes them in smaller batches, with pauses.
const BATCH: u32 = 5000;

/// What is deleted counts as absent already: nothing is asked. Applications sweep by themselves; this is
/// for those that were told not to.
#[derive(Args, Debug)]
pub(crate) struct Sweep {
    /// Ends after so many records.
    #[arg(long, value_name = "RECORDS")]
    limit: Option<u64>,
    #[command(flatten)]
    audit: AuditArguments,
}

#[derive(Serialize)]
struct Report {
    /// `null`: the server deletes by itself.
    deleted: Option<u64>,
}

impl Sweep {
    pub(crate) async fn run(
        self,
        target: &TargetArguments,
        output: &mut Output,
    ) -> Result<(), Failure> {
        let target = target.attach().await?;
        target.maintenance()?;
        let audited = self.audit.begin(&What {
            command: "sweep",
            store: target.name(),
            address: target.address.clone(),
            record: None,
        })?;
        let mut deleted = Some(0);
        let ended = self.sweep(&target, &mut deleted).await;
        let result = match (&ended, deleted) {
            (Ok(()), _) => "done",
            (Err(Failure::Interrupted), _) => "interrupted",
            (Err(_), _) => "failed",
        };
        let detail = match deleted {
            Some(deleted) => format!("{deleted} records deleted"),
            None => "the server deletes by itself".to_owned(),
        };
        audited.end(result, Some(&detail))?;
        match (output.is_json(), deleted) {
            (true, deleted) => output.object(&Report { deleted })?,
            (false, Some(deleted)) => output.line(&format!("{deleted} records deleted"))?,
            (false, None) => output.line(&format!(
                "the {} store deletes what is over by itself",
                target.name()
            ))?,
        }
        ended
    }

    async fn sweep(&self, target: &Target, deleted: &mut Option<u64>) -> Result<(), Failure> {
        let store = target.maintenance()?;
        let mut progress = Progress::new("records deleted");
        let mut left = self.limit.unwrap_or(u64::MAX);
        let mut pressed = pin!(tokio::signal::ctrl_c());
        let mut is_interrupted = false;
        while left > 0 {
            let batch = u32::try_from(left).unwrap_or(BATCH).min(BATCH);
            let mut sweep = pin!(store.sweep(batch));
            // A batch that has begun ends: it is short.
            let swept = loop {
                tokio::select! {
                    biased;
                    swept = &mut sweep => break swept?,
                    _ = &mut pressed, if !is_interrupted => is_interrupted = true,
                }
            };
            let Swept::Deleted { records, more } = swept else {
                *deleted = None;
                return Ok(());
            };
            let all = deleted.unwrap_or_default() + records;
            *deleted = Some(all);
            left = left.saturating_sub(records);
            progress.say(all);
            match (more, is_interrupted) {
                (false, _) => return Ok(()),
                (true, true) => return Err(Failure::Interrupted),
                (true, false) => {}
            }
        }
        Ok(())
    }
}
