//! The DynamoDB store against emulators: conformance, what it costs, many processes, clocks that are wrong,
//! throttling and lost answers.

mod clock;
mod conformance;
mod proxy;
