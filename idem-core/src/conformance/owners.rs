//! Who may change a record: the holder of its lease, and nobody else, however late and
//! however often they try.

use bytes::Bytes;

use super::bench::{Bench, Checked, Failure, applied, lost, same};
use super::brief::Brief;
use crate::record::{Claim, Claimed, OnCrash, Token};

pub(super) async fn absent(bench: Bench) -> Checked {
    let claim = bench.claim();
    let stranger = Token::random();
    bench
        .refuses("an unknown token", &claim.id, stranger)
        .await?;
    bench.is_free("after refused changes", &claim).await
}

pub(super) async fn stranger_while_running(bench: Bench) -> Checked {
    let claim = bench.claim();
    bench.acquire("the first claim", &claim, 1).await?;
    let stranger = Token::random();
    bench.refuses("another token", &claim.id, stranger).await?;
    bench.is_running("after refused changes", &claim, 1).await?;
    let outcome = Bytes::from_static(b"the owner's");
    let change = bench.a.complete(&claim, &outcome, bench.long()).await?;
    applied("the owner's completion", change)?;
    bench
        .is_finished("after the owner's completion", &claim, 1, &outcome)
        .await
}

pub(super) async fn stranger_after_crash(bench: Bench) -> Checked {
    let claim = bench.crashed().await?;
    let stranger = Token::random();
    bench.refuses("another token", &claim.id, stranger).await?;
    bench.is_crashed("after refused changes", &claim, 1).await
}

pub(super) async fn stranger_when_finished(bench: Bench) -> Checked {
    let outcome = Bytes::from_static(b"the owner's");
    let claim = bench.finished(&outcome).await?;
    let stranger = Token::random();
    bench.refuses("another token", &claim.id, stranger).await?;
    bench
        .is_finished("after refused changes", &claim, 1, &outcome)
        .await?;
    bench.pass().await;
    bench
        .is_finished("later, after refused changes", &claim, 1, &outcome)
        .await
}

pub(super) async fn finisher(bench: Bench) -> Checked {
    let outcome = Bytes::from_static(b"final");
    let claim = bench.finished(&outcome).await?;
    for handle in [&bench.a, &bench.b] {
        let renewed = handle.renew(&claim, bench.short(), bench.short()).await?;
        lost("a renewal by the finishing token", renewed)?;
        lost(
            "an abandonment by the finishing token",
            handle.abandon(&claim).await?,
        )?;
        lost(
            "a release by the finishing token",
            handle.release(&claim).await?,
        )?;
        bench
            .is_finished("after refused changes", &claim, 1, &outcome)
            .await?;
    }
    bench.pass().await;
    bench
        .is_finished("later, after refused changes", &claim, 1, &outcome)
        .await
}

pub(super) async fn late_owner(bench: Bench) -> Checked {
    let [renews, completes, releases, abandons] = std::array::from_fn(|_| Claim {
        lease: bench.short(),
        ..bench.claim()
    });
    for claim in [&renews, &completes, &releases, &abandons] {
        bench.acquire("the first claim", claim, 1).await?;
    }
    bench.pass().await;

    let change = bench.a.renew(&renews, bench.long(), bench.long()).await?;
    applied("the late renewal", change)?;
    bench
        .is_running("after the late renewal", &renews, 1)
        .await?;

    let outcome = Bytes::from_static(b"late");
    let change = bench.a.complete(&completes, &outcome, bench.long()).await?;
    applied("the late completion", change)?;
    bench
        .is_finished("after the late completion", &completes, 1, &outcome)
        .await?;

    applied("the late release", bench.a.release(&releases).await?)?;
    bench.is_free("after the late release", &releases).await?;

    applied("the late abandonment", bench.a.abandon(&abandons).await?)?;
    bench
        .is_crashed("after the late abandonment", &abandons, 1)
        .await?;
    bench
        .refuses("the token that abandoned", &abandons.id, abandons.token)
        .await?;
    bench
        .is_crashed("after refused changes", &abandons, 1)
        .await
}

pub(super) async fn abandoned(bench: Bench) -> Checked {
    let claim = bench.claim();
    bench.acquire("the first claim", &claim, 1).await?;
    applied("the abandonment", bench.a.abandon(&claim).await?)?;
    bench
        .refuses("the token that abandoned", &claim.id, claim.token)
        .await?;
    bench
        .refuses("another token", &claim.id, Token::random())
        .await?;
    bench.is_crashed("after refused changes", &claim, 1).await?;
    let own = Claim {
        on_crash: OnCrash::Refuse,
        ..claim
    };
    same(
        "the abandoned claim again, to refuse",
        &bench.a.claim(&own).await?,
        &Claimed::OutcomeUnknown { attempt: 1 },
    )
}

