//! The client half of idempotent HTTP: one key for each intended operation, kept over every retry and
//! every crash.
//!
//! A server that remembers keys protects from retries only where the client plays its part: the key is
//! made once, before the first try; every try sends the same key and the same bytes; 409 and 422 are
//! not alike; and when no answer comes, "we do not know" is not "it failed".
//!
#![cfg_attr(feature = "reqwest-middleware", doc = "```no_run")]
#![cfg_attr(not(feature = "reqwest-middleware"), doc = "```ignore")]
//! use idem_client::reqwest_middleware::{IdempotencyMiddleware, outcome};
//! use idem_client::{IdempotencyKey, Outcome, Policy};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let client = reqwest_middleware::ClientBuilder::new(reqwest::Client::new())
//!         .with(IdempotencyMiddleware::new(Policy::new()))
//!         .build();
//!
//!     let key = IdempotencyKey::random(); // one click, one key
//!     let request = client.post("https://api.example.com/charges").with_extension(key).body("{}");
//!     match outcome(request.send().await)? {
//!         Outcome::Answered(answer) => println!("{}", answer.response.status()),
//!         Outcome::Refused(answer) => println!("not carried out: {:?}", answer.tries.refused),
//!         Outcome::Unknown(unknown) => println!("we do not know yet: {unknown}"),
//!         _ => {}
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # Parts
//!
//! | to | read |
//! |---|---|
//! | name an operation | [`IdempotencyKey`]: random, derived from a job's identity, or given |
//! | say how long and how often to try | [`Policy`], [`RetryBudget`] |
//! | know what an answer means | the table at [`Policy::judge`] |
//! | know how an operation ended | [`Outcome`], [`Unknown`], [`Tries`] |
//! | use reqwest | `reqwest_middleware` (feature `reqwest-middleware`) |
//! | use hyper-util, or any `Service` of HTTP requests | `tower` (feature `tower`) |
//! | survive a crash of the client | `journal` (feature `journal`) |
//! | use another transport | [`Operation`], which knows none |
//!
//! Without features the crate has no transport, no runtime and no timers. It shares no code with the
//! server half (`idem-rs`), and works with every server that follows the IETF draft "The
//! Idempotency-Key HTTP Header Field", and with Stripe's API.
//!
//! # Promises
//!
//! * **A retry never makes a key.** A request without one gets one before its first try, and keeps it.
//! * **Every try sends the same bytes.** A body that cannot be sent twice is an error before the first
//!   try.
//! * **An answer counts when it is whole.** A body that breaks off is asked for again.
//! * **Retries do no harm.** Waits have full jitter, `Retry-After` is waited for in full, and each host
//!   gets retries for a share of its operations only.
//! * **Every operation ends** within its deadline: answered, refused, or unknown. "Refused" is said only
//!   where no earlier try can have been carried out.
//! * Keys are in no error, no log and no `Debug` form.

#[cfg(any(feature = "reqwest-middleware", feature = "tower"))]
mod answer_body;
mod budget;
#[cfg(any(feature = "reqwest-middleware", feature = "tower"))]
mod driver;
#[cfg(feature = "journal")]
pub mod journal;
mod key;
mod operation;
mod outcome;
mod policy;
mod problem;
#[cfg(feature = "reqwest-middleware")]
pub mod reqwest_middleware;
#[cfg(feature = "tower")]
pub mod tower;
mod wait;

#[cfg(any(feature = "reqwest-middleware", feature = "tower"))]
pub use answer_body::AnswerBody;
pub use budget::RetryBudget;
#[cfg(any(feature = "reqwest-middleware", feature = "tower"))]
pub use driver::Resumed;
pub use key::{IdempotencyKey, KeyError, KeyForm};
pub use operation::{Next, Operation};
pub use outcome::{Answer, Outcome, Tries, TryEnd, Unknown, UnknownReason};
pub use policy::{Policy, Verdict};
pub use problem::{Problem, Refusal};
