//! `idem forget`: a record is removed, whatever it says.

use clap::Args;

use crate::change::{ChangeArguments, Order};
use crate::failure::Failure;
use crate::output::Output;
use crate::target::TargetArguments;

#[derive(Args, Debug)]
pub(crate) struct Forget {
    #[command(flatten)]
    change: ChangeArguments,
}

impl Forget {
    pub(crate) async fn run(
        self,
        target: &TargetArguments,
        output: &mut Output,
    ) -> Result<(), Failure> {
        let target = target.attach().await?;
        self.change.carry_out(&target, Order::Forget, output).await
    }
}
