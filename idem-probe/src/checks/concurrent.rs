//! Equal requests at once.

use super::probe::{Found, Probe, cannot_tell, fail, is_success, pass};

pub(super) async fn check(probe: &Probe<'_>, duplicates: u32) -> Found {
    let call = probe.fresh();
    let mut answers = Vec::new();
    let mut in_flight = 0_usize;
    for answer in probe.client.send_at_once(&call, duplicates).await? {
        let answer = answer?;
        if is_success(&answer) {
            answers.push(answer);
        } else if probe.profile.is_in_flight(answer.status) {
            in_flight += 1;
        } else {
            return fail(format!("one of {duplicates} got {}", answer.status));
        }
    }
    let Some((one, others)) = answers.split_first() else {
        return fail(format!("all {duplicates} were refused as in flight"));
    };
    let retry = probe.settled(&call).await?;
    if !is_success(&retry) {
        return fail(format!("afterwards a retry got {}", retry.status));
    }
    let mut executions = vec![one];
    for answer in others.iter().chain([&retry]) {
        let mut known = executions.iter();
        match known.try_fold(false, |found, known| {
            Ok::<_, &str>(found || probe.is_same(known, answer)?)
        }) {
            Ok(true) => {}
            Ok(false) => executions.push(answer),
            Err(why) => return cannot_tell(why),
        }
    }
    match executions.len() {
        1 => pass(format!(
            "of {duplicates} at once {} got one answer, and {in_flight} were told to wait",
            answers.len()
        )),
        several => fail(format!(
            "of {duplicates} at once {several} were carried out"
        )),
    }
}
