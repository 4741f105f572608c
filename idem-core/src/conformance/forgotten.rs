//! Records that their store has forgotten, as a failover does, while their owners live: an owner
//! whose lease is unbroken creates its record again, and nobody else's is touched.

use bytes::Bytes;
use tokio::task::JoinSet;

use super::bench::{Bench, Checked, Failure, applied, gather, lost};
use crate::record::{Change, Claimed};

const ATTEMPT: u32 = 3;

pub(super) async fn renewal(bench: Bench) -> Checked {
    // Never sent: this is what a store looks like that has forgotten it.
    let claim = bench.claim();
    let change = bench.a.renew_unbroken(&claim, ATTEMPT).await?;
    applied("a renewal of an absent record", change)?;
    bench
        .is_running("after the renewal", &claim, ATTEMPT)
        .await?;
    bench
        .acquire("the owner's claim, sent again,", &claim, ATTEMPT)
        .await?;
    let outcome = Bytes::from_static(b"the owner's");
    let change = bench.b.complete(&claim, &outcome, bench.long()).await?;
    applied("the owner's completion", change)?;
    bench
        .is_finished("after the completion", &claim, ATTEMPT, &outcome)
        .await
}

pub(super) async fn completion(bench: Bench) -> Checked {
    let claim = bench.claim();
    let outcome = Bytes::from_static(b"the owner's");
    for _ in 0..2 {
        let change = bench.a.complete_unbroken(&claim, ATTEMPT, &outcome).await?;
        applied("a completion of an absent record", change)?;
    }
    bench
        .is_finished("after the completions", &claim, ATTEMPT, &outcome)
        .await
}

pub(super) async fn another_is_running(bench: Bench) -> Checked {
    let claim = bench.claim();
    let other = claim.by_another();
    bench.acquire("the other's claim", &other, 1).await?;
    unbroken_changes_nothing(&bench, &claim).await?;
    bench.is_running("after refused changes", &other, 1).await
}

pub(super) async fn another_has_finished(bench: Bench) -> Checked {
    let outcome = Bytes::from_static(b"the other's");
    let other = bench.finished(&outcome).await?;
    unbroken_changes_nothing(&bench, &other.by_another()).await?;
    bench
        .is_finished("after refused changes", &other, 1, &outcome)
        .await
}

pub(super) async fn abandoned(bench: Bench) -> Checked {
    let claim = bench.claim();
    bench.acquire("the first claim", &claim, 1).await?;
    applied("the abandonment", bench.a.abandon(&claim).await?)?;
    unbroken_changes_nothing(&bench, &claim).await?;
    bench.is_crashed("after refused changes", &claim, 1).await
}

/// What was created again lives as long as what was claimed.
pub(super) async fn lifetimes(bench: Bench) -> Checked {
    let crashes = bench.claim().lease(bench.short());
    let change = bench.a.renew_unbroken(&crashes, ATTEMPT).await?;
    applied("a renewal of an absent record", change)?;
    let ends = bench.claim().retention(bench.short());
    let outcome = Bytes::from_static(b"soon forgotten");
    let change = bench.a.complete_unbroken(&ends, ATTEMPT, &outcome).await?;
    applied("a completion of an absent record", change)?;
    bench.pass().await;
    bench
        .is_crashed("after the lease", &crashes, ATTEMPT)
        .await?;
    bench.is_free("after the retention", &ends).await
}

/// Of an owner and those who claim what its store has forgotten one holds the record.
pub(super) async fn race(bench: Bench) -> Checked {
    for round in 0..20 {
        let claim = bench.claim();
        let mut calls = JoinSet::new();
        for caller in 0..4 {
            let bench = bench.clone();
            calls.spawn(async move {
                let handle = if caller % 2 == 0 { &bench.a } else { &bench.b };
                let answer = handle.claim(&claim.by_another()).await?;
                Ok(matches!(answer, Claimed::Acquired { .. }))
            });
        }
        let owner = bench.clone();
        calls.spawn(async move {
            let change = match round % 2 {
                0 => owner.b.renew_unbroken(&claim, ATTEMPT).await?,
                _ => {
                    let outcome = Bytes::from_static(b"the owner's");
                    owner.b.complete_unbroken(&claim, ATTEMPT, &outcome).await?
                }
            };
            Ok(change == Change::Applied)
        });
        let holders = gather(calls).await?;
        let holders = holders.into_iter().filter(|holds| *holds).count();
        if holders != 1 {
            return Err(Failure::new(format!(
                "round {round}: of an owner and four claims {holders} were told that they hold the record"
            )));
        }
    }
    Ok(())
}

async fn unbroken_changes_nothing(bench: &Bench, claim: &crate::record::Claim) -> Checked {
    let outcome = Bytes::from_static(b"an outcome that is nobody's");
    for handle in [&bench.a, &bench.b] {
        let change = handle.renew_unbroken(claim, ATTEMPT).await?;
        lost("a renewal with an unbroken lease", change)?;
        let change = handle.complete_unbroken(claim, ATTEMPT, &outcome).await?;
        lost("a completion with an unbroken lease", change)?;
    }
    Ok(())
}
