//! An operator takes the lease from the attempt that is shown, and from no other.

use http::StatusCode;
use idem::axum::dashboard::{Action, Stage};
use idem::conformance::faults::Method;
use idem::store::RecordState;
use idem::{Engine, Error, OnCrash, Operation, Phase, RecordId};
use idem_frameworks::Works;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::bench::{Bench, LEASE, TTL, asked, path, request};
use crate::changes::{Log, page};

fn forced(state: &str, attempt: u32) -> Value {
    let mut body = asked(state, attempt);
    body["force"] = json!(true);
    body
}

/// An attempt at work, until it is let go.
struct AtWork {
    works: Works,
    id: RecordId,
    call: JoinHandle<Result<String, Error>>,
}

impl AtWork {
    async fn begin(bench: &Bench) -> Self {
        let (charges, works) = (bench.charges(), Works::default());
        let id = charges.record_id("k").unwrap();
        let call = tokio::spawn({
            let works = works.clone();
            async move {
                let body = async {
                    works.stop_here().await;
                    Ok::<_, Error>("first".to_owned())
                };
                charges.run("k", request(), body).await
            }
        });
        works.started().await;
        Self { works, id, call }
    }

    /// What its own caller gets.
    async fn end(self) -> String {
        self.works.let_go();
        self.call.await.unwrap().unwrap()
    }
}

/// The operation in another process.
fn elsewhere(bench: &Bench) -> Operation {
    let charges = Engine::new(bench.store.clone()).operation("charges.create");
    charges.ttl(TTL).lease(LEASE).on_crash(OnCrash::Rerun)
}

async fn retry_elsewhere(bench: &Bench) -> Result<String, Error> {
    let again = async { Ok("executed again".to_owned()) };
    elsewhere(bench).run("k", request(), again).await
}

