//! The engine: all policy. Stores move records, adapters translate, the attribute writes calls.
//!
//! | file | holds |
//! |---|---|
//! | `handle` | the engine itself, and its builder |
//! | `operation` | the public calls |
//! | `resolve` | what an operator does with a record |
//! | `begin` | from a request to a decision: joining, waiting |
//! | `at_once` | the same where nothing has to be waited for |
//! | `decision` | what a request may do, and what the store's answers mean |
//! | `claim` | claims in the store |
//! | `flight` | where duplicates of one process meet |
//! | `transactional` | attempts inside a database's own transactions |
//! | `cache` | finished outcomes kept in this process |
//! | `execution` | the body, and how an attempt ends |
//! | `checkpoints` | finished steps, on their way to the record |
//! | `phase` | steps that commit with rows of a database |
//! | `detaching` | bodies that go on when their callers have gone |
//! | `renewal`, `keepers` | leases of attempts that take their time |
//! | `settlement` | how an attempt ends in the store |
//! | `replays` | who is told, and when, that an outcome will not come back |
//! | `background`, `unsettled` | ends and claims that are seen to in the background, and their bound |
//! | `activity` | what is under way |
//! | `backoff` | pauses between tries |

mod activity;
mod at_once;
mod background;
mod backoff;
mod begin;
mod cache;
mod checkpoints;
mod claim;
mod decision;
mod detaching;
mod execution;
mod flight;
mod handle;
mod keepers;
mod operation;
mod phase;
mod renewal;
mod replays;
mod resolve;
mod runtime;
mod settlement;
pub(crate) mod transactional;
mod unsettled;

pub use decision::{Begun, Granted, Unprotected};
pub(crate) use execution::panic_of;
pub use execution::{Driven, Execution, ExecutionError, Flow, Panic, Running};
pub use flight::LiveAnswer;
pub use handle::{Engine, EngineBuilder, InstallError};
pub use operation::{Keyed, Operation};
pub use phase::{TransactionOf, phase};
#[cfg(feature = "http")]
pub(crate) use replays::Notice;
pub use resolve::{Resolution, Revocation};
pub use transactional::InTransaction;
