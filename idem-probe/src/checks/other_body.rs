//! The key of the first request with another body.

use super::probe::{Found, Probe, cannot_tell, fail, is_success, pass};
use super::replay::First;
use crate::client::Call;

pub(super) async fn check(probe: &Probe<'_>, first: &First, body: Option<String>) -> Found {
    let Some(body) = body else {
        return cannot_tell("give another body that the operation accepts (`--other-body`)");
    };
    let of = |call: Call| Call {
        body: body.clone().into(),
        ..call
    };
    let refused = probe.client.send(&of(first.call.clone())).await?;
    let expected = probe.profile.mismatch();
    if is_success(&refused) {
        return match refused.body == first.answer.body {
            true => fail(format!(
                "{}: another request was given the first one's answer",
                refused.status
            )),
            false => fail(format!("{}: carried out under a used key", refused.status)),
        };
    }
    if refused.status != expected {
        return fail(format!("refused with {}, not {expected}", refused.status));
    }
    let alone = probe.client.send(&of(probe.fresh())).await?;
    if !is_success(&alone) {
        return cannot_tell(format!(
            "the other body is refused with a new key, too ({}): give `--other-body`",
            alone.status
        ));
    }
    let again = probe.client.send(&first.call).await?;
    let is_same = probe.is_same(&first.answer, &again);
    match is_success(&again) && !matches!(is_same, Ok(false)) {
        true => pass(format!("{expected}, and the first answer stands")),
        false => fail(format!(
            "{expected}, but then the first request got another answer ({})",
            again.status
        )),
    }
}
