//! Records of every kind as they were stored before, whatever the store: what they are made of, how
//! they come to be, and what must be made of them. The bytes are literal. A test that fails here says
//! that records which are in use cannot be read any more, or that new ones cannot by the programs
//! that run beside this one.
//!
//! The store in memory and the engine's cache keep no bytes beyond their process.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::routing::post;
use axum::{Extension, Router};
use http_body_util::BodyExt;
use idem::axum::idempotent;
use idem::store::{Change, Claim, Claimed, Lease, Store, Token};
use idem::{Engine, Error, Fingerprint, OnCrash, Phase, RecordId};
use tower::ServiceExt;

const LEASE: Duration = Duration::from_secs(30);
const RETENTION: Duration = Duration::from_secs(3600);

/// A record that has an outcome.
#[derive(Clone, Copy)]
pub(crate) struct Finished {
    pub(crate) id: [u8; 32],
    pub(crate) fingerprint: [u8; 33],
    pub(crate) token: [u8; 16],
    pub(crate) attempt: u32,
    pub(crate) outcome: &'static [u8],
}

/// One of each kind of outcome, and of each fingerprint algorithm.
pub(crate) const FINISHED: [Finished; 9] = [
    of(1, 1, b"\x01V\"charged\""),
    of(2, 2, b"\x01F{\"declined\":51}"),
    of(
        3,
        1,
        b"\x01R\xc9\x01\x01\x0ccontent-type\ntext/plain\x07charged",
    ),
    of(4, 1, b"\x01G*\x09\x0a\x07charged"),
    of(5, 1, b"\x01TL"),
    of(6, 1, b"\x01TS"),
    of(7, 200, b"\x01TC"),
    BY_A_FUNCTION,
    BY_A_HANDLER,
];

/// Of [`run`], with its true identity.
const BY_A_FUNCTION: Finished = Finished {
    id: hex("640aa379b08a18cdc2e4864bc1480f0d981da2c08340f316e7c43382a65171e6"),
    fingerprint: hex("013defbd241a6121f7abafdd1db155fc2bf4de216bd630ffe34462529ad3b1e875"),
    token: [13; 16],
    attempt: 1,
    outcome: b"\x01V\"charged\"",
};

/// Of [`post_charge`], with its true identity.
const BY_A_HANDLER: Finished = Finished {
    id: hex("2712b07161e234779deaaebac4de9297b7fe2cb14fdbafa53f58f639ba98647b"),
    fingerprint: hex("02f28179a1ad0d2e598bf747cc079024ae03d7d0397d23cc79b15746c3c01dc0a6"),
    token: [14; 16],
    attempt: 1,
    outcome: b"\x01R\xc9\x01\x01\x0ccontent-type\x19text/plain; charset=utf-8\x09charged 5",
};

/// The other kinds of records, by their numbers.
pub(crate) const RUNNING: u8 = 8;
pub(crate) const WATCHED: u8 = 9;
/// Running, and its lease is over.
pub(crate) const CRASHED: u8 = 10;
pub(crate) const ABANDONED: u8 = 11;
/// Created again by its owner after the store had forgotten it.
pub(crate) const CREATED: u8 = 12;

/// Bytes from their hexadecimal digits.
const fn hex<const LEN: usize>(digits: &str) -> [u8; LEN] {
    const fn digit(digit: u8) -> u8 {
        match digit {
            b'0'..=b'9' => digit - b'0',
            _ => digit - b'a' + 10,
        }
    }
    assert!(digits.len() == 2 * LEN);
    let digits = digits.as_bytes();
    let mut bytes = [0; LEN];
    let mut at = 0;
    while at < LEN {
        bytes[at] = digit(digits[2 * at]) * 16 + digit(digits[2 * at + 1]);
        at += 1;
    }
    bytes
}

const fn of(number: u8, attempt: u32, outcome: &'static [u8]) -> Finished {
    Finished {
        id: [number; 32],
        fingerprint: fingerprint(number),
        token: [number; 16],
        attempt,
        outcome,
    }
}

