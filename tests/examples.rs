//! One example for each framework: it charges once.

mod support;

use http::Request;
use support::example::Example;
use support::{is_replay, post};

async fn charges_once(name: &str) {
    let example = Example::start(name, &[]);
    let order = r#"{"amount":1999,"currency":"eur"}"#;
    for again in [false, true] {
        let response = example
            .server
            .send(post("/charges", "order-1", order))
            .await;
        assert_eq!(response.status(), 201);
        assert_eq!(is_replay(&response), again);
        let charge: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(charge["amount"], 1999);
    }
    let list = Request::get("/charges").body("").unwrap();
    let charges = example.server.send(list).await;
    assert_eq!(charges.status(), 200);
    let charges: Vec<serde_json::Value> = serde_json::from_slice(charges.body()).unwrap();
    assert_eq!(charges.len(), 1);
}

macro_rules! examples {
    ($($name:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $name() {
                charges_once(stringify!($name)).await;
            }
        )*
    };
}

examples!(actix, axum, hyper, poem, rocket, salvo, tower, warp);
