//! Records of every kind, as they were stored before. Those of version 1 are in `older`.

use idem::RecordId;
use idem_tests::{Console, Redis, Reply};

use crate::conformance::key_of;
use crate::patience::{PATIENCE, connect};
use crate::records::{self, ABANDONED, CRASHED, CREATED, FINISHED, RUNNING, WATCHED};

/// The keys and values of finished records, in the order of [`FINISHED`].
const FINISHED_RECORDS: [(&str, &[u8]); 9] = [
    (
        "idem:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE",
        b"f\x00\x00\x00\x00\x00\x01\x01\x01\x01\x00\x00\x01\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\x01\x00\x01V\"charged\"\xd2\x0e\xbf_",
    ),
    (
        "idem:AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI",
        b"f\x00\x00\x00\x00\x00\x02\x02\x02\x02\x00\x00\x02\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\x02\x00\x01F{\"declined\":51}X\xec\x0eu",
    ),
    (
        "idem:AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM",
        b"f\x00\x00\x00\x00\x00\x03\x03\x03\x03\x00\x00\x03\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\x01\x00\x01R\xc9\x01\x01\x0ccontent-type\ntext/plain\x07charged\xb3\xc2\xb5*",
    ),
    (
        "idem:BAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQ",
        b"f\x00\x00\x00\x00\x00\x04\x04\x04\x04\x00\x00\x04\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\x01\x00\x01G*\t\n\x07charged\xef\xa0\x19A",
    ),
    (
        "idem:BQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU",
        b"f\x00\x00\x00\x00\x00\x05\x05\x05\x05\x00\x00\x01\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\x01\x00\x01TL\x1f\xa8\x8bF",
    ),
    (
        "idem:BgYGBgYGBgYGBgYGBgYGBgYGBgYGBgYGBgYGBgYGBgY",
        b"f\x00\x00\x00\x00\x00\x06\x06\x06\x06\x00\x00\x02\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\x01\x00\x01TS\xb3v\xe9\xae",
    ),
    (
        "idem:BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc",
        b"f\x00\x00\x00\x00\x00\x07\x07\x07\x07\x00\x00\x03\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xc8\x01\x00\x01TC\xbb\x1a\x15\x06",
    ),
    (
        "idem:ZAqjebCKGM3C5IZLwUgPDZgdosCDQPMW58QzgqZRceY",
        b"f\x00\x00\x00\x00\x00\r\r\r\r\x00\x00\x01=\xef\xbd$\x1aa!\xf7\xab\xaf\xdd\x1d\xb1U\xfc+\xf4\xde!k\xd60\xff\xe3DbR\x9a\xd3\xb1\xe8u\x01\x00\x01V\"charged\"\xb7*.\xe9",
    ),
    (
        "idem:JxKwcWHiNHed6q66xN6Sl7f-LLFP26-lP1j2ObqYZHs",
        b"f\x00\x00\x00\x00\x00\x0e\x0e\x0e\x0e\x00\x00\x02\xf2\x81y\xa1\xad\r.Y\x8b\xf7G\xcc\x07\x90$\xae\x03\xd7\xd09}#\xccy\xb1WF\xc3\xc0\x1d\xc0\xa6\x01\x00\x01R\xc9\x01\x01\x0ccontent-type\x19text/plain; charset=utf-8\tcharged 5\t\xd0'F",
    ),
];

/// The numbers, keys and values of the others.
const OTHERS: [(u8, &str, &str); 5] = [
    (
        RUNNING,
        "idem:CAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg",
        "r-CAgICAgICAgICAgICAgICABKqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq0000000001000000003000000000036000000000000000000de0d6dc2",
    ),
    (
        WATCHED,
        "idem:CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk",
        "rwCQkJCQkJCQkJCQkJCQkJCQAaqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq00000000010000000030000000000360000000000000000004bafddf8",
    ),
    (
        CREATED,
        "idem:DAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAw",
        "rcDAwMDAwMDAwMDAwMDAwMDABKqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq00000000030000000030000000000360000000000000000009dfe50d1",
    ),
    (
        ABANDONED,
        "idem:CwsLCwsLCwsLCwsLCwsLCwsLCwsLCwsLCwsLCwsLCws",
        "a-----------------------A6qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq00000000010000000030000000000360000000000000000002bd506cf",
    ),
    (
        CRASHED,
        "idem:CgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgo",
        "r-CgoKCgoKCgoKCgoKCgoKCgAqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq000000000100000000300000000003600000000000000000005a8268a",
    ),
];

const HOUR: u64 = 3_600_000;

fn put(console: &mut Console, key: &str, record: &[u8], millis: u64) -> Reply {
    let millis = millis.to_string();
    let words: [&[u8]; 5] = [b"SET", key.as_bytes(), record, b"PX", millis.as_bytes()];
    console.call(&words)
}

/// Stores all of them.
fn put_all(console: &mut Console) {
    for (key, record) in FINISHED_RECORDS {
        put(console, key, record, HOUR);
    }
    for (number, key, record) in OTHERS {
        // What is left of a lease is what is left of the record, less the retention.
        let lease = match number {
            ABANDONED | CRASHED => 0,
            _ => 30_000,
        };
        put(console, key, record.as_bytes(), HOUR + lease);
    }
}

#[tokio::test]
async fn records_of_every_kind_are_read_replayed_ended_and_taken_over() {
    let redis = Redis::start();
    put_all(&mut redis.console());
    let store = connect(&redis.url(), PATIENCE).await;
    records::read_all(store).await;
}

/// The same without the time of the claim, which was not known before, and the seal, which covers it.
fn without_claim_time(record: &[u8]) -> Vec<u8> {
    let mut record = record.to_vec();
    match record[0] {
        b'f' => record[1..6].fill(0),
        _ => {
            record[104..117].fill(b'0');
            record[117..125].fill(b'-');
        }
    }
    record
}

#[tokio::test]
async fn what_is_written_is_what_was_written_before() {
    let redis = Redis::start();
    let store = connect(&redis.url(), PATIENCE).await;
    records::write_all(&store).await;
    let mut console = redis.console();
    let mut get = |key: &str| match console.call(&["GET", key]) {
        Reply::Bulk(record) => record,
        other => panic!("{key}: {other:?}"),
    };
    for (record, (key, bytes)) in FINISHED.iter().zip(FINISHED_RECORDS) {
        assert_eq!(key_of(&RecordId::from_bytes(record.id)), key.as_bytes());
        let found = get(key);
        assert_eq!(
            without_claim_time(&found).escape_ascii().to_string(),
            without_claim_time(bytes).escape_ascii().to_string()
        );
    }
    for (number, key, record) in OTHERS {
        assert_eq!(key_of(&RecordId::from_bytes([number; 32])), key.as_bytes());
        if number != CRASHED {
            let (found, record) = (get(key), record.as_bytes());
            assert_eq!(
                without_claim_time(&found).escape_ascii().to_string(),
                without_claim_time(record).escape_ascii().to_string()
            );
        }
    }
}

#[tokio::test]
async fn calls_are_identified_as_before() {
    let redis = Redis::start();
    let store = connect(&redis.url(), PATIENCE).await;
    records::identities_are_those_of_before(store).await;
}
