//! Races, and calls whose answer is lost.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Barrier;
use tokio::task::{JoinSet, yield_now};

use super::bench::{Bench, Checked, Failure, acquired, applied, gather, replayed, same};
use super::brief::Brief;
use crate::record::{Change, Claim, Claimed, OnCrash, Token};

/// How many calls meet.
const CROWD: usize = 64;

/// On how many records, one after the other.
const ROUNDS: usize = 16;

/// Sends all claims at once, every second one through the second handle.
async fn at_once(bench: &Bench, claims: Vec<Claim>) -> Checked<Vec<Claimed>> {
    let barrier = Arc::new(Barrier::new(claims.len()));
    gather(spawn(bench, claims, &barrier)).await
}

/// Claims that start when all of `barrier` are there.
fn spawn(bench: &Bench, claims: Vec<Claim>, barrier: &Arc<Barrier>) -> JoinSet<Checked<Claimed>> {
    let mut calls = JoinSet::new();
    for (place, claim) in claims.into_iter().enumerate() {
        let handle = if place % 2 == 0 { &bench.a } else { &bench.b };
        let (handle, barrier) = (handle.clone(), Arc::clone(barrier));
        calls.spawn(async move {
            barrier.wait().await;
            handle.claim(&claim).await
        });
    }
    calls
}

/// Claims like `claim`, each with a token of its own.
fn crowd(claim: &Claim) -> Vec<Claim> {
    let another = || Claim {
        token: Token::random(),
        ..*claim
    };
    std::iter::repeat_with(another).take(CROWD).collect()
}

fn winners(answers: &[Claimed]) -> usize {
    let acquired = |answer: &&Claimed| matches!(answer, Claimed::Acquired { .. });
    answers.iter().filter(acquired).count()
}

/// The one that acquired `attempt`; all others are in flight.
fn only_winner(answers: &[Claimed], attempt: u32) -> Checked {
    same(
        &format!("of {CROWD} claims at once, those that acquired"),
        &winners(answers),
        &1,
    )?;
    for answer in answers {
        match answer {
            Claimed::InFlight { .. } => {}
            winner => acquired("the one that acquired", winner, attempt)?,
        }
    }
    Ok(())
}

/// Which of the claims holds the record: it alone recognises itself.
async fn holder(bench: &Bench, claims: &[Claim], attempt: u32) -> Checked<Claim> {
    let mut holders = Vec::new();
    for claim in claims {
        match bench.a.claim(claim).await? {
            Claimed::Acquired {
                attempt: number, ..
            } if number == attempt => holders.push(*claim),
            Claimed::InFlight { .. } => {}
            answer => {
                let answer = Brief(&answer);
                return Err(Failure::new(format!("a claim sent again: got {answer}")));
            }
        }
    }
    match holders[..] {
        [holder] => Ok(holder),
        _ => Err(Failure::new(format!(
            "{} tokens hold one record",
            holders.len()
        ))),
    }
}

pub(super) async fn one_acquires(bench: Bench) -> Checked {
    for _ in 0..ROUNDS {
        let claims = crowd(&bench.claim());
        let answers = at_once(&bench, claims.clone()).await?;
        only_winner(&answers, 1)?;
        let winner = holder(&bench, &claims, 1).await?;
        let outcome = Bytes::from_static(b"the winner's");
        let change = bench.a.complete(&winner, &outcome, bench.long()).await?;
        applied("the winner's completion", change)?;
    }
    Ok(())
}

pub(super) async fn one_takes_over(bench: Bench) -> Checked {
    for first in crashed(&bench).await? {
        let claims = crowd(&Claim {
            lease: bench.long(),
            ..first
        });
        let answers = at_once(&bench, claims.clone()).await?;
        only_winner(&answers, 2)?;
        let winner = holder(&bench, &claims, 2).await?;
        bench.is_running("after the takeover", &winner, 2).await?;
    }
    Ok(())
}

