//! Finished steps: bytes that an attempt appends to its record, and that the next one is handed.

use bytes::Bytes;
use tokio::task::JoinSet;

use super::bench::{Bench, Checked, Failure, applied, gather, lost, same, takes_over};
use crate::record::{Change, Claim, Claimed, OnCrash, Phase};

const FIRST: &[u8] = b"first;";
const SECOND: &[u8] = b"\0second\xff;";

/// A record with two finished steps, whose first attempt runs.
async fn with_steps(bench: &Bench, claim: &Claim) -> Checked<Bytes> {
    bench.acquire("the first claim", claim, 1).await?;
    append(bench, claim, 0, FIRST).await?;
    append(bench, claim, FIRST.len(), SECOND).await?;
    Ok([FIRST, SECOND].concat().into())
}

async fn append(bench: &Bench, claim: &Claim, at: usize, steps: &'static [u8]) -> Checked {
    let steps = Bytes::from_static(steps);
    let change = bench.a.checkpoint(claim, at, &steps).await?;
    applied(&format!("a checkpoint at {at}"), change)
}

pub(super) async fn are_handed_on(bench: Bench) -> Checked {
    let claim = bench.claim().lease(bench.short());
    let steps = with_steps(&bench, &claim).await?;
    bench.has_steps("while it runs", &claim, &steps).await?;
    bench.pass().await;
    bench.is_crashed("after the lease", &claim, 1).await?;
    bench.has_steps("after a crash", &claim, &steps).await?;

    let second = claim.by_another().lease(bench.short());
    let answer = bench.b.claim(&second).await?;
    takes_over("a takeover", &answer, 2, &steps)?;
    let third = Bytes::from_static(b"third");
    let change = bench.b.checkpoint(&second, steps.len(), &third).await?;
    applied("a checkpoint of the second attempt", change)?;
    applied("its abandonment", bench.b.abandon(&second).await?)?;

    let steps = Bytes::from([&steps[..], &third].concat());
    let answer = bench.a.claim(&claim.by_another()).await?;
    takes_over("another takeover", &answer, 3, &steps)
}

/// A store may be so slow that the record's time is over: it is absent then.
async fn applied_or_expired(bench: &Bench, what: &str, claim: &Claim, change: Change) -> Checked {
    match change {
        Change::Applied => Ok(()),
        Change::LeaseLost => {
            let when = format!("after {what} that was refused");
            bench.is_absent(&when, claim).await
        }
    }
}

pub(super) async fn own_claim_is_told(bench: Bench) -> Checked {
    let claim = bench.claim();
    let steps = with_steps(&bench, &claim).await?;
    applied("the abandonment", bench.a.abandon(&claim).await?)?;
    let next = claim.by_another();
    for handle in [&bench.a, &bench.b] {
        let answer = handle.claim(&next).await?;
        takes_over("a takeover, and the same again", &answer, 2, &steps)?;
    }
    Ok(())
}

pub(super) async fn repeats(bench: Bench) -> Checked {
    let claim = bench.claim();
    let steps = with_steps(&bench, &claim).await?;
    for handle in [&bench.a, &bench.b] {
        // The last one, one that arrives late, and all of them.
        for (at, again) in [
            (FIRST.len(), Bytes::from_static(SECOND)),
            (0, Bytes::from_static(FIRST)),
            (0, steps.clone()),
        ] {
            let change = handle.checkpoint(&claim, at, &again).await?;
            applied("a checkpoint again", change)?;
        }
    }
    bench.has_steps("after repetitions", &claim, &steps).await?;
    bench.is_running("after repetitions", &claim, 1).await
}

pub(super) async fn appends_what_is_missing(bench: Bench) -> Checked {
    let claim = bench.claim();
    bench.acquire("the first claim", &claim, 1).await?;
    append(&bench, &claim, 0, FIRST).await?;
    let gap = Bytes::from_static(b"after a gap");
    for at in [FIRST.len() + 1, FIRST.len() + SECOND.len()] {
        let change = bench.b.checkpoint(&claim, at, &gap).await?;
        lost("a checkpoint past the end of the steps", change)?;
    }
    let first = Bytes::from_static(FIRST);
    bench.has_steps("after a gap", &claim, &first).await?;
    let all = Bytes::from([FIRST, SECOND].concat());
    let change = bench.b.checkpoint(&claim, 0, &all).await?;
    applied("a checkpoint of all steps", change)?;
    bench.has_steps("after all of them", &claim, &all).await?;
    bench.is_running("after all of them", &claim, 1).await
}

