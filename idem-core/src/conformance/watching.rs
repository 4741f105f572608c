//! Watches wake whoever waits for an attempt to end.

use bytes::Bytes;

use super::bench::{Bench, Checked, applied, in_time};

enum End {
    Completion,
    Release,
    Abandonment,
    Suspension,
}

async fn wakes(bench: &Bench, end: End) -> Checked {
    let claim = bench.claim();
    bench.acquire("the first claim", &claim, 1).await?;
    // From the process that makes the change and from the other one; two at a time, and not
    // polled before the change, which must not be missed for that.
    let watches = [
        bench.a.watch(&claim.id).await?,
        bench.b.watch(&claim.id).await?,
        bench.b.watch(&claim.id).await?,
    ];
    let change = match end {
        End::Completion => {
            let outcome = Bytes::from_static(b"done");
            bench.a.complete(&claim, &outcome, bench.long()).await?
        }
        End::Release => bench.a.release(&claim).await?,
        End::Abandonment => bench.a.abandon(&claim).await?,
        End::Suspension => bench.a.suspend(&claim).await?,
    };
    applied("the change", change)?;
    if bench.notifies {
        for watch in watches {
            in_time("a watch made before the change", watch).await?;
        }
    }
    Ok(())
}

pub(super) async fn completion(bench: Bench) -> Checked {
    wakes(&bench, End::Completion).await
}

pub(super) async fn release(bench: Bench) -> Checked {
    wakes(&bench, End::Release).await
}

pub(super) async fn abandonment(bench: Bench) -> Checked {
    wakes(&bench, End::Abandonment).await
}

pub(super) async fn suspension(bench: Bench) -> Checked {
    wakes(&bench, End::Suspension).await
}

pub(super) async fn dropped(bench: Bench) -> Checked {
    let claim = bench.claim();
    // Of a record that is not there, too.
    drop(bench.b.watch(&claim.id).await?);
    bench.is_absent("after a watch", &claim).await?;
    bench.acquire("the first claim", &claim, 1).await?;
    drop(bench.b.watch(&claim.id).await?);
    bench.is_running("after a watch", &claim, 1).await?;
    let kept = bench.b.watch(&claim.id).await?;
    drop(bench.b.watch(&claim.id).await?);
    applied("the release", bench.a.release(&claim).await?)?;
    if bench.notifies {
        in_time("a watch beside one that was dropped", kept).await?;
    }
    bench.is_free("after watches were dropped", &claim).await
}
