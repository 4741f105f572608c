//! The crash harness, in every combination that promises something.

use crate::run::{Failure, cargo, program};

/// How often the server is killed in each run that must lose nothing and double nothing.
pub(crate) const KILLS: u32 = 200;

/// What is killed where, and one in how many of the kills.
const RUNS: &[(&[&str], u32)] = &[
    (&["--database", "sqlite"], 1),
    (&["--database", "postgres"], 1),
    // A database takes its time to come back.
    (&["--database", "postgres", "--victim", "database"], 10),
    (&["--database", "mysql"], 1),
    (&["--database", "mysql", "--victim", "database"], 25),
    // A crash is noticed when a lease is over. Doubles are counted where it runs again, and must
    // not be where it refuses.
    (
        &[
            "--database",
            "sqlite",
            "--mode",
            "lease",
            "--on-crash",
            "rerun",
        ],
        8,
    ),
    (
        &[
            "--database",
            "sqlite",
            "--mode",
            "lease",
            "--on-crash",
            "refuse",
        ],
        8,
    ),
    (
        &[
            "--database",
            "postgres",
            "--mode",
            "lease",
            "--on-crash",
            "rerun",
        ],
        8,
    ),
    (
        &[
            "--database",
            "postgres",
            "--mode",
            "lease",
            "--on-crash",
            "refuse",
        ],
        8,
    ),
    (
        &[
            "--database",
            "mysql",
            "--mode",
            "lease",
            "--on-crash",
            "rerun",
        ],
        20,
    ),
    (
        &[
            "--database",
            "mysql",
            "--mode",
            "lease",
            "--on-crash",
            "refuse",
        ],
        20,
    ),
];

/// Where the records of trips are, which are booked in steps, and one in how many of the kills. In DynamoDB
/// a crash is noticed three seconds later.
const TRIPS: [(&str, u32); 4] = [
    ("sqlite", 4),
    ("postgres", 4),
    ("redis", 4),
    ("dynamodb", 40),
];

pub(crate) fn run(kills: u32) -> Result<(), Failure> {
    // With what the tests are built with, so that nothing is built twice. Beside a test: without one
    // cargo chooses other features of what both need.
    let mut programs = vec!["--test", "servers"];
    for name in ["ledger", "crash", "trip", "trips"] {
        programs.extend(["--bin", name]);
    }
    cargo(&["build", "--workspace", "--all-features"])
        .args(&programs)
        .run()?;
    // Called by its path: `cargo run` knows no `--workspace`, and with other features it would build
    // everything once more.
    let us = std::env::current_exe().map_err(|error| Failure(format!("where are we? {error}")))?;
    let crash = us.with_file_name("crash");
    for (options, part) in RUNS {
        let kills = (kills / part).max(1).to_string();
        program(&crash, options).arg("--kills").arg(&kills).run()?;
    }
    let trips = us.with_file_name("trips");
    for (store, part) in TRIPS {
        if store == "dynamodb" && !crate::dynamodb::is_there() {
            println!("no emulator of DynamoDB: trips in it are NOT tested");
            continue;
        }
        let kills = (kills / part).max(1).to_string();
        let options = ["--store", store, "--kills", &kills];
        program(&trips, &options).run()?;
    }
    Ok(())
}
