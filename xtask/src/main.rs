//! The project's own commands.
//!
//! `cargo xtask test` checks everything that must hold before a change lands.

mod circles;
mod crashes;
mod features;
mod run;
mod servers;
mod valkey;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use run::{Failure, cargo, step};

#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Servers, format, lints, all tests, each feature alone, dependency trees, docs, benchmarks.
    Test,
    /// Looks for modules that import each other.
    Circles,
    /// The Redis store's tests over each Valkey, which are part of `test`.
    Valkey,
    /// Kills the example ledger and its database, over and over, and compares what it says with
    /// what is there.
    Crash {
        /// How often the server is killed in each run in a transaction; a quarter as often, or less,
        /// in the others.
        #[arg(long, default_value_t = crashes::KILLS)]
        kills: u32,
    },
}

fn main() -> ExitCode {
    let ended = match Options::parse().command {
        Command::Test => test(),
        Command::Circles => circles::check(),
        Command::Valkey => {
            valkey::provide();
            valkey::test()
        }
        Command::Crash { kills } => servers::provide().and_then(|()| crashes::run(kills)),
    };
    match ended {
        Ok(()) => {
            println!("\neverything holds");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("\n{failure}");
            ExitCode::FAILURE
        }
    }
}

fn test() -> Result<(), Failure> {
    step("servers");
    servers::provide()?;
    valkey::provide();

    step("format");
    cargo(&["fmt", "--all", "--check"]).run()?;
    cargo(&[
        "fmt",
        "--all",
        "--check",
        "--manifest-path",
        "benches/Cargo.toml",
    ])
    .run()?;

    step("lints");
    cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--all-features",
        "--",
        "-D",
        "warnings",
    ])
    .run()?;

    step("all tests, with every feature");
    cargo(&["test", "--workspace", "--all-features"]).run()?;

    step("the Redis store's tests, over each Valkey");
    valkey::test()?;

    step("crashes");
    crashes::run(crashes::KILLS)?;

    step("each feature alone");
    features::check_each()?;

    step("the identity of requests, under each feature alone");
    features::check_identities()?;

    step("what each feature pulls in");
    features::check_trees()?;

    step("docs");
    cargo(&["doc", "--workspace", "--all-features", "--no-deps"])
        .env("RUSTDOCFLAGS", "-D warnings")
        .run()?;

    step("benchmarks compile");
    cargo(&[
        "check",
        "--benches",
        "--manifest-path",
        "benches/Cargo.toml",
    ])
    .run()
}
