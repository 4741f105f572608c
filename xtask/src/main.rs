//! The project's own commands.
//!
//! `cargo xtask test` checks everything that must hold before a change lands, `cargo xtask check`
//! what can be checked within minutes.

mod bench;
mod circles;
mod clients;
mod compile_cost;
mod crashes;
mod dynamodb;
mod features;
mod plots;
mod rules;
mod run;
mod servers;
mod valkey;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use run::{Failure, Steps, cargo};

#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Format, lints, unit tests, the engine's tests, and the HTTP contract in axum.
    Check,
    /// Servers, format, lints, all tests, each feature alone, dependency trees, docs, benchmarks.
    Test,
    /// Looks for modules that import each other.
    Circles,
    /// Checks and tests the rules of Prometheus, with its own tool.
    Rules,
    /// The Redis store's tests over each Valkey, which are part of `test`.
    Valkey,
    /// Measures everything, side by side with what it is compared with, and writes `docs/bench`.
    Bench {
        /// Only these parts, by the names of the pages.
        only: Vec<String>,
        /// Fewer rounds, for a look.
        #[arg(long)]
        quick: bool,
    },
    /// Counts the instructions of a first call and of a replay, and fails where they are a tenth more
    /// than they may be.
    Budget,
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
        Command::Check => check(),
        Command::Test => test(),
        Command::Circles => circles::check(),
        Command::Rules => rules::check(),
        Command::Valkey => {
            valkey::provide();
            valkey::test()
        }
        Command::Bench { only, quick } => bench::run(&only, quick),
        Command::Budget => bench::check_budget(),
        Command::Crash { kills } => servers::provide()
            .and_then(|()| dynamodb::provide())
            .and_then(|()| crashes::run(kills)),
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

/// Every member with every feature: what one step builds, the next one finds.
const EVERYTHING: [&str; 2] = ["--workspace", "--all-features"];

fn check() -> Result<(), Failure> {
    let mut steps = Steps::new();
    steps.step("format", format)?;
    steps.step("circles", circles::check)?;
    steps.step("lints, with the default features", features::lint_defaults)?;
    steps.step("lints, with every feature", lint)?;
    steps.step("unit tests, and the engine's", || {
        let tests = ["--lib", "--test", "engine", "--test", "function_form"];
        cargo(&["test"]).args(&EVERYTHING).args(&tests).run()
    })?;
    steps.step("the contract, in axum", || {
        let contract = ["--test", "contract", "--", "axum::"];
        cargo(&["test"]).args(&EVERYTHING).args(&contract).run()
    })
}

fn test() -> Result<(), Failure> {
    let mut steps = Steps::new();
    steps.step("format", format)?;
    steps.step("circles", circles::check)?;
    steps.step("servers", || {
        servers::provide()?;
        valkey::provide();
        dynamodb::provide()
    })?;
    steps.step("lints, with every feature", lint)?;
    steps.step("all tests are built, with every feature", || {
        cargo(&["test", "--no-run"]).args(&EVERYTHING).run()
    })?;
    steps.step("all tests", || cargo(&["test"]).args(&EVERYTHING).run())?;
    steps.step("the Redis store's tests, over each Valkey", valkey::test)?;
    steps.step("the client half, beside Stripe's client", clients::compare)?;
    steps.step("the rules of Prometheus", rules::check)?;
    steps.step("crashes", || crashes::run(crashes::KILLS))?;
    steps.step("each feature alone", features::check_each)?;
    steps.step("each example alone", features::check_examples)?;
    steps.step(
        "the identity of requests, under each feature alone",
        features::check_identities,
    )?;
    steps.step("what each feature pulls in", features::check_trees)?;
    steps.step("docs", || {
        cargo(&["doc", "--no-deps"])
            .args(&EVERYTHING)
            .env("RUSTDOCFLAGS", "-D warnings")
            .run()
    })?;
    steps.step("benchmarks compile", || {
        cargo(&["check", "--benches"]).args(&BENCHES).run()
    })?;
    steps.step(
        "instructions of a first call and of a replay",
        bench::check_budget,
    )
}

const BENCHES: [&str; 2] = ["--manifest-path", "benches/Cargo.toml"];

fn format() -> Result<(), Failure> {
    let format = || cargo(&["fmt", "--all", "--check"]);
    format().run()?;
    format().args(&BENCHES).run()
}

fn lint() -> Result<(), Failure> {
    cargo(&["clippy", "--all-targets"])
        .args(&EVERYTHING)
        .args(&["--", "-D", "warnings"])
        .run()
}
