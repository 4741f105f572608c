//! `idem get`: one record.

use clap::Args;

use crate::arguments::RecordArguments;
use crate::failure::Failure;
use crate::output::Output;
use crate::progress::interruptible;
use crate::report::Report;
use crate::target::TargetArguments;

#[derive(Args, Debug)]
pub(crate) struct Get {
    #[command(flatten)]
    record: RecordArguments,
    /// Also shows bodies and the values of steps, which may be personal data.
    #[arg(long)]
    show_body: bool,
}

impl Get {
    pub(crate) async fn run(
        self,
        target: &TargetArguments,
        output: &mut Output,
    ) -> Result<(), Failure> {
        let id = self.record.record_id()?;
        let report = interruptible(async {
            let target = target.attach().await?;
            let found = target.engine.operation("").inspect_record(&id).await?;
            let found = found.ok_or_else(|| self.record.no_record())?;
            let now = target.time().await?;
            Ok(Report::of(&id, &found, now, self.show_body))
        });
        report.await?.write(output)
    }
}
