//! What lies in stores: outcomes and fingerprints, as literal bytes. A value that changes here makes
//! stored records unreadable, or retries across an upgrade refused.

#![cfg(feature = "http")]

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Request, Response, StatusCode};
use idem_core::http::{HttpSettings, RequestIdentity, outcome_of, replay};
use idem_core::{Fingerprint, Fingerprinter, NotReplayable, Outcome, Undecodable};

#[test]
fn outcomes_of_every_kind_are_read_and_written_as_before() {
    let content = || Bytes::from_static(b"content");
    let kinds: [(&[u8], Outcome); 7] = [
        (b"\x01Vcontent", Outcome::Value(content())),
        (b"\x01Fcontent", Outcome::Failure(content())),
        (b"\x01Rcontent", Outcome::Response(content())),
        (b"\x01Gcontent", Outcome::Rpc(content())),
        (b"\x01TL", Outcome::NotReplayable(NotReplayable::TooLarge)),
        (b"\x01TS", Outcome::NotReplayable(NotReplayable::Streamed)),
        (
            b"\x01TC",
            Outcome::NotReplayable(NotReplayable::NotCaptured),
        ),
    ];
    for (bytes, outcome) in kinds {
        assert_eq!(outcome.encode(), bytes);
        assert_eq!(
            Outcome::decode(&Bytes::from_static(bytes)),
            Ok::<_, Undecodable>(outcome)
        );
    }
}

#[test]
fn responses_are_read_and_written_as_before() {
    const STORED: &[u8] =
        b"\x01R\xac\x02\x02\x08location\x08/other/1\x07x-bytes\x03\x80 \xff\x04\0bod";
    let response = Response::builder()
        .status(StatusCode::MULTIPLE_CHOICES)
        .header("location", "/other/1")
        .header("date", "Thu, 01 Jan 1970 00:00:00 GMT")
        .header("x-bytes", &b"\x80 \xff"[..])
        .body(Bytes::from_static(b"\0bod"))
        .unwrap();
    let outcome = outcome_of(&response, &HttpSettings::new());
    assert_eq!(
        outcome.encode().escape_ascii().to_string(),
        STORED.escape_ascii().to_string()
    );
    let stored = Outcome::decode(&Bytes::from_static(STORED)).unwrap();
    let replayed = replay(&stored).unwrap();
    assert_eq!(replayed.status(), StatusCode::MULTIPLE_CHOICES);
    assert_eq!(replayed.headers()["location"], "/other/1");
    assert_eq!(replayed.headers()["x-bytes"], b"\x80 \xff"[..]);
    assert_eq!(replayed.body(), &b"\0bod"[..]);
}

fn hex(fingerprint: Fingerprint) -> String {
    let bytes = fingerprint.to_bytes();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn of_request(has_scope: bool, content_type: &str, body: &[u8]) -> String {
    let request = Request::post("/charges?currency=eur")
        .header(HOST, "shop.example.com")
        .header(AUTHORIZATION, "Bearer a")
        .header(CONTENT_TYPE, content_type)
        .body(())
        .unwrap();
    let identity = RequestIdentity {
        method: request.method(),
        uri: request.uri(),
        headers: request.headers(),
    };
    hex(identity.fingerprint(has_scope, body))
}

#[test]
fn every_algorithm_of_fingerprints_gives_what_it_has_given_before() {
    let json = "application/json";
    let multipart = "multipart/form-data; boundary=b";
    let form = b"--b\r\ncontent-disposition: form-data; name=\"a\"\r\n\r\n1\r\n--b--\r\n";
    for (has_scope, content_type, body, expected) in [
        (
            true,
            json,
            &b"{\"amount\":5}"[..],
            "01920c950483a202faf6dda8e914fcb9b1941f08b1e8fb6283663167d48cc6d76b",
        ),
        (
            false,
            json,
            b"{\"amount\":5}",
            "0228bb845cbf829bb7812ba893d610ddc925a71a6a179072422b9d9af41878a458",
        ),
        (
            true,
            multipart,
            form,
            "03e9189f04359497f5812a706ce9d6f2dc8f7337a502b79d11e918e4fa92cbf2b3",
        ),
        (
            false,
            multipart,
            form,
            "04d9761eb29fa70c9f79343951b6992634612839537a063873b20d4969d546f038",
        ),
    ] {
        assert_eq!(of_request(has_scope, content_type, body), expected);
    }
}

#[test]
fn values_of_functions_give_what_they_have_given_before() {
    let mut fingerprinter = Fingerprinter::new();
    fingerprinter.bytes("body", b"{}");
    fingerprinter
        .value("order", &("EUR", 1999_u32, Some(-7_i64), [1.5_f64]))
        .unwrap();
    assert_eq!(
        hex(fingerprinter.finish()),
        "01442b3a2b89cff7e8466a00ca4c6e37f0602ffe3574dc0bfe7d2c7dad35d8ae6c"
    );
}
