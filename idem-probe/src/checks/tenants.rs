//! Two tenants that have made the same key.

use super::probe::{Found, Probe, cannot_tell, fail, is_marked, is_success, pass};
use crate::client::Call;
use crate::report::Verdict;

pub(super) async fn check(probe: &Probe<'_>) -> Found {
    if !probe.client.has_two_tenants() {
        let detail = "give a credential of another tenant (`--other-credential`)";
        return Ok((Verdict::Skipped, detail.to_owned()));
    }
    let as_other = |call: Call| Call {
        as_other_tenant: true,
        ..call
    };
    let alone = probe.client.send(&as_other(probe.fresh())).await?;
    if !is_success(&alone) {
        let status = alone.status;
        return cannot_tell(format!(
            "the other tenant is refused with a new key, too ({status})"
        ));
    }
    let call = probe.fresh();
    let first = probe.client.send(&call).await?;
    if !is_success(&first) {
        return fail(format!(
            "{}: the first tenant, with a new key",
            first.status
        ));
    }
    let other = probe.client.send(&as_other(call.clone())).await?;
    let status = other.status;
    if is_marked(&other) {
        return fail("the other tenant was given a replay");
    }
    match (status, probe.is_same(&first, &other)) {
        (500.., _) => fail(format!("{status}: the other tenant, with the same key")),
        (400.., _) => pass(format!("refused with {status}")),
        (_, Ok(true)) => fail("the other tenant was given the first one's answer"),
        (_, Ok(false)) => pass("carried out for each"),
        (_, Err(why)) => cannot_tell(why),
    }
}
