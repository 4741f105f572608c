//! What an operator can change, and what the audit log has of it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Extension;
use http::StatusCode;
use idem::axum::dashboard::{Action, Change, Stage};
use idem::conformance::faults::{Fault, Method};
use idem::store::RecordState;
use idem::{Error, Outcome, Phase};
use idem_frameworks::Works;
use serde_json::{Value, json};

use crate::bench::{Bench, Page, TTL, asked, path, request};

#[derive(Clone)]
struct Operator(&'static str);

#[derive(Clone, Default)]
pub(crate) struct Log(pub(crate) Arc<Mutex<Vec<Change>>>);

impl Log {
    pub(crate) fn stages(&self) -> Vec<Stage> {
        let log = self.0.lock().unwrap();
        log.iter().map(|change| change.stage).collect()
    }
}

/// A page that may change records, and its log.
pub(crate) async fn page(bench: &Bench) -> (Page, Log) {
    let log = Log::default();
    let writing = log.clone();
    let mut page = bench
        .page(|it| {
            it.allow_changes(true).audit(move |change| {
                let log = writing.clone();
                async move {
                    log.0.lock().unwrap().push(change);
                    Ok(())
                }
            })
        })
        .await;
    page.router = page.router.layer(Extension(Operator("ada")));
    (page, log)
}

#[tokio::test(start_paused = true)]
async fn a_stuck_record_is_resolved_and_the_next_retry_gets_the_answer() {
    let bench = Bench::new();
    let (page, log) = page(&bench).await;
    let id = bench.crash("k", 0).await;
    assert!(matches!(
        bench.retry("k").await,
        Err(Error::OutcomeUnknown { .. })
    ));
    let counts = async || page.get("/api/overview").await.json()["counts"].take();
    assert_eq!(counts().await, json!([1, 0, 0, 0]));
    let changed = page.change(&id, "resolve", 1).await;
    assert_eq!(changed.status(), StatusCode::OK, "{}", changed.text);
    assert_eq!(counts().await, json!([0, 0, 0, 1]), "seen at once");
    assert_eq!(bench.retry("k").await.unwrap(), "charged by hand");
    let found = bench.charges().inspect("k").await.unwrap().unwrap();
    assert_eq!(found.operation.as_str(), "charges.create");
    assert_eq!(log.stages(), [Stage::Before, Stage::Made]);
    for change in log.0.lock().unwrap().iter() {
        assert_eq!(
            (change.action, change.record, change.attempt),
            (Action::Resolve, id, 1)
        );
        assert_eq!(
            (&*change.operation, &*change.reason),
            ("charges.create", "ticket 7")
        );
        assert_eq!(change.state, RecordState::Crashed);
        let answer = Outcome::Value("\"charged by hand\"".into());
        assert_eq!(change.answer, Some(answer));
        assert!(!format!("{change:?}").contains("by hand"));
        assert_eq!(
            change.request.extensions.get::<Operator>().unwrap().0,
            "ada"
        );
        assert!(!format!("{change:?}").contains(&page.token));
    }
    // Once finished it stays.
    assert_eq!(page.change(&id, "resolve", 2).await.error(), "finished");
    assert_eq!(page.change(&id, "release", 2).await.error(), "finished");
    assert_eq!(bench.retry("k").await.unwrap(), "charged by hand");
}

#[tokio::test(start_paused = true)]
async fn a_response_is_stored_with_its_status_and_headers() {
    let bench = Bench::new();
    let (page, _) = page(&bench).await;
    let id = bench.crash("k", 0).await;
    let mut body = asked("crashed", 1);
    body["answer"] = json!({
        "kind": "response", "status": 201,
        "headers": [["content-type", "application/json"], ["location", "/charges/7"]],
        "body": "{\"charge\":7}",
    });
    body["keep_for_seconds"] = json!(3600);
    let changed = page.post(&path(&id, "resolve"), &body).await;
    assert_eq!(changed.status(), StatusCode::OK, "{}", changed.text);
    let found = bench.charges().inspect("k").await.unwrap().unwrap();
    let Phase::Finished { outcome } = found.phase else {
        panic!("{:?}", found.phase);
    };
    let outcome = idem::Outcome::decode(&outcome).unwrap();
    let response = idem::http::replay(&outcome).unwrap();
    assert_eq!(response.status(), 201);
    assert_eq!(response.headers()["location"], "/charges/7");
    assert_eq!(&response.body()[..], b"{\"charge\":7}");
    let listed = page.get("/api/records").await.json();
    assert_eq!(listed["records"][0]["kept_for_ms"], 3_600_000);
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_kept_as_long_as_the_operations_own() {
    let bench = Bench::new();
    let (page, _) = page(&bench).await;
    let id = bench.crash("k", 0).await;
    let changed = page.change(&id, "resolve", 1).await;
    assert_eq!(changed.status(), StatusCode::OK, "{}", changed.text);
    let record = page.get(&format!("/api/records/{id}")).await.json();
    let kept = Duration::from_millis(record["kept_for_ms"].as_u64().unwrap());
    assert!(kept >= TTL && kept < TTL * 2, "{kept:?}");
}

#[tokio::test(start_paused = true)]
async fn a_freed_key_runs_from_its_beginning() {
    let bench = Bench::new();
    let (page, log) = page(&bench).await;
    let (plain, with_steps) = (bench.crash("a", 0).await, bench.crash("b", 2).await);
    let suspended = bench.suspend("c", 1).await;
    for (id, state) in [
        (plain, "crashed"),
        (with_steps, "crashed"),
        (suspended, "suspended"),
    ] {
        let changed = page.post(&path(&id, "release"), &asked(state, 1)).await;
        assert_eq!(changed.status(), StatusCode::OK, "{}", changed.text);
    }
    for key in ["a", "b", "c"] {
        assert!(bench.charges().inspect(key).await.unwrap().is_none());
        assert_eq!(bench.retry(key).await.unwrap(), "executed again");
    }
    assert_eq!(log.stages().len(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_finished_record_is_forgotten_on_purpose_only() {
    let bench = Bench::new();
    let (page, log) = page(&bench).await;
    let id = bench.finish("k").await;
    let as_crashed = page.change(&id, "forget", 1).await;
    assert_eq!(as_crashed.error(), "changed-meanwhile");
    let forgotten = page.post(&path(&id, "forget"), &asked("finished", 1)).await;
    assert_eq!(forgotten.status(), StatusCode::OK, "{}", forgotten.text);
    assert_eq!(bench.retry("k").await.unwrap(), "executed again");
    assert_eq!(log.stages(), [Stage::Before, Stage::Made]);
}

#[tokio::test(start_paused = true)]
async fn a_live_lease_is_refused() {
    let bench = Bench::new();
    let (page, log) = page(&bench).await;
    let works = Works::default();
    let running = tokio::spawn({
        let (charges, works) = (bench.charges(), works.clone());
        async move {
            let body = async {
                works.stop_here().await;
                Ok::<_, Error>("first".to_owned())
            };
            charges.run("k", request(), body).await
        }
    });
    works.started().await;
    let id = bench.charges().record_id("k").unwrap();
    for state in ["running", "crashed"] {
        for action in ["release", "resolve", "forget"] {
            let refused = page.post(&path(&id, action), &asked(state, 1)).await;
            assert_eq!(refused.status(), StatusCode::CONFLICT);
            assert_eq!(refused.error(), "still-running", "{action}");
        }
    }
    works.let_go();
    assert_eq!(running.await.unwrap().unwrap(), "first");
    assert_eq!(bench.retry("k").await.unwrap(), "first");
    assert_eq!(log.stages(), []);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_as_it_was_seen_is_not_changed() {
    let bench = Bench::new();
    let (page, log) = page(&bench).await;
    let id = bench.crash("k", 0).await;
    for (state, attempt) in [
        ("crashed", 2),
        ("crashed", 0),
        ("suspended", 1),
        ("finished", 1),
    ] {
        let refused = page
            .post(&path(&id, "release"), &asked(state, attempt))
            .await;
        assert_eq!(refused.error(), "changed-meanwhile", "{state} {attempt}");
    }
    assert!(bench.charges().inspect("k").await.unwrap().is_some());
    assert_eq!(log.stages(), []);
}

#[tokio::test(start_paused = true)]
async fn what_changes_while_the_log_is_written_is_not_changed() {
    let bench = Bench::new();
    let id = bench.crash("k", 0).await;
    let engine = bench.engine.clone();
    let page = bench
        .page(|it| {
            it.allow_changes(true).audit(move |change| {
                let engine = engine.clone();
                async move {
                    if change.stage == Stage::Before {
                        let charges = engine.operation("charges.create");
                        let other = charges.resolve_record(&change.record, idem::Verdict::Crashed);
                        assert_eq!(other.await?, idem::Resolution::Resolved);
                    } else {
                        assert_eq!(change.stage, Stage::NotMade);
                    }
                    Ok(())
                }
            })
        })
        .await;
    let refused = page.change(&id, "release", 1).await;
    assert_eq!(refused.error(), "changed-meanwhile");
    let found = bench.charges().inspect("k").await.unwrap().unwrap();
    assert_eq!(
        (found.attempt, found.phase),
        (2, Phase::Running { lease_left: None })
    );
}

#[tokio::test(start_paused = true)]
async fn it_is_read_only_unless_allowed() {
    let bench = Bench::new();
    let page = bench.page(|it| it).await;
    let (crashed, finished) = (bench.crash("a", 0).await, bench.finish("b").await);
    assert_eq!(
        page.get("/api/session").await.json()["allow_changes"],
        false
    );
    for id in [crashed, finished] {
        for action in ["release", "resolve", "forget"] {
            let refused = page.change(&id, action, 1).await;
            assert_eq!(
                (refused.status(), refused.error()),
                (StatusCode::FORBIDDEN, "read-only".to_owned())
            );
        }
    }
    assert_eq!(bench.store.calls(Method::Forget), 0);
    assert_eq!(
        bench.charges().inspect("a").await.unwrap().unwrap().attempt,
        1
    );
}

#[tokio::test(start_paused = true)]
async fn without_its_log_nothing_is_changed() {
    let bench = Bench::new();
    let id = bench.crash("k", 0).await;
    let failing = bench
        .page(|it| {
            it.allow_changes(true)
                .audit(async |_| Err("the disk is full at /secret".into()))
        })
        .await;
    let hanging = bench
        .page(|it| {
            it.allow_changes(true)
                .audit(async |_| std::future::pending().await)
        })
        .await;
    for page in [failing, hanging] {
        for action in ["release", "resolve", "forget"] {
            let refused = page.change(&id, action, 1).await;
            assert_eq!(refused.status(), StatusCode::INTERNAL_SERVER_ERROR);
            assert_eq!(refused.error(), "not-logged");
            assert!(!refused.text.contains("secret"));
        }
    }
    assert_eq!(
        bench.store.calls(Method::Claim),
        1,
        "the crashed attempt's own"
    );
    assert_eq!(bench.store.calls(Method::Forget), 0);
}

#[tokio::test(start_paused = true)]
async fn the_log_says_where_the_store_has_not_answered() {
    let bench = Bench::new();
    let (page, log) = page(&bench).await;
    let id = bench.crash("k", 0).await;
    bench.store.fail_always(Method::Claim, Fault::Unavailable);
    bench.store.fail_always(Method::Forget, Fault::Unavailable);
    for action in ["resolve", "forget"] {
        let failed = page.change(&id, action, 1).await;
        assert_eq!(failed.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(failed.error(), "store-unavailable");
    }
    let each = [Stage::Before, Stage::Unknown];
    assert_eq!(log.stages(), [each, each].concat());
}

#[tokio::test(start_paused = true)]
async fn a_change_goes_on_when_its_operator_is_gone() {
    let bench = Bench::new();
    let (page, log) = page(&bench).await;
    let id = bench.crash("k", 0).await;
    let gate = bench.store.hold(Method::Claim);
    let changing = tokio::spawn({
        let page = page.clone();
        async move { page.change(&id, "resolve", 1).await }
    });
    gate.arrived(1).await;
    changing.abort();
    assert!(changing.await.unwrap_err().is_cancelled());
    gate.open();
    while log.stages() != [Stage::Before, Stage::Made] {
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.retry("k").await.unwrap(), "charged by hand");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_stored_is_refused_before_anything_is_changed() {
    let bench = Bench::new();
    let (page, log) = page(&bench).await;
    let id = bench.crash("k", 0).await;
    let response = |status: u16, name: &str, value: &str| json!({ "kind": "response", "status": status, "headers": [[name, value]], "body": "" });
    let too_large = json!({ "kind": "value", "json": format!("\"{}\"", "x".repeat(3 << 20)) });
    let without: [(&str, Value, &str); 9] = [
        ("answer", Value::Null, "no-answer"),
        (
            "answer",
            json!({ "kind": "value", "json": "{" }),
            "not-json",
        ),
        (
            "answer",
            json!({ "kind": "failure", "json": "" }),
            "not-json",
        ),
        ("answer", response(100, "a", "b"), "answer-not-acceptable"),
        ("answer", response(600, "a", "b"), "answer-not-acceptable"),
        ("answer", response(200, "a b", "b"), "answer-not-acceptable"),
        (
            "answer",
            response(200, "a", "b\r\nc: d"),
            "answer-not-acceptable",
        ),
        ("answer", too_large, "answer-too-large"),
        ("reason", json!("  "), "no-reason"),
    ];
    for (field, value, error) in without {
        let mut body = asked("crashed", 1);
        body[field] = value;
        let refused = page.post(&path(&id, "resolve"), &body).await;
        assert_eq!(refused.error(), error);
    }
    for wrong in [json!({}), json!([]), json!({ "attempt": -1 })] {
        let refused = page.post(&path(&id, "resolve"), &wrong).await;
        assert!(refused.status().is_client_error(), "{wrong}");
    }
    let unkept = json!({ "attempt": 1, "state": "crashed", "reason": "r", "keep_for_seconds": 0,
        "answer": { "kind": "value", "json": "1" } });
    assert_eq!(
        page.post(&path(&id, "resolve"), &unkept).await.error(),
        "not-acceptable"
    );
    assert_eq!(
        page.change(&id, "explode", 1).await.status(),
        StatusCode::NOT_FOUND
    );
    let found = bench.charges().inspect("k").await.unwrap().unwrap();
    assert_eq!(
        (found.attempt, found.phase),
        (1, Phase::Running { lease_left: None })
    );
    assert_eq!(
        log.stages(),
        [Stage::Before, Stage::NotMade],
        "of the ttl alone"
    );
}
