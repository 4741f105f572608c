//! The example `webhooks`, as providers call it.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use http::Request;
use idem_examples::Example;
use idem_frameworks::{Server, is_replay};
use sha2::Sha256;

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

fn hmac(secret: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn standard(id: &str, time: u64, body: &'static str) -> Request<&'static str> {
    let secret = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
    let signature = STANDARD.encode(hmac(&secret, &format!("{id}.{time}.{body}")));
    Request::post("/standard")
        .header("webhook-id", id)
        .header("webhook-timestamp", time)
        .header("webhook-signature", format!("v1,{signature}"))
        .body(body)
        .unwrap()
}

fn stripe(time: u64, body: &'static str) -> Request<&'static str> {
    let signature = hmac(b"whsec_test", &format!("{time}.{body}"));
    let signature: String = signature.iter().map(|byte| format!("{byte:02x}")).collect();
    Request::post("/stripe")
        .header("stripe-signature", format!("t={time},v1={signature}"))
        .header("content-type", "application/json")
        .body(body)
        .unwrap()
}

async fn done(server: Server) -> String {
    let done = server.send(Request::get("/done").body("").unwrap()).await;
    String::from_utf8(done.body().to_vec()).unwrap()
}

#[tokio::test]
async fn each_event_is_carried_out_once_however_often_it_is_delivered() {
    let example = Example::start("webhooks", &[]);
    let server = example.server;
    // A delivery that is sent again has another timestamp and another signature.
    for (again, time) in [(false, now() - 1), (true, now())] {
        let answer = server
            .send(standard("msg_1", time, r#"{"type":"paid"}"#))
            .await;
        assert_eq!((answer.status().as_u16(), is_replay(&answer)), (204, again));
    }
    // Stripe's says how many deliveries are left, too.
    for (again, body) in [
        (false, r#"{"id":"evt_1","pending_webhooks":2}"#),
        (true, r#"{"id":"evt_1","pending_webhooks":1}"#),
    ] {
        let answer = server.send(stripe(now(), body)).await;
        assert_eq!((answer.status().as_u16(), is_replay(&answer)), (204, again));
    }
    assert_eq!(done(server).await, "2");
}

#[tokio::test]
async fn a_forged_or_recorded_delivery_gets_no_stored_answer() {
    let example = Example::start("webhooks", &[]);
    let server = example.server;
    let answer = server.send(standard("msg_1", now(), "{}")).await;
    assert_eq!(answer.status(), 204);
    let mut forged = standard("msg_1", now(), "{}");
    *forged.body_mut() = "{ }";
    let recorded = standard("msg_1", now() - 600, "{}");
    let unsigned = Request::post("/standard")
        .header("webhook-id", "msg_1")
        .body("{}")
        .unwrap();
    let by_another = stripe(now(), "{}");
    let (mut head, body) = by_another.into_parts();
    head.uri = "/standard".parse().unwrap();
    for request in [forged, recorded, unsigned, Request::from_parts(head, body)] {
        let answer = server.send(request).await;
        assert_eq!((answer.status().as_u16(), is_replay(&answer)), (401, false));
    }
    let forged = stripe(now() - 600, r#"{"id":"evt_1"}"#);
    assert_eq!(server.send(forged).await.status(), 401);
    assert_eq!(done(server).await, "1");
}
