//! The rows of the state table, one after the other.

use bytes::Bytes;

use super::bench::{Bench, Checked, acquired, applied, lost, replayed, same};
use crate::record::{Claim, Claimed, OnCrash, Token};

pub(super) async fn absent_is_acquired(bench: Bench) -> Checked {
    for on_crash in [OnCrash::Rerun, OnCrash::Refuse] {
        let claim = Claim {
            on_crash,
            ..bench.claim()
        };
        bench.is_absent("before the first claim", &claim).await?;
        bench.acquire("the first claim", &claim, 1).await?;
        bench.is_running("after the first claim", &claim, 1).await?;
    }
    Ok(())
}

pub(super) async fn alive_is_in_flight(bench: Bench) -> Checked {
    let claim = bench.claim();
    bench.acquire("the first claim", &claim, 1).await?;
    for lease in [bench.short(), bench.long().saturating_mul(3)] {
        let other = Claim {
            token: Token::random(),
            lease,
            retention: lease,
            ..claim
        };
        match bench.b.claim(&other).await? {
            Claimed::InFlight { .. } => {}
            answer => {
                let expected = Claimed::InFlight { lease_left: lease };
                return same("a second claim", &answer, &expected);
            }
        }
        bench.is_running("after a second claim", &claim, 1).await?;
        let what = "a renewal by the token that was refused";
        lost(what, bench.b.renew(&other, lease, lease).await?)?;
    }
    let outcome = Bytes::from_static(b"done");
    applied(
        "the completion by the first token",
        bench.a.complete(&claim, &outcome, bench.long()).await?,
    )
}

pub(super) async fn own_claim_is_recognised(bench: Bench) -> Checked {
    let claim = bench.claim();
    bench.acquire("the first claim", &claim, 1).await?;
    for handle in [&bench.a, &bench.b] {
        let again = handle.claim(&claim).await?;
        acquired("the same claim again", &again, 1)?;
    }
    bench
        .is_running("after the same claim again", &claim, 1)
        .await?;

    let crashed = bench.crashed().await?;
    let successor = Claim {
        token: Token::random(),
        lease: bench.long(),
        ..crashed
    };
    bench.acquire("a takeover", &successor, 2).await?;
    let again = bench.b.claim(&successor).await?;
    acquired("the same takeover again", &again, 2)?;
    bench
        .is_running("after the same takeover again", &successor, 2)
        .await
}

pub(super) async fn own_claim_moves_nothing(bench: Bench) -> Checked {
    let claim = Claim {
        lease: bench.short(),
        ..bench.claim()
    };
    bench.acquire("the first claim", &claim, 1).await?;
    let again = match bench.claims_again_may_renew {
        true => claim,
        false => Claim {
            lease: bench.long(),
            ..claim
        },
    };
    bench.acquire("the same claim again", &again, 1).await?;
    bench.pass().await;
    bench.is_crashed("after the first lease", &claim, 1).await
}

pub(super) async fn own_late_claim_is_recognised(bench: Bench) -> Checked {
    // Under both policies: an attempt whose claim was not answered has not begun, so that
    // it is neither a crash to refuse nor one to take over.
    for on_crash in [OnCrash::Rerun, OnCrash::Refuse] {
        let claim = Claim {
            on_crash,
            ..bench.crashed().await?
        };
        let what = format!("the same claim to {on_crash:?} after its lease");
        bench.acquire(&what, &claim, 1).await?;
        if bench.claims_again_may_renew {
            bench.pass().await;
        }
        bench
            .is_crashed(&format!("after {what}"), &claim, 1)
            .await?;
    }
    Ok(())
}

/// Claims `claim`'s record for other requests, none of which is let in.
async fn mismatches(bench: &Bench, claim: &Claim) -> Checked {
    for on_crash in [OnCrash::Rerun, OnCrash::Refuse] {
        for handle in [&bench.a, &bench.b] {
            let other = Claim {
                id: claim.id,
                on_crash,
                ..bench.claim()
            };
            let what = format!("a claim to {on_crash:?} with another fingerprint");
            let answer = handle.claim(&other).await?;
            same(&what, &answer, &Claimed::Mismatch)?;
        }
    }
    Ok(())
}

pub(super) async fn mismatch_while_running(bench: Bench) -> Checked {
    let claim = bench.claim();
    bench.acquire("the first claim", &claim, 1).await?;
    mismatches(&bench, &claim).await?;
    bench.is_running("after a mismatch", &claim, 1).await
}

pub(super) async fn mismatch_after_crash(bench: Bench) -> Checked {
    let claim = bench.crashed().await?;
    mismatches(&bench, &claim).await?;
    bench.is_crashed("after a mismatch", &claim, 1).await?;
    let change = bench.a.abandon(&claim).await?;
    applied("the abandonment", change)?;
    mismatches(&bench, &claim).await?;
    bench
        .is_crashed("abandoned, after a mismatch", &claim, 1)
        .await
}

pub(super) async fn mismatch_when_finished(bench: Bench) -> Checked {
    let outcome = Bytes::from_static(b"the first outcome");
    let claim = bench.finished(&outcome).await?;
    mismatches(&bench, &claim).await?;
    bench
        .is_finished("after a mismatch", &claim, 1, &outcome)
        .await
}