pub(super) async fn one_follows(bench: Bench) -> Checked {
    let outcome = Bytes::from_static(b"the old one's");
    let mut expiring = Vec::new();
    for _ in 0..ROUNDS {
        let claim = bench.claim();
        bench.acquire("the first claim", &claim, 1).await?;
        let change = bench.a.complete(&claim, &outcome, bench.short()).await?;
        applied("the completion", change)?;
        expiring.push(claim);
    }
    bench.pass().await;
    for old in expiring {
        let claims = crowd(&old);
        let answers = at_once(&bench, claims.clone()).await?;
        only_winner(&answers, 1)?;
        let winner = holder(&bench, &claims, 1).await?;
        bench.is_running("after the race", &winner, 1).await?;
    }
    Ok(())
}

pub(super) async fn none_takes_over(bench: Bench) -> Checked {
    let first = bench.crashed().await?;
    let claims = crowd(&Claim {
        on_crash: OnCrash::Refuse,
        ..first
    });
    for answer in at_once(&bench, claims).await? {
        same(
            "a claim to refuse",
            &answer,
            &Claimed::OutcomeUnknown { attempt: 1 },
        )?;
    }
    bench.is_crashed("after claims to refuse", &first, 1).await
}

pub(super) async fn completion(bench: Bench) -> Checked {
    for _ in 0..ROUNDS {
        let claim = bench.claim();
        bench.acquire("the first claim", &claim, 1).await?;
        let outcome: Bytes = (0..64).map(|_| rand::random::<u8>()).collect();
        let barrier = Arc::new(Barrier::new(CROWD + 1));
        let claims = spawn(&bench, crowd(&claim), &barrier);
        let completion = async {
            barrier.wait().await;
            bench.b.complete(&claim, &outcome, bench.long()).await
        };
        let (change, answers) = tokio::join!(completion, gather(claims));
        applied("the completion", change?)?;
        for answer in answers? {
            match answer {
                Claimed::InFlight { .. } => {}
                answer => replayed("a claim in the race", &answer, &outcome)?,
            }
        }
        bench
            .is_finished("after the race", &claim, 1, &outcome)
            .await?;
    }
    Ok(())
}

pub(super) async fn release(bench: Bench) -> Checked {
    for _ in 0..ROUNDS {
        let claim = bench.claim();
        bench.acquire("the first claim", &claim, 1).await?;
        let barrier = Arc::new(Barrier::new(CROWD + 1));
        let claims = crowd(&claim);
        let racing = spawn(&bench, claims.clone(), &barrier);
        let release = async {
            barrier.wait().await;
            bench.a.release(&claim).await
        };
        let (change, answers) = tokio::join!(release, gather(racing));
        applied("the release", change?)?;
        let answers = answers?;
        if winners(&answers) == 0 {
            bench
                .is_free("after a race that the release ended", &claim)
                .await?;
        } else {
            only_winner(&answers, 1)?;
            let winner = holder(&bench, &claims, 1).await?;
            bench.is_running("after the race", &winner, 1).await?;
        }
    }
    Ok(())
}

/// Records whose first attempt crashed, as many as there are rounds.
async fn crashed(bench: &Bench) -> Checked<Vec<Claim>> {
    let mut crashed = Vec::new();
    for _ in 0..ROUNDS {
        let claim = Claim {
            lease: bench.short(),
            ..bench.claim()
        };
        bench.acquire("the first claim", &claim, 1).await?;
        crashed.push(claim);
    }
    bench.pass().await;
    Ok(crashed)
}

#[derive(Clone, Copy, Debug)]
enum Late {
    Renewal,
    Completion,
    Release,
    Abandonment,
}

