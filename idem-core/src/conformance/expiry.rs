//! Lifetimes: the lease, and the retention after it.
//!
//! What has to be over was given a short lifetime, and what has to be alive a long one, so
//! that no case depends on an operation being quick.

use bytes::Bytes;

use super::bench::{Bench, Checked, Failure, acquired, applied, lost, replayed, same};
use crate::record::{Change, Claim, Claimed, OnCrash, Token};

pub(super) async fn finished(bench: Bench) -> Checked {
    let outcome = Bytes::from_static(b"done");
    let kept = bench.finished(&outcome).await?;
    let over = bench.claim();
    bench.acquire("the first claim", &over, 1).await?;
    let change = bench.a.complete(&over, &outcome, bench.short()).await?;
    applied("the completion", change)?;
    bench.pass().await;
    bench
        .is_finished("within the retention", &kept, 1, &outcome)
        .await?;
    bench.is_free("after the retention", &over).await
}

pub(super) async fn retention_of_each(bench: Bench) -> Checked {
    let outcome = Bytes::from_static(b"done");
    let mut records = Vec::new();
    // Alternating, so that neither the first nor the last retention can stand for all.
    for place in 0..6 {
        let claim = bench.claim();
        bench.acquire("the first claim", &claim, 1).await?;
        let retention = if place % 2 == 0 {
            bench.short()
        } else {
            bench.long()
        };
        let change = bench.a.complete(&claim, &outcome, retention).await?;
        applied("the completion", change)?;
        records.push((claim, retention));
    }
    bench.pass().await;
    for (claim, retention) in &records {
        if *retention == bench.short() {
            bench.is_free("after a short retention", claim).await?;
        } else {
            bench
                .is_finished("within a long retention", claim, 1, &outcome)
                .await?;
        }
    }
    Ok(())
}

pub(super) async fn completion_sets_retention(bench: Bench) -> Checked {
    let outcome = Bytes::from_static(b"done");
    let claim = Claim {
        retention: bench.short(),
        ..bench.claim()
    };
    bench
        .acquire("a claim with a short retention", &claim, 1)
        .await?;
    let change = bench.a.complete(&claim, &outcome, bench.long()).await?;
    applied("the completion", change)?;
    bench.pass().await;
    bench
        .is_finished("within the completion's retention", &claim, 1, &outcome)
        .await
}

pub(super) async fn completion_again(bench: Bench) -> Checked {
    let outcome = Bytes::from_static(b"done");
    let kept = bench.finished(&outcome).await?;
    let change = bench.a.complete(&kept, &outcome, bench.short()).await?;
    applied("the completion again", change)?;

    let over = bench.claim();
    bench.acquire("the first claim", &over, 1).await?;
    let change = bench.a.complete(&over, &outcome, bench.short()).await?;
    applied("the completion", change)?;
    // The retention may be over already, and then the lease is lost.
    let _: Change = bench.a.complete(&over, &outcome, bench.long()).await?;

    bench.pass().await;
    bench
        .is_finished("within the first retention", &kept, 1, &outcome)
        .await?;
    bench.is_free("after the first retention", &over).await
}

pub(super) async fn replay_says_how_long(bench: Bench) -> Checked {
    let outcome = Bytes::from_static(b"done");
    let claim = Claim {
        ask_retention: true,
        ..bench.finished(&outcome).await?
    };
    bench.pass().await;
    let answer = bench.b.claim(&claim).await?;
    replayed("a claim within the retention", &answer, &outcome)?;
    // A store that cannot tell says nothing.
    let Claimed::Finished {
        retention_left: Some(left),
        ..
    } = answer
    else {
        return Ok(());
    };
    let most = bench.long() - bench.short();
    if left > most || !bench.plausible().contains(&left) {
        return Err(Failure::new(format!(
            "of a retention of {:?}, after {:?} at least: expected at most {most:?} to be left, got {left:?}",
            bench.long(),
            bench.short(),
        )));
    }
    Ok(())
}

pub(super) async fn replay_moves_nothing(bench: Bench) -> Checked {
    let outcome = Bytes::from_static(b"done");
    let claim = bench.claim();
    bench.acquire("the first claim", &claim, 1).await?;
    let change = bench.a.complete(&claim, &outcome, bench.short()).await?;
    applied("the completion", change)?;
    let replayed = Claim {
        token: Token::random(),
        ..claim
    };
    if let Claimed::Acquired { .. } = bench.b.claim(&replayed).await? {
        // So slow that the retention was over: nothing to see.
        return Ok(());
    }
    bench.pass().await;
    bench.is_free("after the retention", &claim).await
}

pub(super) async fn refused_claim_moves_nothing(bench: Bench) -> Checked {
    let claim = Claim {
        lease: bench.short(),
        ..bench.claim()
    };
    bench.acquire("the first claim", &claim, 1).await?;
    let refused = Claim {
        token: Token::random(),
        lease: bench.long(),
        on_crash: OnCrash::Refuse,
        ..claim
    };
    match bench.b.claim(&refused).await? {
        // The latter when the lease was over already.
        Claimed::InFlight { .. } | Claimed::OutcomeUnknown { attempt: 1 } => {}
        answer => {
            let lease_left = bench.short();
            return same("a second claim", &answer, &Claimed::InFlight { lease_left });
        }
    }
    bench.pass().await;
    bench.is_crashed("after the first lease", &claim, 1).await
}

