//! `idem release`: nothing happened.

use clap::Args;
use idem::Verdict;

use crate::change::{ChangeArguments, Order};
use crate::failure::Failure;
use crate::output::Output;
use crate::target::TargetArguments;

#[derive(Args, Debug)]
pub(crate) struct Release {
    #[command(flatten)]
    change: ChangeArguments,
}

impl Release {
    pub(crate) async fn run(
        self,
        target: &TargetArguments,
        output: &mut Output,
    ) -> Result<(), Failure> {
        let target = target.attach().await?;
        let order = Order::Settle(Verdict::Released, None);
        self.change.carry_out(&target, order, output).await
    }
}