pub(super) async fn move_nothing(bench: Bench) -> Checked {
    let claim = bench.claim().lease(bench.short());
    bench.acquire("the first claim", &claim, 1).await?;
    let expires = bench.claim().lease(bench.short()).retention(bench.short());
    bench.acquire("the first claim", &expires, 1).await?;
    let steps = Bytes::from_static(FIRST);
    let longer = expires.lease(bench.long()).retention(bench.long());
    let change = bench.a.checkpoint(&longer, 0, &steps).await?;
    applied_or_expired(
        &bench,
        "a checkpoint with a longer retention",
        &expires,
        change,
    )
    .await?;
    let longer = claim.lease(bench.long()).retention(bench.long());
    let change = bench.a.checkpoint(&longer, 0, &steps).await?;
    applied("a checkpoint with a longer lease", change)?;
    let stays = bench.claim();
    bench.acquire("the first claim", &stays, 1).await?;
    let shorter = stays.lease(bench.short()).retention(bench.short());
    let change = bench.a.checkpoint(&shorter, 0, &steps).await?;
    applied("a checkpoint with a shorter lease", change)?;
    bench.pass().await;
    bench.is_crashed("after the lease", &claim, 1).await?;
    bench.is_free("after lease and retention", &expires).await?;
    bench.is_running("within a long lease", &stays, 1).await
}

pub(super) async fn late_owner(bench: Bench) -> Checked {
    let claim = bench.crashed().await?;
    append(&bench, &claim, 0, FIRST).await?;
    bench
        .is_crashed("after a late checkpoint", &claim, 1)
        .await?;
    let answer = bench.b.claim(&claim.by_another()).await?;
    takes_over("a takeover", &answer, 2, &Bytes::from_static(FIRST))
}

pub(super) async fn overtaken(bench: Bench) -> Checked {
    let claim = bench.crashed().await?;
    append(&bench, &claim, 0, FIRST).await?;
    let second = claim.by_another().lease(bench.long());
    let steps = Bytes::from_static(FIRST);
    let answer = bench.b.claim(&second).await?;
    takes_over("a takeover", &answer, 2, &steps)?;
    bench
        .refuses("an overtaken attempt", &claim.id, claim.token)
        .await?;
    // What it may have sent before is no success either.
    let again = bench.a.checkpoint(&claim, 0, &steps).await?;
    lost("an overtaken attempt's checkpoint again", again)?;
    bench.has_steps("after refusals", &second, &steps).await?;
    bench.is_running("after refusals", &second, 2).await
}

pub(super) async fn bytes(bench: Bench) -> Checked {
    let claim = bench.claim();
    bench.acquire("the first claim", &claim, 1).await?;
    let others = 1 + 256 + 14;
    let length = bench.a.at_most((1 << 20) + others) - others;
    let parts: [Bytes; 5] = [
        Bytes::new(),
        Bytes::from_static(b"\0"),
        (u8::MIN..=u8::MAX).collect(),
        // Of 251, a prime, so that a lost or doubled block shows.
        (0..length).map(|place| (place % 251) as u8).collect(),
        Bytes::from_static(b"r-\\x00%s{}';--"),
    ];
    let mut all = Vec::new();
    for part in parts {
        let change = bench.a.checkpoint(&claim, all.len(), &part).await?;
        applied("a checkpoint", change)?;
        all.extend_from_slice(&part);
    }
    let all = Bytes::from(all);
    bench.has_steps("after all of them", &claim, &all).await?;
    applied("the abandonment", bench.a.abandon(&claim).await?)?;
    let answer = bench.b.claim(&claim.by_another()).await?;
    takes_over("a takeover", &answer, 2, &all)
}

