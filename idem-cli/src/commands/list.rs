//! `idem list`: records by state and operation.

use clap::{Args, ValueEnum};
use idem::store::{Listing, RecordState};

use crate::failure::Failure;
use crate::output::Output;
use crate::progress::{Next, each_record, interruptible};
use crate::report::Summary;
use crate::target::TargetArguments;

#[derive(Args, Debug)]
pub(crate) struct List {
    /// Only records in this state.
    #[arg(long, value_enum)]
    state: Option<State>,
    /// Only records of this operation. Records that do not say theirs are left out.
    #[arg(long, value_name = "NAME")]
    operation: Option<String>,
    /// Ends after so many.
    #[arg(long, value_name = "RECORDS")]
    limit: Option<u64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum State {
    /// An attempt holds its lease.
    Running,
    /// The lease of its newest attempt is over, and the attempt left no outcome.
    Crashed,
    /// Its newest attempt ended without an outcome and left finished steps.
    Suspended,
    /// Its outcome is stored.
    Finished,
}

impl From<State> for RecordState {
    fn from(state: State) -> Self {
        match state {
            State::Running => Self::Running,
            State::Crashed => Self::Crashed,
            State::Suspended => Self::Suspended,
            State::Finished => Self::Finished,
        }
    }
}

impl List {
    pub(crate) async fn run(
        self,
        target: &TargetArguments,
        output: &mut Output,
    ) -> Result<(), Failure> {
        interruptible(async {
            let target = target.attach().await?;
            let now = target.time().await?;
            let mut listing = Listing::new(Listing::MAX_LIMIT);
            if let Some(state) = self.state {
                listing = listing.in_state(state.into());
            }
            if let Some(operation) = &self.operation {
                listing = listing.of_operation(operation);
            }
            let mut left = self.limit.unwrap_or(u64::MAX);
            if !output.is_json() {
                Summary::head(output)?;
            }
            each_record(&target, listing, |listed| {
                if left == 0 {
                    return Ok(Next::Enough);
                }
                left -= 1;
                Summary::of(listed, now).write(output)?;
                Ok(match left {
                    0 => Next::Enough,
                    _ => Next::GoOn,
                })
            })
            .await
        })
        .await
    }
}
