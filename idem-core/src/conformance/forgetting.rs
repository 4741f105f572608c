//! An operator forgets the record that was looked at, and no other state or attempt of it.

use bytes::Bytes;

use super::bench::{Bench, Checked, applied, same};
use crate::listing::{Forgotten, RecordState, Seen};
use crate::record::{Claim, Token};

/// Where the store takes orders of operators.
pub(super) async fn as_seen(bench: Bench) -> Checked {
    let outcome = Bytes::from_static(b"done");
    let lapsed = bench.crashed().await?;
    let [abandoned, suspended, finished] = [
        in_progress(&bench, 1).await?,
        in_progress(&bench, 1).await?,
        in_progress(&bench, 3).await?,
    ];
    let running = Seen::new(3, RecordState::Running);
    match bench.b.forget_seen(&finished.id, running).await? {
        None => return Ok(()),
        Some(Forgotten::Running { lease_left }) if bench.plausible().contains(&lease_left) => {}
        Some(other) => {
            let expected = Forgotten::Running {
                lease_left: bench.long(),
            };
            return same("a record whose lease is alive", &other, &expected);
        }
    }
    bench.is_running("after it", &finished, 3).await?;
    applied("the abandonment", bench.a.abandon(&abandoned).await?)?;
    applied("the suspension", bench.a.suspend(&suspended).await?)?;
    let change = bench.a.complete(&finished, &outcome, bench.long()).await?;
    applied("the completion", change)?;
    for (claim, attempt, state) in [
        (lapsed, 1, RecordState::Crashed),
        (abandoned, 1, RecordState::Crashed),
        (suspended, 1, RecordState::Suspended),
        (finished, 3, RecordState::Finished),
    ] {
        let others = RecordState::ALL.into_iter().filter(|other| *other != state);
        let others = others.map(|other| Seen::new(attempt, other));
        // Some of them are written with as many digits or bytes, or with those of this one before or
        // behind others.
        let attempts = [0, attempt + 1, attempt + 10, attempt + 128, attempt << 7];
        let attempts = attempts.map(|another| Seen::new(another, state));
        for seen in others.chain(attempts) {
            let kept = bench.b.forget_seen(&claim.id, seen).await?;
            same("what was not seen", &kept, &Some(Forgotten::NotAsSeen))?;
        }
        let seen = Seen::new(attempt, state);
        let found = bench.a.inspect(&claim.id).await?;
        same("after them", &found.as_ref().map(Seen::of), &Some(seen))?;
        let forgotten = bench.b.forget_seen(&claim.id, seen).await?;
        same("as it was seen", &forgotten, &Some(Forgotten::Removed))?;
        let forgotten = bench.b.forget_seen(&claim.id, seen).await?;
        same("the second time", &forgotten, &Some(Forgotten::Absent))?;
        bench.is_free("after it was forgotten", &claim).await?;
    }
    Ok(())
}

/// An attempt with this number, which holds its lease.
async fn in_progress(bench: &Bench, attempt: u32) -> Checked<Claim> {
    let mut claim = bench.claim();
    bench.acquire("the first claim", &claim, 1).await?;
    for later in 2..=attempt {
        applied("an abandonment", bench.a.abandon(&claim).await?)?;
        claim.token = Token::random();
        bench.acquire("a later claim", &claim, later).await?;
    }
    Ok(claim)
}
