//! The subcommands, one file each.

mod completions;
#[cfg(feature = "dynamodb")]
mod create_table;
mod dashboard;
mod doctor;
mod forget;
mod get;
mod list;
mod man;
mod probe;
mod release;
mod resolve;
mod stats;
mod stuck;
mod sweep;
mod watch;

use clap::Subcommand;

use crate::failure::Failure;
use crate::output::Output;
use crate::target::TargetArguments;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Shows one record: its state, its steps, its outcome.
    Get(get::Get),
    /// Lists records.
    List(list::List),
    /// Lists the records that wait for somebody, or for a retry.
    Stuck(stuck::Stuck),
    /// Counts records by operation and state.
    Stats(stats::Stats),
    /// Follows one record until it has an outcome or is gone.
    Watch(watch::Watch),
    /// Stores what did happen: every retry gets this answer.
    Resolve(resolve::Resolve),
    /// Frees a key: nothing happened, and the next retry runs as a first call.
    Release(release::Release),
    /// Removes a record, whatever it says.
    Forget(forget::Forget),
    /// Deletes records whose retention is over.
    Sweep(sweep::Sweep),
    /// Examines the server's settings, the login's rights and the clock.
    Doctor(doctor::Doctor),
    /// Checks from outside whether an HTTP API keeps to the contract of idempotency keys.
    Probe(Box<probe::Probe>),
    /// Serves a page for operators on 127.0.0.1, without a login.
    Dashboard(dashboard::Dashboard),
    /// Creates the table of a DynamoDB store.
    #[cfg(feature = "dynamodb")]
    CreateTable(create_table::CreateTable),
    /// Writes a completion script for a shell.
    Completions(completions::Completions),
    /// Writes the manual pages.
    Man(man::Man),
}

impl Command {
    /// `tool` is the whole command line, for those who describe it.
    pub(crate) fn run(
        self,
        tool: clap::Command,
        target: &TargetArguments,
        output: &mut Output,
    ) -> Result<(), Failure> {
        match self {
            Self::Completions(command) => return command.run(tool, output),
            Self::Man(command) => return command.run(tool, output),
            _ => {}
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|error| Failure::usage(format!("no runtime: {error}")))?;
        let ended = runtime.block_on(self.ask(target, output));
        // A call that was dropped may still run on a thread of its own.
        runtime.shutdown_background();
        ended
    }

    async fn ask(self, target: &TargetArguments, output: &mut Output) -> Result<(), Failure> {
        match self {
            Self::Get(command) => command.run(target, output).await,
            Self::List(command) => command.run(target, output).await,
            Self::Stuck(command) => command.run(target, output).await,
            Self::Stats(command) => command.run(target, output).await,
            Self::Watch(command) => command.run(target, output).await,
            Self::Resolve(command) => command.run(target, output).await,
            Self::Release(command) => command.run(target, output).await,
            Self::Forget(command) => command.run(target, output).await,
            Self::Sweep(command) => command.run(target, output).await,
            Self::Doctor(command) => command.run(target, output).await,
            Self::Probe(command) => command.run(output).await,
            Self::Dashboard(command) => command.run(target, output).await,
            #[cfg(feature = "dynamodb")]
            Self::CreateTable(command) => command.run(target, output).await,
            Self::Completions(_) | Self::Man(_) => Ok(()),
        }
    }
}
