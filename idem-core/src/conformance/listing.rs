//! What an operator finds: records by state and operation, page by page, and each by itself.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;

use super::bench::{Bench, Checked, Failure, applied, same};
use crate::listing::{Forgotten, Listed, Listing, RecordState};
use crate::record::{Claim, OperationName, RecordId};

/// A name of an operation that no other case uses.
fn own_operation() -> String {
    format!(
        "conformance.listing.{}",
        RecordId::from_bytes(rand::random())
    )
}

fn claim_of(bench: &Bench, operation: &str) -> Claim {
    bench.claim().operation(OperationName::new(operation))
}

/// The pages so far, and how often each record was on one.
struct Seen {
    /// The next page. `None` after the last.
    listing: Option<Listing>,
    records: HashMap<RecordId, (Listed, usize)>,
}

impl Seen {
    fn nothing(listing: Listing) -> Self {
        Self {
            listing: Some(listing),
            records: HashMap::new(),
        }
    }

    async fn all(bench: &Bench, listing: Listing) -> Checked<Self> {
        let mut seen = Self::nothing(listing);
        while seen.turn_page(bench).await? {}
        Ok(seen)
    }

    /// Whether there was another page.
    async fn turn_page(&mut self, bench: &Bench) -> Checked<bool> {
        let Some(listing) = self.listing.take() else {
            return Ok(false);
        };
        let page = bench.a.list(&listing).await?;
        if page.records.len() > listing.limit() {
            return Err(Failure::new(format!(
                "a page of at most {} records has {}",
                listing.limit(),
                page.records.len()
            )));
        }
        for listed in page.records {
            let entry = self.records.entry(listed.id).or_insert((listed, 0));
            entry.1 += 1;
        }
        self.listing = page.next.map(|next| listing.after(next));
        Ok(true)
    }

    fn each_once(&self, bench: &Bench, claims: &[Claim]) -> Checked {
        for claim in claims {
            match self.records.get(&claim.id) {
                Some((_, 1)) => {}
                Some(_) if !bench.lists_each_once => {}
                Some((_, times)) => {
                    return Err(Failure::new(format!("a record is listed {times} times")));
                }
                None => return Err(Failure::new("a record is not listed".to_owned())),
            }
        }
        Ok(())
    }
}

pub(super) async fn record_says(bench: Bench) -> Checked {
    let operation = own_operation();
    let claim = claim_of(&bench, &operation).lease(bench.short());
    bench.acquire("the first claim", &claim, 1).await?;
    let first = claimed_at(&bench, &claim).await?;
    bench.pass().await;
    let next = claim.by_another().lease(bench.long());
    bench.acquire("a takeover", &next, 2).await?;
    let second = claimed_at(&bench, &claim).await?;
    // At least a lease later. A store may round.
    let apart = second.duration_since(first).unwrap_or_default();
    if apart < bench.short() / 2 || apart > bench.long() {
        return Err(Failure::new(format!(
            "a takeover was claimed {apart:?} after a first claim whose lease of {:?} was over",
            bench.short()
        )));
    }
    let outcome = Bytes::from_static(b"done");
    let change = bench.a.complete(&next, &outcome, bench.long()).await?;
    applied("the completion", change)?;
    let third = claimed_at(&bench, &claim).await?;
    let apart = third.max(second).duration_since(third.min(second));
    if apart.unwrap_or_default() > Duration::from_millis(100) {
        return Err(Failure::new(
            "a completion moves the time of the claim".to_owned(),
        ));
    }
    Ok(())
}

/// When the record says that it was claimed. It names its operation, too.
async fn claimed_at(bench: &Bench, claim: &Claim) -> Checked<std::time::SystemTime> {
    let mut times = Vec::new();
    for handle in [&bench.a, &bench.b] {
        let seen = handle.inspect(&claim.id).await?;
        let Some(seen) = seen.filter(|seen| seen.operation == claim.operation) else {
            return Err(Failure::new(format!(
                "the record does not say that its operation is {:?}",
                claim.operation
            )));
        };
        times.extend(seen.claimed_at);
    }
    match times[..] {
        [one, _] => Ok(one),
        _ => Err(Failure::new(
            "the record does not say when it was claimed".to_owned(),
        )),
    }
}

pub(super) async fn long_name(bench: Bench) -> Checked {
    let name = format!("x::{}é{}", "p".repeat(60), own_operation());
    let claim = claim_of(&bench, &name);
    bench.acquire("the first claim", &claim, 1).await?;
    let seen = Seen::all(&bench, Listing::new(10).of_operation(&name)).await?;
    same("records of a long name", &seen.records.len(), &1)?;
    claimed_at(&bench, &claim).await?;
    Ok(())
}

