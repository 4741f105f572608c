//! A first request, another key, and a retry.

use std::collections::BTreeSet;

use http::HeaderMap;

use super::probe::{
    Found, Mark, Probe, advice, cannot_tell, fail, is_marked, is_success, location, pass,
};
use crate::client::{Answer, Call};

/// The first request, and its answer.
pub(super) struct First {
    pub(super) call: Call,
    pub(super) answer: Answer,
}

pub(super) async fn first(probe: &Probe<'_>) -> (Found, Option<First>) {
    let call = probe.fresh();
    let answer = match probe.client.send(&call).await {
        Ok(answer) => answer,
        Err(none) => return (Err(none), None),
    };
    let status = answer.status;
    let found = match status {
        300..=399 => fail(format!(
            "{status}: redirects are not followed; probe the URL that it names"
        )),
        _ if !is_success(&answer) => fail(format!(
            "{status}: give a request that the operation accepts; nothing else was checked"
        )),
        _ if is_marked(&answer) => fail("marked as a replay, though its key is new"),
        _ => pass(format!("{status}")),
    };
    let first = is_success(&answer).then_some(First { call, answer });
    (found, first)
}

/// Two executions: what differs between their answers tells others apart. Without a second one nothing
/// more can be checked.
pub(super) async fn another_key(probe: &mut Probe<'_>, first: &First) -> (Found, bool) {
    let other = match probe.client.send(&probe.fresh()).await {
        Ok(other) => other,
        Err(none) => return (Err(none), false),
    };
    let first = &first.answer;
    if !is_success(&other) {
        let found = cannot_tell(format!(
            "{}: give a request that is carried out as often as it comes; nothing else was checked",
            other.status
        ));
        return (found, false);
    }
    if is_marked(&other) {
        return (
            fail("another key got a replay; nothing else was checked"),
            false,
        );
    }
    probe.mark = if first.body != other.body {
        Mark::Body
    } else if location(first) != location(&other) {
        Mark::Location
    } else {
        Mark::Nothing("the answers of two executions are alike")
    };
    let found = match probe.mark {
        Mark::Body => pass("carried out as well; the bodies tell executions apart"),
        Mark::Location => pass("carried out as well; `Location` tells executions apart"),
        Mark::Nothing(_) => cannot_tell(
            "its answer is that of the first key: the answers hold nothing that tells executions \
             apart, or the key does not count",
        ),
    };
    (found, true)
}

pub(super) async fn replays(probe: &mut Probe<'_>, first: &First) -> Vec<(&'static str, Found)> {
    const NAMES: [&str; 4] = [
        "replay-status",
        "replay-headers",
        "replay-body",
        "replay-marker",
    ];
    let retry = match probe.client.send(&first.call).await {
        Ok(retry) => retry,
        Err(none) => return NAMES.map(|name| (name, Err(none.clone()))).to_vec(),
    };
    let first = &first.answer;
    if matches!(probe.is_same(first, &retry), Ok(false)) {
        probe.mark = Mark::Nothing("a retry's answer is not the first one's");
    }
    let found = [
        status(first, &retry),
        headers(first, &retry),
        body(first, &retry),
        marker(probe, &retry),
    ];
    NAMES.into_iter().zip(found).collect()
}

fn status(first: &Answer, retry: &Answer) -> Found {
    match (first.status, retry.status) {
        (first, retry) if first == retry => pass(format!("{retry}")),
        (first, retry) => fail(format!("{retry}, and the first one was {first}")),
    }
}

fn headers(first: &Answer, retry: &Answer) -> Found {
    let names = |headers: &HeaderMap| -> BTreeSet<String> {
        headers
            .keys()
            .map(|name| name.as_str().to_owned())
            .collect()
    };
    let all = &names(&first.headers) | &names(&retry.headers);
    let values = |answer: &Answer, name: &str| -> Vec<_> {
        answer.headers.get_all(name).iter().cloned().collect()
    };
    let (mut same, mut other) = (0_usize, Vec::new());
    for name in all.into_iter().filter(|name| !is_of_the_exchange(name)) {
        match values(first, &name) == values(retry, &name) {
            true => same += 1,
            false => other.push(name),
        }
    }
    match other.is_empty() {
        true => pass(format!("{same} alike")),
        false => fail(format!("not alike: {}", other.join(", "))),
    }
}

/// Headers that speak of one exchange, and not of the operation.
fn is_of_the_exchange(name: &str) -> bool {
    const NAMES: &[&str] = &[
        "age",
        "cf-ray",
        "connection",
        "content-length",
        "date",
        "idempotent-replayed",
        "keep-alive",
        "original-request",
        "proxy-connection",
        "server-timing",
        "set-cookie",
        "te",
        "traceparent",
        "tracestate",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
        "x-response-time",
        "x-runtime",
    ];
    const PARTS: &[&str] = &[
        "ratelimit",
        "rate-limit",
        "request-id",
        "correlation-id",
        "trace-id",
    ];
    NAMES.contains(&name) || PARTS.iter().any(|part| name.contains(part))
}

fn body(first: &Answer, retry: &Answer) -> Found {
    let (first, retry) = (&first.body, &retry.body);
    if first == retry {
        return pass(format!("{} bytes alike", first.len()));
    }
    let at = first.iter().zip(retry).take_while(|(a, b)| a == b).count();
    let (first, retry) = (first.len(), retry.len());
    fail(format!(
        "not alike from byte {at} on ({first} and {retry} bytes): carried out again, or not kept as it was"
    ))
}

fn marker(probe: &Probe<'_>, retry: &Answer) -> Found {
    const MISSING: &str = "no `Idempotent-Replayed: true`";
    match (is_marked(retry), probe.profile.requires_marker()) {
        (true, _) => pass("`Idempotent-Replayed: true`"),
        (false, true) => fail(MISSING),
        (false, false) => advice(format!(
            "{MISSING}: clients cannot tell a replay from a first answer"
        )),
    }
}