/// Of each of the four algorithms in turn.
const fn fingerprint(number: u8) -> [u8; 33] {
    let mut fingerprint = [0xaa; 33];
    fingerprint[0] = (number - 1) % 4 + 1;
    fingerprint
}

fn claim(id: [u8; 32], fingerprint: [u8; 33], token: [u8; 16]) -> Claim {
    let id = RecordId::from_bytes(id);
    let fingerprint = Fingerprint::from_bytes(fingerprint);
    let mut claim = Claim::new(id, fingerprint, LEASE, RETENTION);
    claim.token = Token::from_bytes(token);
    claim
}

/// The claim that its owner has made.
pub(crate) fn claim_of(number: u8) -> Claim {
    claim([number; 32], fingerprint(number), [number; 16])
}

impl Finished {
    fn claim(&self) -> Claim {
        claim(self.id, self.fingerprint, self.token)
    }

    /// The same request, sent again.
    pub(crate) fn retry(&self) -> Claim {
        self.claim().by_another()
    }
}

/// Stores all of them, but for the crashed one, which differs from a running one in time alone.
pub(crate) async fn write_all(store: &dyn Store) {
    for record in FINISHED {
        let claim = record.claim();
        match record.attempt {
            1 => acquire(store, &claim, 1).await,
            2 => {
                let before = claim.by_another();
                acquire(store, &before, 1).await;
                applied(store.abandon(&before.id, &before.token).await);
                acquire(store, &claim, 2).await;
            }
            // The store has forgotten it.
            _ => {}
        }
        let lease = Lease::of(&claim, record.attempt);
        applied(store.complete(&lease, record.outcome.into()).await);
    }
    acquire(store, &claim_of(RUNNING), 1).await;
    let watched = claim_of(WATCHED);
    acquire(store, &watched, 1).await;
    drop(store.watch(&watched.id).await.unwrap());
    let abandoned = claim_of(ABANDONED);
    acquire(store, &abandoned, 1).await;
    applied(store.abandon(&abandoned.id, &abandoned.token).await);
    applied(store.renew(&Lease::of(&claim_of(CREATED), 3)).await);
}

async fn acquire(store: &dyn Store, claim: &Claim, attempt: u32) {
    let answer = store.claim(claim).await.unwrap();
    assert_eq!(answer, Claimed::acquired(attempt));
}

fn applied(change: Result<Change, idem::StoreError>) {
    assert_eq!(change.unwrap(), Change::Applied);
}

/// Reads, replays, ends and takes over all of them, the crashed one as well.
pub(crate) async fn read_all(store: impl Store + Clone) {
    for record in FINISHED {
        let claim = record.claim();
        replays(&store, &claim, record.outcome).await;
        let mut other = record.retry();
        let mut fingerprint = record.fingerprint;
        fingerprint[0] ^= 0x10;
        other.fingerprint = Fingerprint::from_bytes(fingerprint);
        assert_eq!(store.claim(&other).await.unwrap(), Claimed::Mismatch);
        let found = store.inspect(&claim.id).await.unwrap().unwrap();
        assert_eq!(found.attempt, record.attempt);
        assert_eq!(found.fingerprint, claim.fingerprint);
        let outcome = record.outcome.into();
        assert_eq!(found.phase, Phase::Finished { outcome });
        // The answer to its completion was lost.
        let lease = Lease::of(&claim, record.attempt);
        applied(store.complete(&lease, "another".into()).await);
        replays(&store, &claim, record.outcome).await;
    }

    for (number, attempt) in [(RUNNING, 1), (WATCHED, 1), (CREATED, 3)] {
        let claim = claim_of(number);
        let answer = store.claim(&claim.by_another()).await.unwrap();
        assert!(matches!(answer, Claimed::InFlight { .. }), "{answer:?}");
        acquire(&store, &claim, attempt).await;
        let lease = Lease::of(&claim, attempt);
        applied(store.renew(&lease).await);
        match number {
            RUNNING => {
                applied(store.complete(&lease, "done".into()).await);
                replays(&store, &claim, b"done").await;
            }
            WATCHED => {
                applied(store.release(&claim.id, &claim.token).await);
                acquire(&store, &claim.by_another(), 1).await;
            }
            _ => {
                applied(store.abandon(&claim.id, &claim.token).await);
                acquire(&store, &claim.by_another(), 4).await;
            }
        }
    }

    for number in [CRASHED, ABANDONED] {
        let retry = claim_of(number).by_another();
        let refused = store.claim(&retry.on_crash(OnCrash::Refuse)).await;
        assert_eq!(refused.unwrap(), Claimed::OutcomeUnknown { attempt: 1 });
        acquire(&store, &retry, 2).await;
        let late = claim_of(number);
        let lost = store.renew(&Lease::of(&late, 1)).await.unwrap();
        assert_eq!(lost, Change::LeaseLost);
        applied(store.complete(&Lease::of(&retry, 2), "done".into()).await);
        replays(&store, &retry, b"done").await;
    }

    let engine = Engine::new(store.clone());
    let value = run(&engine, || panic!("it has run before")).await;
    assert_eq!(value.unwrap(), "charged");
    let (status, is_replay, body) = post_charge(&engine).await;
    assert_eq!(status, StatusCode::CREATED);
    assert!(is_replay);
    assert_eq!(body, "charged 5");
}

