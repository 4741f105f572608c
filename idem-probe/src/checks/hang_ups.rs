//! Clients that go away, and come back with the same key.

use super::probe::{Found, Probe, cannot_tell, fail, is_marked, is_success, pass};
use crate::client::{Answer, HangUp};

pub(super) async fn in_request(probe: &Probe<'_>) -> Found {
    gone(probe, HangUp::InRequest).await
}

pub(super) async fn before_answer(probe: &Probe<'_>) -> Found {
    gone(probe, HangUp::BeforeAnswer).await
}

async fn gone(probe: &Probe<'_>, at: HangUp) -> Found {
    let call = probe.fresh();
    probe.client.hang_up(&call, at).await?;
    let retry = probe.settled(&call).await?;
    if !is_success(&retry) {
        return fail(refused(probe, &retry));
    }
    if matches!(at, HangUp::InRequest) && is_marked(&retry) {
        return fail("the retry was given a replay: half a request was carried out");
    }
    let again = probe.client.send(&call).await?;
    match (is_success(&again), probe.is_same(&retry, &again)) {
        (false, _) => fail(format!("the second retry got {}", again.status)),
        (_, Ok(false)) => fail("two retries got two answers"),
        (_, Err(why)) => cannot_tell(why),
        (_, Ok(true)) if is_marked(&retry) => {
            pass("the retry was given the answer that nobody had read")
        }
        (_, Ok(true)) => pass("the retry was answered, and so was the next one"),
    }
}

pub(super) async fn cut_answer(probe: &Probe<'_>) -> Found {
    let call = probe.fresh();
    let beginning = probe.client.cut_answer(&call).await?;
    if !is_success(&beginning) {
        return fail(format!("{}, with a new key", beginning.status));
    }
    let retry = probe.settled(&call).await?;
    match (is_success(&retry), probe.is_same(&beginning, &retry)) {
        (false, _) => fail(refused(probe, &retry)),
        (_, Ok(true)) => pass("the retry was given the whole answer"),
        (_, Ok(false)) => fail("the retry was given another answer: carried out again"),
        (_, Err(why)) => cannot_tell(why),
    }
}

fn refused(probe: &Probe<'_>, retry: &Answer) -> String {
    match retry.status {
        status if probe.profile.is_in_flight(status) => {
            format!(
                "the key stayed in flight: {status} until the patience was over (`--answer-timeout`)"
            )
        }
        status => format!("the retry got {status}"),
    }
}
