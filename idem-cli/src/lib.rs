//! The tool `idem`: finds, explains and resolves the records of `idem-rs`, in every store.
//!
//! Its README says how it is used. Of this library only [`naming`] is for other programs: how the words
//! of a command line name a record.
//!
//! | to find | look in |
//! |---|---|
//! | the arguments that all subcommands share | `arguments` |
//! | which record is meant | `naming`, `arguments` |
//! | one subcommand | its file in `commands` |
//! | why it ends, and with which status | `failure` |
//! | what a record and an outcome look like | `report`, `answer` |
//! | tables and JSON | `output` |
//! | progress, and Ctrl-C | `progress` |
//! | what every change passes through | `change`, `audit`, `confirm` |
//! | the store, and what of its URL may be shown | `target` |

#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod answer;
mod arguments;
mod audit;
mod change;
mod commands;
mod confirm;
mod failure;
pub mod naming;
mod output;
mod progress;
mod report;
mod target;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::commands::Command;
use crate::failure::Failure;
use crate::output::Output;
use crate::target::{TargetArguments, without_credentials};

/// Finds, explains and resolves the records of idem-rs, in every store.
#[derive(Debug, Parser)]
#[command(name = "idem", version, after_long_help = failure::EXIT_STATUS)]
struct Options {
    #[command(flatten)]
    target: TargetArguments,
    /// Writes JSON for scripts: one object, or one a line where there may be many.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

/// Runs the tool with the arguments of this process.
pub fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => return refuse_usage(&error),
    };
    let mut output = Output::new(options.json);
    let ended = options
        .command
        .run(Options::command(), &options.target, &mut output);
    // What was found stands before what went wrong.
    let written = output.flush();
    match ended.and(written) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(message) = failure.message() {
                eprintln!("idem: {}", output::printable(&message));
            }
            failure.status()
        }
    }
}

/// A URL in the wrong place may hold a password, which `clap` would repeat.
fn refuse_usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // `--help` and `--version`.
        return match error.print() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => Failure::Closed.status(),
        };
    }
    eprint!("{}", without_credentials(&error.render().to_string()));
    Failure::usage("").status()
}