async fn replays(store: &dyn Store, claim: &Claim, outcome: &'static [u8]) {
    let expected = Claimed::Finished {
        outcome: outcome.into(),
        retention_left: None,
        claimed_at: None,
    };
    // A store may say what is left without being asked, and when it was claimed.
    let mut answer = store.claim(&claim.by_another()).await.unwrap();
    if let Claimed::Finished {
        retention_left,
        claimed_at,
        ..
    } = &mut answer
    {
        *retention_left = None;
        *claimed_at = None;
    }
    assert_eq!(answer, expected);
}

/// What the records of a function and a handler are: their identity, their fingerprint and their
/// outcome are today's.
pub(crate) async fn identities_are_those_of_before(store: impl Store + Clone) {
    let engine = Engine::new(store.clone());
    let value = run(&engine, || "charged".to_owned()).await;
    assert_eq!(value.unwrap(), "charged");
    let (status, is_replay, body) = post_charge(&engine).await;
    assert_eq!((status, is_replay), (StatusCode::CREATED, false));
    assert_eq!(body, "charged 5");
    for record in [BY_A_FUNCTION, BY_A_HANDLER] {
        let found = store.inspect(&record.claim().id).await.unwrap().unwrap();
        assert_eq!(found.fingerprint.to_bytes(), record.fingerprint);
        let outcome = record.outcome.into();
        assert_eq!(found.phase, Phase::Finished { outcome });
    }
}

async fn run(engine: &Engine, body: impl FnOnce() -> String) -> Result<String, Error> {
    let fingerprint = Fingerprint::of(&("EUR", 5_u32))?;
    let operation = engine.operation("stored.function").scope("tenant 7");
    operation
        .run("order-1", fingerprint, async { Ok(body()) })
        .await
}

#[idempotent(key = header("Idempotency-Key"), ttl = "1h", name = "stored.handler")]
async fn charge(amount: String) -> (StatusCode, String) {
    (StatusCode::CREATED, format!("charged {amount}"))
}

async fn post_charge(engine: &Engine) -> (StatusCode, bool, String) {
    let router = Router::new()
        .route("/charges", post(charge))
        .layer(Extension(engine.clone()));
    let request = Request::post("/charges?currency=eur")
        .header("host", "shop.example.com")
        .header("authorization", "Bearer a")
        .header("content-type", "text/plain")
        .header("idempotency-key", "\"order-1\"")
        .body(Body::from("5"))
        .unwrap();
    let response = router.oneshot(request).await.unwrap();
    let status = response.status();
    let is_replay = response.headers().contains_key("idempotent-replayed");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, is_replay, String::from_utf8(body.to_vec()).unwrap())
}
