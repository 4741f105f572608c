//! Ids, fingerprints and tokens are compared whole.

use bytes::Bytes;

use super::bench::{Bench, Checked, applied, lost, same};
use crate::fingerprint::Fingerprint;
use crate::record::{Claim, Claimed, RecordId, Token};

/// Every value that differs from `bytes` in one bit.
fn neighbours<const N: usize>(bytes: [u8; N]) -> impl Iterator<Item = [u8; N]> + Send {
    (0..N * 8).map(move |bit| {
        let mut neighbour = bytes;
        neighbour[bit / 8] ^= 1 << (bit % 8);
        neighbour
    })
}

pub(super) async fn ids(bench: Bench) -> Checked {
    let outcome = Bytes::from_static(b"done");
    let claim = bench.finished(&outcome).await?;
    let mut others = Vec::new();
    for id in neighbours(*claim.id.as_bytes()) {
        let other = Claim {
            id: RecordId::from_bytes(id),
            ..bench.claim()
        };
        bench
            .acquire("a claim of an id that differs in one bit", &other, 1)
            .await?;
        others.push(other);
    }
    bench
        .is_finished("among neighbours", &claim, 1, &outcome)
        .await?;
    for other in &others {
        applied("a neighbour's release", bench.b.release(other).await?)?;
    }
    bench
        .is_finished("after the neighbours' release", &claim, 1, &outcome)
        .await
}

pub(super) async fn fingerprints(bench: Bench) -> Checked {
    let claim = bench.claim();
    bench.acquire("the first claim", &claim, 1).await?;
    for fingerprint in neighbours(claim.fingerprint.to_bytes()) {
        let other = Claim {
            token: Token::random(),
            fingerprint: Fingerprint::from_bytes(fingerprint),
            ..claim
        };
        let what = "a claim whose fingerprint differs in one bit";
        same(what, &bench.a.claim(&other).await?, &Claimed::Mismatch)?;
    }
    bench.is_running("after mismatches", &claim, 1).await
}

pub(super) async fn tokens(bench: Bench) -> Checked {
    let claim = bench.claim();
    bench.acquire("the first claim", &claim, 1).await?;
    for token in neighbours(*claim.token.as_bytes()) {
        let other = Claim {
            token: Token::from_bytes(token),
            ..claim
        };
        let renewed = bench.a.renew(&other, bench.short(), bench.short()).await?;
        lost("a renewal by a token that differs in one bit", renewed)?;
    }
    bench.is_running("after refused renewals", &claim, 1).await
}