pub(super) async fn owner_and_successor(bench: Bench) -> Checked {
    let outcome = Bytes::from_static(b"the first attempt's");
    let crashed = crashed(&bench).await?;
    let changes = [
        Late::Renewal,
        Late::Completion,
        Late::Release,
        Late::Abandonment,
    ];
    for (first, late) in crashed.into_iter().zip(changes.into_iter().cycle()) {
        let successor = Claim {
            token: Token::random(),
            lease: bench.long(),
            ..first
        };
        let barrier = Arc::new(Barrier::new(2));
        let takeover = spawn(&bench, vec![successor], &barrier);
        let change = async {
            barrier.wait().await;
            match late {
                Late::Renewal => bench.b.renew(&first, bench.long(), bench.long()).await,
                Late::Completion => bench.b.complete(&first, &outcome, bench.long()).await,
                Late::Release => bench.b.release(&first).await,
                Late::Abandonment => bench.b.abandon(&first).await,
            }
        };
        let (change, answers) = tokio::join!(change, gather(takeover));
        let (change, answers) = (change?, answers?);
        let what = format!("a takeover beside a late {late:?} that was {change:?}");
        for answer in answers {
            match (change, late) {
                (Change::Applied, Late::Renewal) => {
                    if !matches!(answer, Claimed::InFlight { .. }) {
                        let answer = Brief(&answer);
                        return Err(Failure::new(format!("{what}: got {answer}")));
                    }
                    bench.is_running(&what, &first, 1).await?;
                }
                (Change::Applied, Late::Completion) => {
                    replayed(&what, &answer, &outcome)?;
                    bench.is_finished(&what, &first, 1, &outcome).await?;
                }
                (Change::Applied, Late::Release) => {
                    acquired(&what, &answer, 1)?;
                    bench.is_running(&what, &successor, 1).await?;
                }
                (Change::Applied, Late::Abandonment) | (Change::LeaseLost, _) => {
                    acquired(&what, &answer, 2)?;
                    bench.is_running(&what, &successor, 2).await?;
                }
            }
        }
    }
    Ok(())
}

pub(super) async fn same_claim(bench: Bench) -> Checked {
    for _ in 0..ROUNDS {
        let claim = bench.claim();
        for answer in at_once(&bench, vec![claim; CROWD]).await? {
            acquired("the same claim, sent many times at once", &answer, 1)?;
        }
        bench.is_running("after the same claims", &claim, 1).await?;
    }
    Ok(())
}

/// Polls a call a few times and drops it, as a caller that went away does.
async fn cut_off<T>(polls: usize, call: impl Future<Output = T>) {
    let gone = async {
        for _ in 0..polls {
            yield_now().await;
        }
    };
    tokio::select! {
        biased;
        _ = call => {}
        () = gone => {}
    }
}

pub(super) async fn dropped_calls(bench: Bench) -> Checked {
    let outcome = Bytes::from_static(b"done");
    for polls in 0..8 {
        let claim = bench.claim();
        cut_off(polls, bench.a.claim(&claim)).await;
        bench
            .acquire("a claim that was dropped, again", &claim, 1)
            .await?;
        bench.is_running("after a dropped claim", &claim, 1).await?;

        let renewal = bench.a.renew(&claim, bench.long(), bench.long());
        cut_off(polls, renewal).await;
        bench
            .is_running("after a dropped renewal", &claim, 1)
            .await?;

        let completion = bench.a.complete(&claim, &outcome, bench.long());
        cut_off(polls, completion).await;
        let change = bench.a.complete(&claim, &outcome, bench.long()).await?;
        applied("a completion that was dropped, again", change)?;
        bench
            .is_finished("after a dropped completion", &claim, 1, &outcome)
            .await?;

        let claim = bench.claim();
        bench.acquire("the first claim", &claim, 1).await?;
        cut_off(polls, bench.a.release(&claim)).await;
        // Lost, when the dropped one had its effect.
        let _: Change = bench.a.release(&claim).await?;
        bench.is_free("after a dropped release", &claim).await?;
    }
    Ok(())
}