pub(super) async fn crash_is_seen(bench: Bench) -> Checked {
    let claim = bench.crashed().await?;
    bench.is_crashed("after the lease", &claim, 1).await?;
    bench.pass().await;
    bench.is_crashed("within the retention", &claim, 1).await
}

pub(super) async fn crash_is_forgotten(bench: Bench) -> Checked {
    let claim = Claim {
        lease: bench.short(),
        retention: bench.short(),
        ..bench.claim()
    };
    bench.acquire("the first claim", &claim, 1).await?;
    bench.pass().await;
    let outcome = Bytes::from_static(b"much too late");
    let change = bench.a.complete(&claim, &outcome, bench.long()).await?;
    lost("a completion after the retention", change)?;
    bench.is_free("after the retention", &claim).await
}

pub(super) async fn abandoned_is_kept(bench: Bench) -> Checked {
    let claim = bench.claim();
    bench.acquire("the first claim", &claim, 1).await?;
    applied("the abandonment", bench.a.abandon(&claim).await?)?;

    let late = bench.crashed().await?;
    applied("the late abandonment", bench.a.abandon(&late).await?)?;

    bench.pass().await;
    bench.is_crashed("within the retention", &claim, 1).await?;
    bench
        .is_crashed("abandoned late, within the retention", &late, 1)
        .await
}

pub(super) async fn renewal_moves_retention(bench: Bench) -> Checked {
    let extended = Claim {
        retention: bench.short(),
        ..bench.claim()
    };
    bench
        .acquire("a claim with a short retention", &extended, 1)
        .await?;
    let change = bench
        .a
        .renew(&extended, bench.short(), bench.long())
        .await?;
    applied("the renewal with a longer retention", change)?;

    let cut = bench.claim();
    bench
        .acquire("a claim with a long retention", &cut, 1)
        .await?;
    let change = bench.a.renew(&cut, bench.short(), bench.short()).await?;
    applied("the renewal with a shorter retention", change)?;

    bench.pass().await;
    bench
        .is_crashed("within the extended retention", &extended, 1)
        .await?;
    bench
        .is_free("after the retention that was cut", &cut)
        .await
}

pub(super) async fn takeover(bench: Bench) -> Checked {
    let crashed = bench.crashed().await?;
    let brief = Claim {
        token: Token::random(),
        lease: bench.short(),
        retention: bench.short(),
        ..crashed
    };
    bench.acquire("a brief takeover", &brief, 2).await?;

    let crashed = bench.crashed().await?;
    let long = Claim {
        token: Token::random(),
        lease: bench.long(),
        ..crashed
    };
    bench.acquire("a long takeover", &long, 2).await?;

    bench.pass().await;
    bench
        .is_free("after the brief takeover's retention", &brief)
        .await?;
    bench
        .is_running("within the long takeover's lease", &long, 2)
        .await
}

pub(super) async fn successor(bench: Bench) -> Checked {
    // One record whose outcome expires, and one whose crash does.
    let outcome = Bytes::from_static(b"the old one's");
    let finished = bench.claim();
    bench.acquire("the first claim", &finished, 1).await?;
    let change = bench.a.complete(&finished, &outcome, bench.short()).await?;
    applied("the completion", change)?;
    let crashed = Claim {
        lease: bench.short(),
        retention: bench.short(),
        ..bench.claim()
    };
    bench.acquire("the first claim", &crashed, 1).await?;
    // And one freed while its expiry is still ahead.
    let released = Claim {
        lease: bench.short(),
        retention: bench.short(),
        ..bench.claim()
    };
    bench.acquire("the first claim", &released, 1).await?;
    match bench.a.release(&released).await? {
        Change::Applied => {}
        // So slow that its retention is over: it is free as well.
        Change::LeaseLost => bench.is_absent("after its retention", &released).await?,
    }
    let next = |old: &Claim| Claim {
        token: Token::random(),
        lease: bench.long(),
        retention: bench.long(),
        ..*old
    };
    let after_release = next(&released);
    bench
        .acquire("the claim after the release", &after_release, 1)
        .await?;

    bench.pass().await;
    let (after_outcome, after_crash) = (next(&finished), next(&crashed));
    bench
        .acquire("the claim after the outcome", &after_outcome, 1)
        .await?;
    bench
        .acquire("the claim after the crash", &after_crash, 1)
        .await?;

    bench.pass().await;
    // Asked without its own token first: a claim of its own would put back what is gone.
    for fresh in [&after_outcome, &after_crash, &after_release] {
        bench
            .is_running("past the old record's end", fresh, 1)
            .await?;
        acquired("the same claim again", &bench.b.claim(fresh).await?, 1)?;
        let change = bench.a.complete(fresh, &outcome, bench.long()).await?;
        applied("the successor's completion", change)?;
    }

    bench.pass().await;
    for fresh in [&after_outcome, &after_crash, &after_release] {
        bench
            .is_finished("well past the old record's end", fresh, 1, &outcome)
            .await?;
    }
    Ok(())
}

pub(super) async fn finisher(bench: Bench) -> Checked {
    let outcome = Bytes::from_static(b"done");
    let claim = bench.claim();
    bench.acquire("the first claim", &claim, 1).await?;
    let change = bench.a.complete(&claim, &outcome, bench.short()).await?;
    applied("the completion", change)?;
    bench.pass().await;
    bench
        .refuses("the token that finished", &claim.id, claim.token)
        .await?;
    bench.is_free("after the retention", &claim).await?;
    bench
        .refuses("the token that finished", &claim.id, claim.token)
        .await
}