fn entries(log: &Log) -> Vec<(Action, RecordState, u32, bool, Stage)> {
    let log = log.0.lock().unwrap();
    log.iter()
        .map(|it| (it.action, it.state, it.attempt, it.forced, it.stage))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_stored_over_a_living_attempt() {
    let bench = Bench::new();
    let (page, log) = page(&bench).await;
    let at_work = AtWork::begin(&bench).await;
    let changed = page
        .post(&path(&at_work.id, "resolve"), &forced("running", 1))
        .await;
    assert_eq!(changed.status(), StatusCode::OK, "{}", changed.text);
    assert_eq!(retry_elsewhere(&bench).await.unwrap(), "charged by hand");
    assert_eq!(at_work.end().await, "first", "its own caller's answer");
    assert_eq!(bench.retry("k").await.unwrap(), "charged by hand");
    let entry = |stage| (Action::Resolve, RecordState::Running, 1, true, stage);
    assert_eq!(entries(&log), [entry(Stage::Before), entry(Stage::Made)]);
}

#[tokio::test(start_paused = true)]
async fn a_key_is_freed_and_forgotten_under_a_living_attempt() {
    for (action, done) in [("release", Action::Release), ("forget", Action::Forget)] {
        let bench = Bench::new();
        let (page, log) = page(&bench).await;
        let at_work = AtWork::begin(&bench).await;
        let changed = page
            .post(&path(&at_work.id, action), &forced("running", 1))
            .await;
        assert_eq!(changed.status(), StatusCode::OK, "{}", changed.text);
        assert_eq!(retry_elsewhere(&bench).await.unwrap(), "executed again");
        assert_eq!(at_work.end().await, "first");
        assert_eq!(bench.retry("k").await.unwrap(), "executed again");
        let entry = |stage| (done, RecordState::Running, 1, true, stage);
        assert_eq!(entries(&log), [entry(Stage::Before), entry(Stage::Made)]);
    }
}

#[tokio::test(start_paused = true)]
async fn another_attempt_than_the_one_that_was_shown_keeps_its_lease() {
    let bench = Bench::new();
    let (page, log) = page(&bench).await;
    let at_work = AtWork::begin(&bench).await;
    for action in ["release", "resolve", "forget"] {
        for (state, attempt) in [("running", 0), ("running", 2), ("crashed", 1)] {
            let refused = page
                .post(&path(&at_work.id, action), &forced(state, attempt))
                .await;
            assert_eq!(refused.status(), StatusCode::CONFLICT);
            assert_eq!(refused.error(), "changed-meanwhile", "{state} {attempt}");
        }
        let unasked = page
            .post(&path(&at_work.id, action), &asked("running", 1))
            .await;
        assert_eq!(unasked.error(), "still-running");
    }
    assert_eq!(entries(&log), []);
    assert_eq!(at_work.end().await, "first");
    assert_eq!(bench.retry("k").await.unwrap(), "first");
}

#[tokio::test(start_paused = true)]
async fn a_force_is_kept_from_other_sites_and_from_pages_that_only_look() {
    let bench = Bench::new();
    let (page, log) = page(&bench).await;
    let read_only = bench.page(|it| it).await;
    let at_work = AtWork::begin(&bench).await;
    let path = path(&at_work.id, "release");
    let body = forced("running", 1);
    for (header, value) in [
        ("host", "attacker.example"),
        ("origin", "http://attacker.example"),
        ("sec-fetch-site", "cross-site"),
        ("x-idem-token", "00000000000000000000000000000000"),
    ] {
        let mut request = page.posting(&path, &body);
        request.headers_mut().insert(header, value.parse().unwrap());
        let refused = page.send(request).await;
        assert!(refused.status().is_client_error(), "{header}");
    }
    assert_eq!(read_only.post(&path, &body).await.error(), "read-only");
    assert_eq!(entries(&log), []);
    assert_eq!(at_work.end().await, "first");
    assert_eq!(bench.retry("k").await.unwrap(), "first");
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_ends_while_the_log_is_written_keeps_its_outcome() {
    for action in ["release", "resolve", "forget"] {
        let bench = Bench::new();
        let at_work = AtWork::begin(&bench).await;
        let (works, id) = (at_work.works.clone(), at_work.id);
        let charges = elsewhere(&bench);
        let log = Log::default();
        let writing = log.clone();
        let page = bench
            .page(|it| {
                it.allow_changes(true).audit(move |change| {
                    let (works, charges) = (works.clone(), charges.clone());
                    let writing = writing.clone();
                    async move {
                        works.let_go();
                        let is_over = async || {
                            let found = charges.inspect_record(&change.record).await;
                            matches!(found.unwrap().unwrap().phase, Phase::Finished { .. })
                        };
                        while !is_over().await {
                            tokio::task::yield_now().await;
                        }
                        writing.0.lock().unwrap().push(change);
                        Ok(())
                    }
                })
            })
            .await;
        let refused = page.post(&path(&id, action), &forced("running", 1)).await;
        assert_eq!(refused.error(), "changed-meanwhile", "{action}");
        assert_eq!(log.stages(), [Stage::Before, Stage::NotMade]);
        assert_eq!(at_work.end().await, "first");
        assert_eq!(bench.retry("k").await.unwrap(), "first");
    }
}

#[tokio::test(start_paused = true)]
async fn the_log_says_where_a_retry_was_faster_than_the_resolution() {
    let bench = Bench::new();
    let (page, log) = page(&bench).await;
    let at_work = AtWork::begin(&bench).await;
    let id = at_work.id;
    let gate = bench.store.hold(Method::Inspect);
    let changing = tokio::spawn({
        let page = page.clone();
        async move {
            page.post(&path(&id, "resolve"), &forced("running", 1))
                .await
        }
    });
    // The first look is the page's; before the second one the lease is taken away.
    gate.arrived(1).await;
    gate.admit(1);
    while log.stages() != [Stage::Before] {
        tokio::task::yield_now().await;
    }
    gate.arrived(1).await;
    assert_eq!(retry_elsewhere(&bench).await.unwrap(), "executed again");
    gate.open();
    let refused = changing.await.unwrap();
    assert_eq!(
        (refused.status(), refused.error()),
        (StatusCode::CONFLICT, "only-revoked".to_owned())
    );
    assert_eq!(log.stages(), [Stage::Before, Stage::OnlyRevoked]);
    assert_eq!(at_work.end().await, "first");
    assert_eq!(bench.retry("k").await.unwrap(), "executed again");
}
