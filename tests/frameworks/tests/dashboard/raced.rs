//! What comes between an operator's look and the change stays.

use idem::axum::dashboard::Stage;
use idem::conformance::faults::Method;
use idem::{Engine, Error, OnCrash};

use crate::bench::{Bench, LEASE, TTL, asked, path, request};
use crate::changes::{Log, page};

/// A retry in another process, which runs again.
async fn rerun(engine: Engine) {
    let charges = engine.operation("charges.create").ttl(TTL).lease(LEASE);
    let again = async { Ok::<_, Error>("executed again".to_owned()) };
    let charges = charges.on_crash(OnCrash::Rerun);
    assert_eq!(
        charges.run("k", request(), again).await.unwrap(),
        "executed again"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_finished_while_the_log_is_written_is_not_forgotten() {
    let bench = Bench::new();
    let id = bench.crash("k", 0).await;
    let elsewhere = Engine::new(bench.store.clone());
    let log = Log::default();
    let writing = log.clone();
    let page = bench
        .page(|it| {
            it.allow_changes(true).audit(move |change| {
                let (log, elsewhere) = (writing.clone(), elsewhere.clone());
                async move {
                    if change.stage == Stage::Before {
                        rerun(elsewhere).await;
                    }
                    log.0.lock().unwrap().push(change);
                    Ok(())
                }
            })
        })
        .await;
    let refused = page.change(&id, "forget", 1).await;
    assert_eq!(refused.error(), "changed-meanwhile");
    assert_eq!(log.stages(), [Stage::Before, Stage::NotMade]);
    let stored = bench.charges().inspect("k").await.unwrap();
    assert_eq!(stored.unwrap().attempt, 2);
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_goes_on_with_released_steps_keeps_its_outcome() {
    let bench = Bench::new();
    let (page, log) = page(&bench).await;
    let id = bench.crash("k", 2).await;
    // A record with steps is suspended first, and then forgotten.
    let gate = bench.store.hold(Method::Forget);
    let releasing = tokio::spawn({
        let page = page.clone();
        async move { page.post(&path(&id, "release"), &asked("crashed", 1)).await }
    });
    gate.arrived(1).await;
    rerun(Engine::new(bench.store.clone())).await;
    gate.open();
    assert_eq!(releasing.await.unwrap().error(), "changed-meanwhile");
    assert_eq!(log.stages(), [Stage::Before, Stage::NotMade]);
    let stored = bench.charges().inspect("k").await.unwrap();
    assert_eq!(stored.unwrap().attempt, 3);
}
