//! `idem probe`: a server that keeps to the contract, one that does not, and one that is not to be probed.

use std::future::IntoFuture;

use axum::routing::post;
use axum::{Extension, Json, Router};
use serde_json::{Value, json};

use crate::tool::Tool;

#[idem::axum::idempotent(key = header("Idempotency-Key"), ttl = "1h", name = "probe.charges")]
async fn charge(Json(_): Json<Value>) -> Json<Value> {
    unprotected().await
}

async fn unprotected() -> Json<Value> {
    Json(json!({ "id": uuid::Uuid::new_v4().to_string() }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_probed_and_the_status_says_what_it_is_worth() {
    let engine = idem::connect("memory://").await.unwrap().build();
    let router = Router::new()
        .route("/charges", post(charge))
        .route("/unprotected", post(unprotected))
        .layer(Extension(engine));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, router).into_future());

    let asked = tokio::task::spawn_blocking(move || {
        let tool = Tool::over("memory://");
        let body = ["--body", "{\"amount\":5}"];
        let probe = |path: &str| format!("http://{address}/{path}");
        let url = probe("charges");
        let found = tool.object(&[&["probe", &url], &body[..]].concat());
        assert_eq!(
            (&found["verdict"], &found["url"]),
            (&json!("pass"), &json!(url))
        );
        assert_eq!(found["checks"][0]["name"], "first");
        assert!(
            tool.text(&[&["probe", &url], &body[..]].concat())
                .contains("cut-answer")
        );

        let said = tool.run(&[&["probe", &probe("unprotected")], &body[..]].concat());
        assert_eq!(said.status, 5, "{}", said.err);
        assert!(said.out.contains("FAIL"), "{}", said.out);
        let few = [&["probe", &url, "--max-requests", "3"], &body[..]].concat();
        assert_eq!(tool.run(&few).status, 6);
        let refused = tool.fails(3, &["probe", "http://192.0.2.1/charges"]);
        assert!(refused.contains("--i-own-this"), "{refused}");
        tool.fails(2, &["probe", "charges"]);
    });
    asked.await.unwrap();
}
