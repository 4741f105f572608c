//! `idem resolve`: what did happen.

use std::time::Duration;

use clap::Args;
use idem::Verdict;

use crate::answer::AnswerArguments;
use crate::arguments::duration;
use crate::change::{ChangeArguments, Order};
use crate::failure::Failure;
use crate::output::Output;
use crate::target::TargetArguments;

#[derive(Args, Debug)]
pub(crate) struct Resolve {
    #[command(flatten)]
    change: ChangeArguments,
    #[command(flatten)]
    answer: AnswerArguments,
    /// How long retries get the answer. Unless given, as long as the operation's ttl at least, which
    /// the record tells.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    ttl: Option<Duration>,
}

impl Resolve {
    pub(crate) async fn run(
        self,
        target: &TargetArguments,
        output: &mut Output,
    ) -> Result<(), Failure> {
        if self.answer.reads_input() {
            self.change.refuse_to_ask()?;
        }
        let target = target.attach().await?;
        let outcome = self.answer.outcome(&target.engine)?;
        let order = Order::Settle(Verdict::Final(outcome), self.ttl);
        self.change.carry_out(&target, order, output).await
    }
}
