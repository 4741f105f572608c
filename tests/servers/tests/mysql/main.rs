//! The MySQL store against real servers of MariaDB: conformance, what it costs, many processes, and what
//! happens when servers and processes stop, die, hang and come back.

mod conformance;
