//! Outcomes are bytes. They come back as they went in.

use bytes::Bytes;

use super::bench::{Bench, Checked, applied};
use crate::record::{Claim, Token};

async fn is_kept(bench: &Bench, outcome: Bytes) -> Checked {
    let claim = bench.finished(&outcome).await?;
    bench
        .is_finished("after the completion", &claim, 1, &outcome)
        .await?;
    bench.pass().await;
    bench.is_finished("later", &claim, 1, &outcome).await
}

pub(super) async fn empty(bench: Bench) -> Checked {
    is_kept(&bench, Bytes::new()).await
}

pub(super) async fn every_byte(bench: Bench) -> Checked {
    is_kept(&bench, (u8::MIN..=u8::MAX).collect()).await
}

pub(super) async fn large(bench: Bench) -> Checked {
    // Of 251, a prime, so that a lost or doubled block shows.
    let length = bench.a.at_most(1 << 20);
    is_kept(
        &bench,
        (0..length).map(|place| (place % 251) as u8).collect(),
    )
    .await
}

pub(super) async fn lookalikes(bench: Bench) -> Checked {
    let lookalikes: [&[u8]; 14] = [
        b"null",
        b"0",
        b"false",
        b"{}",
        b"\"\"",
        b"\0",
        b"\0\0\0\0",
        b"\\x00",
        b" padded\r\n",
        b"%00%s{}$1",
        b"';--",
        "\u{feff}gr\u{fc}\u{df}e".as_bytes(),
        b"\xc3\x28\xff\xfe",
        b"running",
    ];
    let mut records = Vec::new();
    for outcome in lookalikes.map(Bytes::from_static) {
        let claim = bench.finished(&outcome).await?;
        records.push((claim, outcome));
    }
    for (claim, outcome) in &records {
        bench
            .is_finished("after the completion", claim, 1, outcome)
            .await?;
    }
    Ok(())
}

pub(super) async fn later_attempt(bench: Bench) -> Checked {
    let crashed = bench.crashed().await?;
    let successor = Claim {
        token: Token::random(),
        ..crashed
    };
    bench.acquire("the takeover", &successor, 2).await?;
    let outcome = Bytes::from_static(b"\0of the second attempt\xff");
    let change = bench.b.complete(&successor, &outcome, bench.long()).await?;
    applied("the completion", change)?;
    bench
        .is_finished("after the completion", &successor, 2, &outcome)
        .await
}