/// A crashed attempt and the one that took it over.
async fn taken_over(bench: &Bench) -> Checked<(Claim, Claim)> {
    let paused = bench.crashed().await?;
    let successor = Claim {
        token: Token::random(),
        lease: bench.long(),
        ..paused
    };
    bench.acquire("the takeover", &successor, 2).await?;
    Ok((paused, successor))
}

pub(super) async fn paused_owner(bench: Bench) -> Checked {
    let (paused, successor) = taken_over(&bench).await?;
    bench
        .refuses("the paused owner", &paused.id, paused.token)
        .await?;
    let answer = bench.a.claim(&paused).await?;
    if !matches!(answer, Claimed::InFlight { .. }) {
        let answer = Brief(&answer);
        return Err(Failure::new(format!(
            "the paused owner's claim again: expected InFlight, got {answer}"
        )));
    }
    bench
        .is_running("after the paused owner woke", &successor, 2)
        .await?;
    let outcome = Bytes::from_static(b"the successor's");
    let change = bench.b.complete(&successor, &outcome, bench.long()).await?;
    applied("the successor's completion", change)?;
    bench
        .is_finished("after the successor's completion", &successor, 2, &outcome)
        .await
}

pub(super) async fn paused_owner_when_finished(bench: Bench) -> Checked {
    let (paused, successor) = taken_over(&bench).await?;
    let outcome = Bytes::from_static(b"the successor's");
    let change = bench.b.complete(&successor, &outcome, bench.long()).await?;
    applied("the successor's completion", change)?;
    bench
        .refuses("the paused owner", &paused.id, paused.token)
        .await?;
    bench
        .is_finished("after the paused owner woke", &successor, 2, &outcome)
        .await
}

pub(super) async fn paused_owner_when_released(bench: Bench) -> Checked {
    let (paused, successor) = taken_over(&bench).await?;
    applied(
        "the successor's release",
        bench.b.release(&successor).await?,
    )?;
    bench
        .refuses("the paused owner", &paused.id, paused.token)
        .await?;
    bench.is_free("after the paused owner woke", &paused).await
}

pub(super) async fn release_again(bench: Bench) -> Checked {
    let first = bench.claim();
    bench.acquire("the first claim", &first, 1).await?;
    applied("the release", bench.a.release(&first).await?)?;
    lost("the release again", bench.a.release(&first).await?)?;
    let next = Claim {
        token: Token::random(),
        ..first
    };
    bench.acquire("the next claim", &next, 1).await?;
    lost("the release again", bench.a.release(&first).await?)?;
    bench
        .refuses("the token that released", &first.id, first.token)
        .await?;
    bench.is_running("after refused changes", &next, 1).await
}

/// Where the store takes orders of operators.
pub(super) async fn revoked(bench: Bench) -> Checked {
    let claim = bench.claim();
    let steps = Bytes::from_static(b"a finished step");
    bench.acquire("the first claim", &claim, 1).await?;
    let change = bench.a.checkpoint(&claim, 0, &steps).await?;
    applied("the checkpoint", change)?;
    for another in [0, 2] {
        let Some(change) = bench.b.revoke(&claim.id, another).await? else {
            return Ok(());
        };
        lost("a revocation of another attempt", change)?;
    }
    bench.is_running("after them", &claim, 1).await?;
    let Some(change) = bench.b.revoke(&claim.id, 1).await? else {
        return Ok(());
    };
    applied("the revocation", change)?;
    bench.is_crashed("after it", &claim, 1).await?;
    bench.has_steps("after it", &claim, &steps).await?;
    bench
        .refuses("the owner's token", &claim.id, claim.token)
        .await?;
    let renewed = bench.a.renew_unbroken(&claim, 1).await?;
    lost("a renewal by the owner, whose lease is unbroken", renewed)?;
    if let Some(change) = bench.b.revoke(&claim.id, 1).await? {
        lost("the revocation again", change)?;
    }
    bench.is_crashed("after all of them", &claim, 1).await?;

    let outcome = Bytes::from_static(b"final");
    let finished = bench.finished(&outcome).await?;
    if let Some(change) = bench.b.revoke(&finished.id, 1).await? {
        lost("a revocation of a finished attempt", change)?;
    }
    bench.is_finished("after it", &finished, 1, &outcome).await
}
