//! A black-box check of an HTTP API's idempotency contract, whoever wrote the API.
//!
//! It sends requests as clients do whose networks fail, and compares the answers: a retry, the key with
//! another body, duplicates at once, keys that are missing, malformed or doubled, two tenants with one
//! key, a client that hangs up, an answer that was cut off.
//!
//! ```no_run
//! # async fn probe() -> Result<(), idem_probe::Error> {
//! let mut options = idem_probe::Options::new("http://127.0.0.1:3000/charges");
//! options.body = r#"{"amount": 1999, "currency": "eur"}"#.to_owned();
//! let report = idem_probe::run(&options).await?;
//! println!("{report}");
//! assert_eq!(report.exit_code(), 0);
//! # Ok(())
//! # }
//! ```
//!
//! # What it does to a server
//!
//! It carries the operation out, once for each valid key that it makes: about ten times. So it refuses a
//! host that has any address beyond this machine, unless [`Options::i_own_this`] says that the server
//! may be probed. It connects only to the addresses that it has looked at, follows no redirect and uses
//! no proxy. [`Options::max_requests`] and [`Options::timeout`] bound it.
//!
//! # How it knows whether an operation was carried out twice
//!
//! It asks twice with two keys. What then differs, the body or the `Location`, tells executions apart: a
//! server that gives each charge an id does so. Where nothing differs, a check that rests on it says
//! [`Verdict::CannotTell`]. What leaves no trace in an answer is not seen: an execution whose answer
//! nobody got.
//!
//! # Checks
//!
//! | check | passes when |
//! |---|---|
//! | `first` | a request with a new key is answered with a 2xx |
//! | `another-key` | the same request with another new key is carried out as well |
//! | `replay-status`, `replay-headers`, `replay-body` | a retry is answered as the first request was. Headers that speak of the exchange (`Date`, `Set-Cookie`, ids of requests, limits of rates, hop-by-hop) may differ |
//! | `replay-marker` | the retry's answer carries `Idempotent-Replayed: true`, and the first one's does not. Advice under `ietf` |
//! | `other-body` | the key with another body is refused: 422 under `ietf`, 400 under `stripe`; and the first answer stands |
//! | `concurrent` | of equal requests at once one is carried out; the others get 409 or its answer |
//! | `key-missing` | 400, under `ietf` |
//! | `key-empty`, `key-empty-string`, `key-unterminated`, `key-trailing-text`, `key-bad-escape`, `key-not-ascii`, `key-two-in-one-line` | 400, under `ietf` |
//! | `key-too-long` | 256 characters are 400, under `stripe` |
//! | `key-two-lines` | two lines of the key's header are 400. Advice under `stripe` |
//! | `two-tenants` | another tenant with the same key gets anything but the first one's answer |
//! | `hang-up-in-request` | half a request claims nothing: a retry is carried out |
//! | `hang-up-before-answer` | the retry of a client that went away is answered, always alike |
//! | `cut-answer` | the retry of a client that saw only the answer's beginning gets that answer |
//!
//! # Limits
//!
//! HTTP/1.1, over TCP or TLS with the system's certificates. Answers up to 8 MiB. Dropping the future of
//! [`run`] closes its connections; what the server does by then is the server's to finish.

mod checks;
mod client;
mod error;
mod options;
mod other_body;
mod profile;
mod report;
mod target;

pub use error::Error;
pub use options::Options;
pub use profile::Profile;
pub use report::{Check, Report, Verdict};

/// Probes a server. See the [crate's page](crate).
///
/// # Errors
/// When an option cannot be used, or the host is not on this machine and `i_own_this` is not set: then
/// nothing was sent. What the server does wrong is in the report.
pub async fn run(options: &Options) -> Result<Report, Error> {
    let wrong = |name, why| Err(Error::Option { name, why });
    if !(2..=64).contains(&options.duplicates) {
        return wrong("duplicates", "it is not 2 to 64");
    }
    if options.body.is_empty() {
        return wrong("body", "it is empty: half of it cannot be sent");
    }
    let derived = || other_body::derive(&options.body);
    let other_body = options.other_body.clone().or_else(derived);
    if other_body.as_ref() == Some(&options.body) {
        return wrong("other-body", "it is the same as `body`");
    }
    let Options {
        url,
        i_own_this,
        timeout,
        ..
    } = options;
    let target = target::Target::look_up(url, *i_own_this, *timeout).await?;
    let url = target.shown();
    let client = client::Client::new(target, options)?;
    let checks = checks::run(&client, options, other_body).await;
    Ok(Report::new(url, options.profile, client.sent(), checks))
}