pub(super) async fn states(bench: Bench) -> Checked {
    let operation = own_operation();
    let outcome = Bytes::from_static(b"done");
    let running = claim_of(&bench, &operation);
    bench.acquire("the first claim", &running, 1).await?;
    let crashed = claim_of(&bench, &operation).lease(bench.short());
    bench.acquire("the first claim", &crashed, 1).await?;
    let abandoned = claim_of(&bench, &operation);
    bench.acquire("the first claim", &abandoned, 1).await?;
    applied("the abandonment", bench.a.abandon(&abandoned).await?)?;
    let suspended = claim_of(&bench, &operation);
    bench.acquire("the first claim", &suspended, 1).await?;
    let change = bench.a.checkpoint(&suspended, 0, &outcome).await?;
    applied("the checkpoint", change)?;
    applied("the suspension", bench.a.suspend(&suspended).await?)?;
    let finished = claim_of(&bench, &operation);
    bench.acquire("the first claim", &finished, 1).await?;
    let change = bench.a.complete(&finished, &outcome, bench.long()).await?;
    applied("the completion", change)?;
    let gone = claim_of(&bench, &operation);
    bench.acquire("the first claim", &gone, 1).await?;
    applied("the release", bench.a.release(&gone).await?)?;
    let expired = claim_of(&bench, &operation);
    bench.acquire("the first claim", &expired, 1).await?;
    let change = bench.a.complete(&expired, &outcome, bench.short()).await?;
    applied("the completion", change)?;
    bench.pass().await;

    let records = [
        (running, RecordState::Running, 0),
        (crashed, RecordState::Crashed, 0),
        (abandoned, RecordState::Crashed, 0),
        (suspended, RecordState::Suspended, 4),
        (finished, RecordState::Finished, 4),
    ];
    let everything = Listing::new(2).of_operation(&operation);
    for asked in std::iter::once(None).chain(RecordState::ALL.map(Some)) {
        let listing = match asked {
            Some(state) => everything.clone().in_state(state),
            None => everything.clone(),
        };
        let seen = Seen::all(&bench, listing).await?.records;
        let expected = records
            .iter()
            .filter(|(_, state, _)| asked.is_none_or(|asked| asked == *state));
        same(
            &format!("the number of records in state {asked:?}"),
            &seen.len(),
            &expected.clone().count(),
        )?;
        for (claim, state, bytes) in expected {
            let Some((listed, _)) = seen.get(&claim.id) else {
                return Err(Failure::new(format!("a {state} record is not listed")));
            };
            let is_told = listed.state == *state
                && listed.attempt == 1
                && listed.operation == claim.operation
                && listed.claimed_at.is_some()
                && listed.lease_left.is_some() == (*state == RecordState::Running)
                && listed.kept_for > bench.short()
                && listed.bytes == *bytes;
            if !is_told {
                return Err(Failure::new(format!(
                    "a {state} record is listed as {listed:?}"
                )));
            }
        }
    }
    Ok(())
}

pub(super) async fn pages(bench: Bench) -> Checked {
    let operation = own_operation();
    let mut claims = Vec::new();
    for _ in 0..23 {
        let claim = claim_of(&bench, &operation);
        bench.acquire("the first claim", &claim, 1).await?;
        claims.push(claim);
    }
    // Another operation's are not among them.
    let other = claim_of(&bench, &own_operation());
    bench.acquire("the first claim", &other, 1).await?;
    for limit in [1, 7, 23, Listing::MAX_LIMIT] {
        let seen = Seen::all(&bench, Listing::new(limit).of_operation(&operation)).await?;
        let number = seen.records.len();
        same("the number of listed records", &number, &claims.len())?;
        seen.each_once(&bench, &claims)?;
    }
    Ok(())
}

pub(super) async fn concurrent(bench: Bench) -> Checked {
    let operation = own_operation();
    let mut standing = Vec::new();
    let mut going = Vec::new();
    for place in 0..24 {
        let claim = claim_of(&bench, &operation);
        bench.acquire("the first claim", &claim, 1).await?;
        match place % 2 {
            0 => standing.push(claim),
            _ => going.push(claim),
        }
    }
    let listing = Listing::new(3).of_operation(&operation);
    let outcome = Bytes::from_static(b"done");
    let mut changed = standing.iter();
    let mut seen = Seen::nothing(listing);
    while seen.turn_page(&bench).await? {
        // One goes, one comes, and one that stands changes.
        if let Some(claim) = going.pop() {
            applied("a release", bench.b.release(&claim).await?)?;
            let comes = claim_of(&bench, &operation);
            bench.acquire("a claim meanwhile", &comes, 1).await?;
        }
        if let Some(claim) = changed.next() {
            let change = bench.b.complete(claim, &outcome, bench.long()).await?;
            applied("a completion", change)?;
        }
    }
    seen.each_once(&bench, &standing)
}

pub(super) async fn forgets(bench: Bench) -> Checked {
    let outcome = Bytes::from_static(b"done");
    let finished = bench.finished(&outcome).await?;
    let crashed = bench.crashed().await?;
    let suspended = bench.claim();
    bench.acquire("the first claim", &suspended, 1).await?;
    let change = bench.a.checkpoint(&suspended, 0, &outcome).await?;
    applied("the checkpoint", change)?;
    applied("the suspension", bench.a.suspend(&suspended).await?)?;
    for claim in [finished, crashed, suspended] {
        let forgotten = bench.b.forget(&claim.id).await?;
        same("the first time", &forgotten, &Forgotten::Removed)?;
        let forgotten = bench.a.forget(&claim.id).await?;
        same("the second time", &forgotten, &Forgotten::Absent)?;
        bench
            .refuses("a token of before", &claim.id, claim.token)
            .await?;
        bench.is_free("after it was forgotten", &claim).await?;
    }
    Ok(())
}

pub(super) async fn forgets_nothing_alive(bench: Bench) -> Checked {
    let claim = bench.claim();
    bench.acquire("the first claim", &claim, 1).await?;
    match bench.b.forget(&claim.id).await? {
        Forgotten::Running { lease_left } if bench.plausible().contains(&lease_left) => {}
        other => {
            let expected = Forgotten::Running {
                lease_left: bench.long(),
            };
            return same("a record whose lease is alive", &other, &expected);
        }
    }
    bench.is_running("after it", &claim, 1).await
}