pub(super) async fn renewal_and_abandonment(bench: Bench) -> Checked {
    let claim = bench.claim();
    let steps = with_steps(&bench, &claim).await?;
    let (lease, retention) = (bench.long(), bench.long());
    let change = bench.b.renew(&claim, lease, retention).await?;
    applied("a renewal", change)?;
    bench.has_steps("after a renewal", &claim, &steps).await?;
    applied("the abandonment", bench.a.abandon(&claim).await?)?;
    bench.has_steps("after it", &claim, &steps).await?;
    let refusing = claim.by_another().on_crash(OnCrash::Refuse);
    let answer = bench.b.claim(&refusing).await?;
    let unknown = Claimed::OutcomeUnknown { attempt: 1 };
    same("a claim to refuse", &answer, &unknown)
}

pub(super) async fn completion(bench: Bench) -> Checked {
    let claim = bench.claim();
    with_steps(&bench, &claim).await?;
    let outcome = Bytes::from_static(b"done");
    let change = bench.a.complete(&claim, &outcome, bench.long()).await?;
    applied("the completion", change)?;
    bench
        .is_finished("after the completion", &claim, 1, &outcome)
        .await?;
    bench.has_steps("finished", &claim, &Bytes::new()).await?;
    let again = bench.a.checkpoint(&claim, 0, &outcome).await?;
    lost("a checkpoint after the completion", again)?;
    bench
        .is_finished("after a late checkpoint", &claim, 1, &outcome)
        .await
}

pub(super) async fn release(bench: Bench) -> Checked {
    let claim = bench.claim();
    let steps = with_steps(&bench, &claim).await?;
    applied("the release", bench.a.release(&claim).await?)?;
    bench
        .stands("after the release", &claim, 1, &Phase::Suspended)
        .await?;
    let late = bench.a.checkpoint(&claim, 0, &steps).await?;
    lost("a checkpoint after the release", late)?;
    // Whoever gives the next attempt up without having begun it loses nothing either.
    for attempt in [2, 3] {
        let next = claim.by_another().on_crash(OnCrash::Refuse);
        let answer = bench.b.claim(&next).await?;
        takes_over("a claim after a release", &answer, attempt, &steps)?;
        applied("its release", bench.b.release(&next).await?)?;
    }
    Ok(())
}

pub(super) async fn expiry(bench: Bench) -> Checked {
    let claim = bench.claim();
    with_steps(&bench, &claim).await?;
    // So that no checkpoint has to come within a short time.
    let change = bench.a.renew(&claim, bench.short(), bench.short()).await?;
    applied("a renewal with a short retention", change)?;
    bench.pass().await;
    bench.is_free("after lease and retention", &claim).await
}

pub(super) async fn race(bench: Bench) -> Checked {
    for round in 0..20 {
        let claim = bench.claim();
        bench.acquire("the first claim", &claim, 1).await?;
        let mut calls = JoinSet::new();
        for step in 0..3_usize {
            let owner = bench.clone();
            // Each with those before it, as after lost answers.
            calls.spawn(async move {
                let all = Bytes::from(vec![b'a'; 100 * (step + 1)]);
                let handle = if step % 2 == 0 { &owner.a } else { &owner.b };
                let change = handle.checkpoint(&claim, 0, &all).await?;
                Ok((change == Change::Applied).then_some(all.len()))
            });
        }
        let ender = bench.clone();
        calls.spawn(async move { ender.b.abandon(&claim).await.map(|_| None) });
        let acknowledged = gather(calls).await?.into_iter().flatten().max();
        let answer = bench.a.claim(&claim.by_another()).await?;
        let Claimed::Acquired { attempt: 2, steps } = &answer else {
            return takes_over("a takeover", &answer, 2, &Bytes::new());
        };
        let is_whole = steps.len() % 100 == 0 && steps.iter().all(|byte| *byte == b'a');
        if !is_whole || steps.len() < acknowledged.unwrap_or_default() {
            return Err(Failure::new(format!(
                "round {round}: of steps of which {acknowledged:?} bytes were acknowledged, a takeover was handed {}",
                steps.len()
            )));
        }
    }
    Ok(())
}
