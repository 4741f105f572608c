//! At three in the morning: a payment is stuck, because its process was killed and nobody knows what it did.

use std::time::Duration;

use axum::http::StatusCode;
use idem_tests::{MariaDb, Postgres, Redis, RedisCluster, wait_until};
use serde_json::{Value, json};

use crate::owner::{self, KEY, OPERATION, TENANT};
use crate::tool::Tool;

const LIMIT: Duration = Duration::from_secs(60);

const NAMED: &[&str] = &[
    "--namespace",
    "shop",
    "--operation",
    OPERATION,
    "--scope",
    TENANT,
    "--key",
    KEY,
];

fn with<'a>(words: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [words, more].concat()
}

#[track_caller]
fn assert_fields(object: &Value, fields: &Value) {
    for (name, value) in fields.as_object().unwrap() {
        assert_eq!(&object[name], value, "{name} of {object}");
    }
}

async fn is_found_understood_and_resolved(tool: Tool) {
    let owner = owner::start(&tool);
    // Also until the store's tables are there.
    let running = wait_until("a running attempt with its step", LIMIT, || {
        let said = tool.run(
            &["get", "--json"]
                .iter()
                .chain(NAMED)
                .copied()
                .collect::<Vec<_>>(),
        );
        let seen: Value = serde_json::from_str(&said.out).unwrap_or_default();
        // A short lease may be over for a moment, until its owner renews it.
        let is_running = seen["state"] == "running";
        let steps = seen["steps"].as_array();
        match is_running && steps.is_some_and(|steps| !steps.is_empty()) {
            true => Ok(seen),
            false => Err(format!("{}{}", said.out, said.err)),
        }
    });
    assert_fields(
        &running,
        &json!({"state": "running", "attempt": 1, "operation": OPERATION}),
    );

    owner.kill();
    let stuck = wait_until("a stuck record", LIMIT, || {
        let mut stuck = tool.json(&["stuck"]);
        stuck.pop().ok_or("nothing is stuck".to_owned())
    });
    assert_fields(
        &stuck,
        &json!({"state": "crashed", "attempt": 1, "operation": OPERATION, "lease_left_ms": null}),
    );
    let id = stuck["record"].as_str().unwrap().to_owned();
    assert!(tool.text(&["stuck"]).contains(&id));

    let application = owner::application(tool.url()).await;
    let (status, replayed, problem) = owner::call(&application).await;
    assert_eq!(
        (status, replayed),
        (StatusCode::CONFLICT, None),
        "{problem}"
    );
    assert!(problem.contains("outcome-unknown"), "{problem}");

    // By its id, as the application names it, and as the client has sent its key.
    let header = format!("\"{KEY}\"");
    let by_header = with(&NAMED[..6], &["--key-header", &header]);
    for name in [&[&*id][..], NAMED, &by_header] {
        let seen = tool.object(&with(&["get"], name));
        assert_fields(
            &seen,
            &json!({
                "record": id, "state": "crashed", "attempt": 1, "outcome": null,
                "steps": [{"name": "reserve", "bytes": 2}],
            }),
        );
        // Of six hours nobody has waited for one.
        let kept = seen["kept_for_ms"].as_u64().unwrap();
        assert!((5 * 3_600_000..=6 * 3_600_000).contains(&kept), "{seen}");
    }
    let text = tool.text(&["get", &id]);
    for said in ["crashed", OPERATION, "reserve (2 bytes)", "not known"] {
        assert!(text.contains(said), "{said} in {text}");
    }

    // Nobody can be asked, and nobody has said yes.
    let body = tool.write("answer.json", r#"{"charge":7}"#);
    let answer = [
        "resolve",
        &id,
        "--status",
        "201",
        "--header",
        "content-type: application/json",
        "--body",
        &body,
        "--reason",
        "the provider has charge 7",
    ];
    tool.fails(3, &answer);
    assert!(tool.audited().is_empty());

    let said = tool.object(&with(&answer, &["--yes"]));
    assert_eq!(said, json!({"record": id, "result": "resolved"}));
    let (status, replayed, body) = owner::call(&application).await;
    assert_eq!(
        (status, replayed.as_deref(), &*body),
        (StatusCode::CREATED, Some("true"), r#"{"charge":7}"#)
    );
    assert_eq!(tool.json(&["stuck"]), Vec::<Value>::new());

    let seen = tool.object(&["get", &id, "--show-body"]);
    assert_fields(
        &seen,
        &json!({
            "state": "finished", "attempt": 2, "operation": OPERATION, "steps": [],
            "outcome": {
                "kind": "response", "status": 201, "bytes": 12, "body": "{\"charge\":7}",
                "headers": [["content-type", "application/json"]],
            },
        }),
    );
    assert!(!tool.text(&["get", &id]).contains("charge\":7"));
    // As long as the operation's ttl, at least.
    let kept = seen["kept_for_ms"].as_u64().unwrap();
    assert!(
        (6 * 3_600_000 - 60_000..7 * 3_600_000).contains(&kept),
        "{seen}"
    );

    let audited = tool.audited();
    assert_eq!(audited.len(), 2, "{audited:?}");
    assert_fields(
        &audited[0],
        &json!({
            "entry": "intent", "command": "resolve", "record": id, "operation": OPERATION,
            "state": "crashed", "attempt": 1, "forced": false,
            "reason": "the provider has charge 7",
        }),
    );
    assert!(audited[0]["user"].is_string() && audited[0]["host"].is_string());
    assert_fields(&audited[1], &json!({"entry": "result", "result": "done"}));
    assert_eq!(audited[0]["change"], audited[1]["change"]);
    let log = std::fs::read_to_string(tool.audit_log()).unwrap();
    for secret in [KEY, TENANT, "one coffee", "charge\\\":"] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_stuck_in_redis_is_found_understood_and_resolved() {
    let redis = Redis::start();
    is_found_understood_and_resolved(Tool::over(redis.url())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_stuck_in_a_cluster_is_found_understood_and_resolved() {
    let cluster = RedisCluster::start();
    is_found_understood_and_resolved(Tool::over(cluster.url())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_stuck_in_postgres_is_found_understood_and_resolved() {
    let postgres = Postgres::start();
    is_found_understood_and_resolved(Tool::over(postgres.url())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_stuck_in_mysql_is_found_understood_and_resolved() {
    let server = MariaDb::start();
    is_found_understood_and_resolved(Tool::over(server.url())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_stuck_in_sqlite_is_found_understood_and_resolved() {
    is_found_understood_and_resolved(Tool::over_sqlite()).await;
}
