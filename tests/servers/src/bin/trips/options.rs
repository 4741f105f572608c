//! What a run is.

use clap::{Parser, ValueEnum};

#[derive(Parser)]
pub(crate) struct Options {
    /// Where the records are.
    #[arg(long, value_enum, default_value = "sqlite")]
    pub(crate) store: Store,
    #[arg(long, default_value_t = 50)]
    pub(crate) kills: u32,
    /// What is drawn; random unless given.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    #[arg(long, default_value_t = 6)]
    pub(crate) clients: usize,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Store {
    Sqlite,
    Postgres,
    Redis,
    #[value(name = "dynamodb")]
    DynamoDb,
}
