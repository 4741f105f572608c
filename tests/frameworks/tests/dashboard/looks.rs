//! What is shown, and what it costs.

use std::collections::HashSet;
use std::time::Duration;

use axum::routing::post;
use axum::{Extension, Router};
use http::StatusCode;
use idem::axum::idempotent;
use idem::conformance::faults::{Fault, Method};
use idem::{Error, RecordId};
use idem_frameworks::Works;
use serde_json::{Value, json};

use crate::bench::{Bench, request};

fn ids(page: &Value) -> Vec<String> {
    let records = page["records"].as_array().unwrap();
    let id = |record: &Value| record["id"].as_str().unwrap().to_owned();
    records.iter().map(id).collect()
}

#[tokio::test(start_paused = true)]
async fn what_needs_somebody_is_seen_at_once() {
    let bench = Bench::new();
    let page = bench.page(|it| it).await;
    let (crashed, suspended) = (bench.crash("a", 0).await, bench.suspend("b", 1).await);
    bench.finish("c").await;
    bench.finish("d").await;
    let overview = page.get("/api/overview").await.json();
    assert_eq!(overview["complete"], true);
    assert_eq!(
        overview["states"],
        json!(["crashed", "suspended", "running", "finished"])
    );
    assert_eq!(overview["counts"], json!([1, 1, 0, 2]));
    assert_eq!(overview["operations"][0]["name"], "charges.create");
    assert_eq!(overview["operations"][0]["counts"], json!([1, 1, 0, 2]));
    let attention = overview["attention"].as_array().unwrap();
    let found: HashSet<_> = attention
        .iter()
        .map(|it| it["id"].as_str().unwrap())
        .collect();
    let (crashed, suspended) = (crashed.to_string(), suspended.to_string());
    assert_eq!(found, HashSet::from([&*crashed, &*suspended]));
    for (range, bars) in [("hour", 60), ("day", 48), ("week", 56)] {
        let path = format!("/api/overview?range={range}&operation=charges.create");
        let overview = page.get(&path).await.json();
        let buckets = overview["buckets"].as_array().unwrap();
        assert_eq!(buckets.len(), bars);
        assert_eq!(buckets.last().unwrap(), &json!([1, 1, 0, 2]), "{range}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_is_not_counted_for_every_look() {
    let bench = Bench::new();
    let page = bench.page(|it| it).await;
    let charges = bench.charges();
    for number in 0..25_000 {
        let run = async { Ok(number) };
        let ran: Result<u32, Error> = charges.run(&number, request(), run).await;
        ran.unwrap();
    }
    let first = page.get("/api/overview").await.json();
    assert_eq!(
        (&first["complete"], &first["records"]),
        (&json!(false), &json!(20_000))
    );
    assert_eq!(bench.store.calls(Method::List), 20);
    for _ in 0..50 {
        let again = page.get("/api/overview").await.json();
        assert_eq!(again["records"], 20_000);
    }
    let many = (0..50).map(|_| page.get("/api/overview"));
    futures_util::future::join_all(many).await;
    assert_eq!(bench.store.calls(Method::List), 20);
    // The next one goes on where it stopped.
    tokio::time::advance(Duration::from_secs(10)).await;
    let whole = page.get("/api/overview").await.json();
    assert_eq!(
        (&whole["complete"], &whole["records"]),
        (&json!(true), &json!(25_000))
    );
    assert_eq!(bench.store.calls(Method::List), 25);
    // While another pass is under way, the whole one is shown.
    tokio::time::advance(Duration::from_secs(10)).await;
    let whole = page.get("/api/overview").await.json();
    assert_eq!(
        (&whole["complete"], &whole["records"]),
        (&json!(true), &json!(25_000))
    );
    assert_eq!(bench.store.calls(Method::List), 45);
}

#[tokio::test(start_paused = true)]
async fn a_count_that_breaks_off_begins_anew() {
    let bench = Bench::new();
    let page = bench.page(|it| it).await;
    bench.finish("a").await;
    bench.store.fail(Method::List, 1, Fault::Unavailable);
    let failed = page.get("/api/overview").await;
    assert_eq!(failed.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(failed.error(), "store-unavailable");
    assert_eq!(page.get("/api/overview").await.json()["records"], 1);
}

#[tokio::test(start_paused = true)]
async fn records_are_listed_page_by_page() {
    let bench = Bench::new();
    let page = bench.page(|it| it).await;
    let mut crashed = HashSet::new();
    for number in 0..25 {
        crashed.insert(bench.crash(&format!("c{number}"), 0).await.to_string());
        bench.finish(&format!("f{number}")).await;
    }
    let mut found = HashSet::new();
    let mut after = String::new();
    let mut pages = 0;
    loop {
        let path = format!("/api/records?state=crashed&limit=10{after}");
        let listed = page.get(&path).await.json();
        assert!(listed["records"].as_array().unwrap().len() <= 10);
        found.extend(ids(&listed));
        pages += 1;
        match listed["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!((found, pages), (crashed, 3));
    let all = page
        .get("/api/records?limit=200&operation=charges.create")
        .await
        .json();
    assert_eq!(ids(&all).len(), 50);
    let none = page.get("/api/records?operation=another").await.json();
    assert_eq!((ids(&none).len(), &none["next"]), (0, &Value::Null));
    let most = page.get("/api/records?limit=1000000").await.json();
    assert_eq!(ids(&most).len(), 50);
    for wrong in ["state=broken", "limit=many"] {
        let refused = page.get(&format!("/api/records?{wrong}")).await;
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "{wrong}");
    }
}

#[tokio::test(start_paused = true)]
async fn bodies_are_shown_when_asked_for_and_allowed() {
    let bench = Bench::new();
    let (hidden, open) = (
        bench.page(|it| it).await,
        bench.page(|it| it.show_bodies(true)).await,
    );
    let (finished, crashed) = (bench.finish("a").await, bench.crash("b", 2).await);
    for id in [finished, crashed] {
        let path = format!("/api/records/{id}");
        for page in [&hidden, &open] {
            let shown = page.get(&path).await;
            assert_eq!(shown.status(), StatusCode::OK);
            assert!(!shown.text.contains("planted"), "{}", shown.text);
        }
        let asked = format!("{path}?bodies=true");
        let refused = hidden.get(&asked).await;
        assert_eq!(refused.status(), StatusCode::FORBIDDEN);
        assert!(!refused.text.contains("planted"));
        assert!(open.get(&asked).await.text.contains("planted"));
    }
    let record = open
        .get(&format!("/api/records/{crashed}?bodies=true"))
        .await
        .json();
    assert_eq!(
        (&record["state"], &record["attempt"]),
        (&json!("crashed"), &json!(1))
    );
    assert_eq!(record["steps"][1]["name"], "step 2");
    assert_eq!(record["steps"][1]["value"]["text"], "\"planted-step-2\"");
    assert_eq!(record["steps_unreadable"], false);
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", name = "echo")]
async fn echo(body: String) -> ([(&'static str, &'static str); 1], String) {
    ([("x-planted", "planted-header")], body)
}

#[tokio::test]
async fn header_values_are_bodies_too_and_large_ones_are_cut() {
    let bench = Bench::new();
    let page = bench.page(|it| it.show_bodies(true)).await;
    let app = Router::new()
        .route("/", post(echo))
        .layer(Extension(bench.engine.clone()));
    let long = "é".repeat(50_000);
    for (key, body) in [("\"text\"", long.as_bytes()), ("\"empty\"", b"")] {
        let call = idem_frameworks::post("/", key, body.to_vec());
        let call = call.map(axum::body::Body::from);
        tower::ServiceExt::oneshot(app.clone(), call).await.unwrap();
    }
    let named = json!({ "operation": "echo", "key": ["\"text\""], "from_header": true });
    let id = page.post("/api/find", &named).await.json()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let closed = page.get(&format!("/api/records/{id}")).await;
    assert!(!closed.text.contains("planted-header"));
    let closed = closed.json();
    assert_eq!(
        (&closed["outcome"]["status"], &closed["outcome"]["bytes"]),
        (&json!(200), &json!(100_000))
    );
    assert!(
        closed["outcome"]["headers"]
            .as_array()
            .unwrap()
            .contains(&json!({ "name": "x-planted", "value": null }))
    );
    let open = page.get(&format!("/api/records/{id}?bodies=true")).await;
    assert!(open.text.contains("planted-header"));
    let body = &open.json()["outcome"]["body"];
    let text = body["text"].as_str().unwrap();
    assert!(
        text.trim_end_matches('\u{fffd}')
            .chars()
            .all(|it| it == 'é')
    );
    assert_eq!(
        (&body["is_text"], &body["left_out"]),
        (&json!(true), &json!(100_000 - 65_536))
    );
}

#[tokio::test]
async fn a_record_is_found_by_what_the_application_calls_it() {
    let bench = Bench::new();
    let page = bench.page(|it| it).await;
    let engine = &bench.engine;
    let ids: [(Value, RecordId); 6] = [
        (
            json!({ "operation": "o", "key": ["k"] }),
            engine.operation("o").record_id("k").unwrap(),
        ),
        (
            json!({ "operation": "o", "key": ["\"a b\""], "from_header": true }),
            engine.operation("o").record_id("a b").unwrap(),
        ),
        (
            json!({ "operation": "o", "key": ["7"] }),
            engine.operation("o").record_id(&7_u64).unwrap(),
        ),
        (
            json!({ "operation": "o", "key": ["k"], "scope": ["9"] }),
            engine.operation("o").scope(&9_i32).record_id("k").unwrap(),
        ),
        (
            json!({ "operation": "o", "key": ["a", "7"] }),
            engine.operation("o").record_id(&("a", 7)).unwrap(),
        ),
        (
            json!({ "operation": "o", "key": ["k"], "scope": ["t", "1"] }),
            engine
                .operation("o")
                .scope(&("t", 1))
                .record_id("k")
                .unwrap(),
        ),
    ];
    for (named, id) in ids {
        let found = page.post("/api/find", &named).await.json();
        assert_eq!(found["id"], id.to_string(), "{named}");
    }
    for wrong in [json!([]), json!([""]), json!(["a,b"])] {
        let named = json!({ "operation": "o", "key": wrong, "from_header": true });
        let refused = page.post("/api/find", &named).await;
        assert_eq!(
            refused.status(),
            StatusCode::UNPROCESSABLE_ENTITY,
            "{wrong}"
        );
    }
    assert_eq!(
        page.get("/api/find?key=k").await.status(),
        StatusCode::METHOD_NOT_ALLOWED
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_not_there_is_said() {
    let bench = Bench::new();
    let page = bench.page(|it| it.allow_changes(true)).await;
    let absent = bench.charges().record_id("never").unwrap();
    assert_eq!(
        page.get(&format!("/api/records/{absent}")).await.error(),
        "no-record"
    );
    assert_eq!(page.get("/api/records/7f").await.error(), "not-an-id");
    assert_eq!(
        page.change(&absent, "release", 1).await.error(),
        "no-record"
    );
    bench.store.fail_everything(&Fault::Unavailable);
    for path in [
        "/api/overview",
        "/api/records",
        &format!("/api/records/{absent}"),
    ] {
        assert_eq!(page.get(path).await.error(), "store-unavailable", "{path}");
    }
    assert_eq!(page.get("/").await.status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_running_record_says_how_long_its_lease_holds() {
    let bench = Bench::new();
    let page = bench.page(|it| it).await;
    let works = Works::default();
    let running = tokio::spawn({
        let (charges, works) = (bench.charges(), works.clone());
        async move {
            let body = async {
                works.stop_here().await;
                Ok::<_, Error>(1)
            };
            charges.run("k", request(), body).await
        }
    });
    works.started().await;
    let id = bench.charges().record_id("k").unwrap();
    let record = page.get(&format!("/api/records/{id}")).await.json();
    assert_eq!(
        (&record["state"], &record["lease_left_ms"]),
        (&json!("running"), &json!(30_000))
    );
    works.let_go();
    running.await.unwrap().unwrap();
}
