//! What a run is: who is killed, how often, and what the ledger promises.

use std::fmt::Write;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};

#[derive(Parser)]
pub(crate) struct Options {
    #[arg(long, value_enum, default_value = "sqlite")]
    pub(crate) database: Database,
    /// Whom SIGKILL strikes. SQLite is no process of its own.
    #[arg(long, value_enum, default_value = "server")]
    pub(crate) victim: Victim,
    #[arg(long, value_enum, default_value = "transaction")]
    pub(crate) mode: Mode,
    /// With `--mode lease`.
    #[arg(long, value_enum, default_value = "rerun")]
    pub(crate) on_crash: OnCrash,
    #[arg(long, default_value_t = 200)]
    pub(crate) kills: u32,
    /// What is drawn; random unless given.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) clients: u64,
    /// The ledger's program; where cargo puts it beside this one unless given.
    #[arg(long)]
    pub(crate) ledger: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Database {
    Sqlite,
    Mysql,
    Postgres,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Victim {
    Server,
    Database,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    Transaction,
    Lease,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnCrash {
    Rerun,
    Refuse,
}

pub(crate) fn word(value: impl ValueEnum) -> String {
    let word = value.to_possible_value();
    word.map_or_else(String::new, |word| word.get_name().to_owned())
}

impl Options {
    pub(crate) fn name(&self) -> String {
        let mut name = format!(
            "{}/{}/{}",
            word(self.database),
            word(self.victim),
            word(self.mode)
        );
        if self.mode == Mode::Lease {
            let _ = write!(name, "/{}", word(self.on_crash));
        }
        name
    }

    /// Duplicates are what a lease does not keep out where a crash is followed by another run.
    pub(crate) fn may_duplicate(&self) -> bool {
        (self.mode, self.on_crash) == (Mode::Lease, OnCrash::Rerun)
    }
}