pub(super) async fn rerun_takes_over(bench: Bench) -> Checked {
    let first = bench.crashed().await?;
    let second = Claim {
        token: Token::random(),
        ..first
    };
    bench.acquire("a claim to rerun", &second, 2).await?;
    bench.pass().await;
    let third = Claim {
        token: Token::random(),
        lease: bench.long(),
        ..first
    };
    bench.acquire("the next claim to rerun", &third, 3).await?;
    bench.is_running("after two takeovers", &third, 3).await?;
    let outcome = Bytes::from_static(b"of the third attempt");
    applied(
        "the completion by the third attempt",
        bench.a.complete(&third, &outcome, bench.long()).await?,
    )?;
    bench
        .is_finished("after two takeovers", &third, 3, &outcome)
        .await
}

pub(super) async fn refuse_changes_nothing(bench: Bench) -> Checked {
    let claim = bench.crashed().await?;
    for _ in 0..5 {
        bench.is_crashed("after a crash", &claim, 1).await?;
    }
    bench.pass().await;
    bench.is_crashed("much later", &claim, 1).await?;
    // What resolves it is the token that crashed, or a claim to rerun.
    let outcome = Bytes::from_static(b"late");
    applied(
        "the late completion",
        bench.a.complete(&claim, &outcome, bench.long()).await?,
    )?;
    bench
        .is_finished("after the late completion", &claim, 1, &outcome)
        .await
}

pub(super) async fn the_claim_decides(bench: Bench) -> Checked {
    let refusing = Claim {
        lease: bench.short(),
        on_crash: OnCrash::Refuse,
        ..bench.claim()
    };
    bench.acquire("a claim to refuse", &refusing, 1).await?;
    bench.pass().await;
    bench.is_crashed("after the crash", &refusing, 1).await?;
    let resolving = Claim {
        token: Token::random(),
        lease: bench.long(),
        on_crash: OnCrash::Rerun,
        ..refusing
    };
    bench.acquire("a claim to rerun", &resolving, 2).await?;
    bench.is_running("after the takeover", &resolving, 2).await
}

pub(super) async fn finished_is_replayed(bench: Bench) -> Checked {
    let outcome = Bytes::from_static(b"done");
    let claim = bench.finished(&outcome).await?;
    for _ in 0..3 {
        bench
            .is_finished("after the completion", &claim, 1, &outcome)
            .await?;
    }
    // The claim that ran may arrive a second time, long after.
    let own = bench.b.claim(&claim).await?;
    replayed("the finishing claim again", &own, &outcome)
}

pub(super) async fn release_frees(bench: Bench) -> Checked {
    let claim = bench.claim();
    bench.acquire("the first claim", &claim, 1).await?;
    applied("the release", bench.a.release(&claim).await?)?;
    bench.is_free("after the release", &claim).await?;

    // From any attempt, the count begins anew.
    let crashed = bench.crashed().await?;
    let successor = Claim {
        token: Token::random(),
        lease: bench.long(),
        ..crashed
    };
    bench.acquire("a takeover", &successor, 2).await?;
    applied(
        "the successor's release",
        bench.b.release(&successor).await?,
    )?;
    bench
        .is_free("after the successor's release", &successor)
        .await
}

pub(super) async fn abandon_ends_the_lease(bench: Bench) -> Checked {
    let claim = bench.claim();
    bench.acquire("the first claim", &claim, 1).await?;
    applied("the abandonment", bench.a.abandon(&claim).await?)?;
    bench.is_crashed("after the abandonment", &claim, 1).await?;
    let successor = Claim {
        token: Token::random(),
        ..claim
    };
    bench.acquire("a claim to rerun", &successor, 2).await?;
    bench.is_running("after the takeover", &successor, 2).await
}

pub(super) async fn renewal_moves_the_lease(bench: Bench) -> Checked {
    let extended = Claim {
        lease: bench.short(),
        ..bench.claim()
    };
    bench
        .acquire("a claim with a short lease", &extended, 1)
        .await?;
    let change = bench.a.renew(&extended, bench.long(), bench.long()).await?;
    applied("the longer renewal", change)?;

    let cut = bench.claim();
    bench.acquire("a claim with a long lease", &cut, 1).await?;
    let change = bench.b.renew(&cut, bench.short(), bench.long()).await?;
    applied("the shorter renewal", change)?;

    bench.pass().await;
    bench
        .is_running("after the deadline that was extended", &extended, 1)
        .await?;
    bench
        .is_crashed("after the deadline that was cut", &cut, 1)
        .await
}

pub(super) async fn completion_repeats(bench: Bench) -> Checked {
    let outcome = Bytes::from_static(b"the first outcome");
    let claim = bench.finished(&outcome).await?;
    let other = Bytes::from_static(b"another outcome");
    for again in [&outcome, &other] {
        for handle in [&bench.a, &bench.b] {
            let change = handle.complete(&claim, again, bench.long()).await?;
            applied("the completion again", change)?;
            bench
                .is_finished("after the completion again", &claim, 1, &outcome)
                .await?;
        }
    }
    Ok(())
}
