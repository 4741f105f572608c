//! Suspended records: an attempt ended without an outcome, and the next one goes on with its steps.

use bytes::Bytes;

use super::bench::{Bench, Checked, applied, lost, same, takes_over};
use crate::record::{Claim, Claimed, OnCrash, Phase};

const STEPS: &[u8] = b"a finished step";

/// A record that its first attempt has suspended, after a step.
async fn suspended(bench: &Bench, claim: &Claim) -> Checked<Bytes> {
    let steps = Bytes::from_static(STEPS);
    bench.acquire("the first claim", claim, 1).await?;
    let change = bench.a.checkpoint(claim, 0, &steps).await?;
    applied("the checkpoint", change)?;
    applied("the suspension", bench.a.suspend(claim).await?)?;
    Ok(steps)
}

pub(super) async fn continues(bench: Bench) -> Checked {
    for on_crash in [OnCrash::Rerun, OnCrash::Refuse] {
        let claim = bench.claim();
        let steps = suspended(&bench, &claim).await?;
        bench
            .stands("after it", &claim, 1, &Phase::Suspended)
            .await?;
        bench.has_steps("after it", &claim, &steps).await?;
        let next = claim.by_another().on_crash(on_crash);
        for handle in [&bench.b, &bench.a] {
            let answer = handle.claim(&next).await?;
            let what = format!("a claim to {on_crash:?}, and the same again");
            takes_over(&what, &answer, 2, &steps)?;
        }
        bench.is_running("while it goes on", &next, 2).await?;
        // A crash of the one that goes on is a crash like any other.
        applied("its abandonment", bench.b.abandon(&next).await?)?;
        bench.is_crashed("after its abandonment", &next, 2).await?;
        bench.has_steps("after it", &next, &steps).await?;
    }
    Ok(())
}

pub(super) async fn without_steps(bench: Bench) -> Checked {
    let claim = bench.claim();
    bench.acquire("the first claim", &claim, 1).await?;
    applied("the suspension", bench.a.suspend(&claim).await?)?;
    bench
        .stands("after it", &claim, 1, &Phase::Suspended)
        .await?;
    let next = claim.by_another().on_crash(OnCrash::Refuse);
    let answer = bench.b.claim(&next).await?;
    takes_over("a claim to refuse", &answer, 2, &Bytes::new())?;
    let outcome = Bytes::from_static(b"done");
    let change = bench.b.complete(&next, &outcome, bench.long()).await?;
    applied("its completion", change)?;
    bench
        .is_finished("after its completion", &next, 2, &outcome)
        .await
}

pub(super) async fn mismatch(bench: Bench) -> Checked {
    let claim = bench.claim();
    let steps = suspended(&bench, &claim).await?;
    for on_crash in [OnCrash::Rerun, OnCrash::Refuse] {
        let mut other = bench.claim().on_crash(on_crash);
        other.id = claim.id;
        let answer = bench.b.claim(&other).await?;
        let what = "a claim with another fingerprint";
        same(what, &answer, &Claimed::Mismatch)?;
    }
    bench
        .stands("after a mismatch", &claim, 1, &Phase::Suspended)
        .await?;
    bench.has_steps("after a mismatch", &claim, &steps).await
}

pub(super) async fn is_nobodys(bench: Bench) -> Checked {
    let claim = bench.claim();
    let steps = suspended(&bench, &claim).await?;
    let stranger = claim.by_another().token;
    for token in [claim.token, stranger] {
        bench.refuses("a token of nobody", &claim.id, token).await?;
    }
    bench
        .stands("after refusals", &claim, 1, &Phase::Suspended)
        .await?;
    bench.has_steps("after refusals", &claim, &steps).await?;
    let crashed = bench.crashed().await?;
    applied("a late suspension", bench.a.suspend(&crashed).await?)?;
    bench
        .stands("after a late one", &crashed, 1, &Phase::Suspended)
        .await
}

pub(super) async fn unbroken(bench: Bench) -> Checked {
    let claim = bench.claim();
    let steps = suspended(&bench, &claim).await?;
    let outcome = Bytes::from_static(b"an outcome that comes late");
    for handle in [&bench.a, &bench.b] {
        let change = handle.renew_unbroken(&claim, 1).await?;
        lost("a renewal with an unbroken lease", change)?;
        let change = handle.complete_unbroken(&claim, 1, &outcome).await?;
        lost("a completion with an unbroken lease", change)?;
    }
    bench
        .stands("after refusals", &claim, 1, &Phase::Suspended)
        .await?;
    bench.has_steps("after refusals", &claim, &steps).await
}

pub(super) async fn retention(bench: Bench) -> Checked {
    // Its lease would have been over long before: it counts no more.
    let kept = bench.claim().lease(bench.short());
    suspended(&bench, &kept).await?;
    let over = bench.claim().retention(bench.short());
    suspended(&bench, &over).await?;
    bench.pass().await;
    bench
        .stands("within the retention", &kept, 1, &Phase::Suspended)
        .await?;
    bench.is_free("after the retention", &over).await
}
