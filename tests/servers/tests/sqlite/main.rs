//! The SQLite store on real files: conformance, what it costs, many processes, and what happens
//! when processes are killed and paused, and files are locked, full, damaged or another's.

mod conformance;
mod figures;
mod file;
