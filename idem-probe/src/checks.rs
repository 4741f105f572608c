//! The checks, in the order in which they run.

mod concurrent;
mod hang_ups;
mod other_body;
mod probe;
mod refusals;
mod replay;
mod tenants;

use crate::client::{Client, NoAnswer};
use crate::options::Options;
use crate::report::{Check, Verdict};
use probe::Found;

/// Runs them all. Where no two requests are carried out, there is nothing to compare with.
pub(crate) async fn run(
    client: &Client,
    options: &Options,
    other_body: Option<String>,
) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut found = |name, found: Found| {
        let (verdict, detail) = found.unwrap_or_else(|none| {
            let verdict = match none {
                NoAnswer::Bound(_) => Verdict::CannotTell,
                NoAnswer::Connection(_) => Verdict::Fail,
            };
            (verdict, none.to_string())
        });
        checks.push(Check::new(name, verdict, detail));
    };
    let mut probe = probe::Probe::new(client, options);

    let (is_first, first) = replay::first(&probe).await;
    found("first", is_first);
    let Some(first) = first else { return checks };
    let (is_another, goes_on) = replay::another_key(&mut probe, &first).await;
    found("another-key", is_another);
    if !goes_on {
        return checks;
    }
    for (name, result) in replay::replays(&mut probe, &first).await {
        found(name, result);
    }
    let other = other_body::check(&probe, &first, other_body).await;
    found("other-body", other);
    let at_once = concurrent::check(&probe, options.duplicates).await;
    found("concurrent", at_once);
    if options.profile.requires_keys() {
        found("key-missing", refusals::missing(&probe).await);
    }
    for malformed in options.profile.malformed_keys() {
        let refused = refusals::malformed(&probe, &malformed).await;
        found(malformed.check, refused);
    }
    found("key-two-lines", refusals::two_lines(&probe).await);
    found("two-tenants", tenants::check(&probe).await);
    let half = hang_ups::in_request(&probe).await;
    found("hang-up-in-request", half);
    let unread = hang_ups::before_answer(&probe).await;
    found("hang-up-before-answer", unread);
    found("cut-answer", hang_ups::cut_answer(&probe).await);
    checks
}
