//! The dashboard: who is answered, what is shown, and what an operator can change.

mod bench;
mod changes;
mod forced;
mod guard;
mod looks;
mod raced;
