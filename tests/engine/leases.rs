//! Renewal, takeover, and the owner that comes back too late.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use idem::conformance::faults::{Fault, FaultyStore, Method};
use idem::stores::memory::MemoryStore;
use idem::{
    Attempt, Begun, Engine, EngineBuilder, Error, ExecutionError, Key, OnCrash, Operation, Policy,
    Verdict,
};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::bench::{
    Answer, LEASE, attempt_number, faulty, must_not_run, operation, operation_of, request,
};
use crate::works::Works;

/// A body that hands its attempt out, stops, and then answers 100 plus its attempt's number.
async fn start(operation: &Operation, works: &Works) -> (JoinHandle<Answer>, Attempt) {
    let (send, receive) = tokio::sync::oneshot::channel();
    let (operation, inside) = (operation.clone(), works.clone());
    let body = async move {
        let attempt = idem::attempt();
        let number = attempt.number();
        send.send(attempt).unwrap();
        inside.stop_here().await;
        inside.execute();
        Ok(100 + number)
    };
    let running = tokio::spawn(async move { operation.run("k", request(), body).await });
    works.started().await;
    (running, receive.await.unwrap())
}

fn elsewhere(store: &FaultyStore) -> Operation {
    operation_of(&Engine::new(store.clone()))
}

#[tokio::test(start_paused = true)]
async fn a_body_that_outlives_its_lease_many_times_stays_the_only_one() {
    let store = faulty();
    let works = Works::default();
    let (running, attempt) = start(&operation(&store), &works).await;
    for _ in 0..20 {
        sleep(LEASE / 2).await;
        assert!(!attempt.lease_lost());
        let duplicate = must_not_run(&elsewhere(&store), "k", request()).await;
        assert!(matches!(duplicate, Err(Error::InFlight { .. })));
    }
    works.let_go();
    assert_eq!(running.await.unwrap().unwrap(), 101);
    assert_eq!(
        must_not_run(&elsewhere(&store), "k", request())
            .await
            .unwrap(),
        101
    );
    // A third of the lease each.
    assert!((28..=31).contains(&store.calls(Method::Renew)));
}

#[tokio::test(start_paused = true)]
async fn renewal_that_fails_now_and_then_keeps_the_lease() {
    let store = faulty();
    let works = Works::default();
    let (running, attempt) = start(&operation(&store), &works).await;
    for _ in 0..5 {
        store.fail(Method::Renew, 2, Fault::Unavailable);
        sleep(LEASE).await;
        assert!(!attempt.lease_lost());
    }
    works.let_go();
    assert_eq!(running.await.unwrap().unwrap(), 101);
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_was_overtaken_learns_it_and_changes_nothing() {
    let store = faulty();
    let works = Works::default();
    // The owner's renewals do not arrive: a process that is paused, or cut off.
    let gate = store.hold(Method::Renew);
    let (running, attempt) = start(&operation(&store), &works).await;
    sleep(LEASE - Duration::from_millis(1)).await;
    assert!(!attempt.lease_lost());
    let early = must_not_run(&elsewhere(&store), "k", request()).await;
    assert!(matches!(early, Err(Error::InFlight { .. })));
    sleep(Duration::from_millis(2)).await;
    // It cannot be sure any more, before anybody tells it.
    assert!(attempt.lease_lost());
    assert_eq!(attempt_number(&elsewhere(&store), "k").await.unwrap(), 2);
    gate.open();
    sleep(LEASE).await;
    assert!(attempt.lease_lost());
    works.let_go();
    // Its caller gets what this attempt made; everybody else gets the stored outcome.
    assert_eq!(running.await.unwrap().unwrap(), 101);
    assert_eq!(
        must_not_run(&elsewhere(&store), "k", request())
            .await
            .unwrap(),
        2
    );
    assert_eq!(store.calls(Method::Complete), 2);
}

#[tokio::test(start_paused = true)]
async fn a_late_outcome_is_stored_when_nobody_has_claimed_since() {
    let store = faulty();
    let works = Works::default();
    store.fail_always(Method::Renew, Fault::Unavailable);
    let refusing = operation(&store).on_crash(OnCrash::Refuse);
    let (running, attempt) = start(&refusing, &works).await;
    sleep(LEASE * 2).await;
    assert!(attempt.lease_lost());
    let unknown = must_not_run(&elsewhere(&store).on_crash(OnCrash::Refuse), "k", request()).await;
    assert!(matches!(unknown, Err(Error::OutcomeUnknown { attempt: 1 })));
    works.let_go();
    assert_eq!(running.await.unwrap().unwrap(), 101);
    assert_eq!(
        must_not_run(&elsewhere(&store), "k", request())
            .await
            .unwrap(),
        101
    );
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_still_keeps_duplicates_of_this_process_out() {
    let store = faulty();
    let works = Works::default();
    store.fail_always(Method::Renew, Fault::Unavailable);
    let here = operation(&store);
    let (running, attempt) = start(&here, &works).await;
    sleep(LEASE * 2).await;
    assert!(attempt.lease_lost());
    // The store would give the record away; this process knows that the body still runs.
    let duplicate = must_not_run(&here, "k", request()).await;
    assert!(matches!(duplicate, Err(Error::InFlight { .. })));
    works.let_go();
    assert_eq!(running.await.unwrap().unwrap(), 101);
}

#[tokio::test(start_paused = true)]
async fn a_claim_acknowledged_after_its_lease_runs_only_if_the_record_is_still_its_own() {
    for overtaken in [false, true] {
        let records = Arc::new(MemoryStore::new());
        let store = FaultyStore::new(records.clone());
        // Longer than the lease, so that the lease can end while the claim is on its way.
        let engine = Engine::builder(store.clone()).store_timeout(LEASE * 10);
        let operation = operation_of(&engine.build());
        store.fail(Method::Claim, 1, Fault::LoseAnswer);
        let gate = store.hold(Method::Claim);
        let call = tokio::spawn(async move { attempt_number(&operation, "k").await });
        gate.arrived(1).await;
        gate.admit(1);
        // The claim has had its effect, its answer was lost, and its repetition is held.
        store.called(Method::Claim, 2).await;
        sleep(LEASE * 2).await;
        if overtaken {
            let elsewhere = operation_of(&EngineBuilder::new(records).build());
            assert_eq!(attempt_number(&elsewhere, "k").await.unwrap(), 2);
        }
        gate.open();
        let (answer, renewals) = if overtaken { (2, 0) } else { (1, 1) };
        assert_eq!(call.await.unwrap().unwrap(), answer);
        assert_eq!(store.calls(Method::Renew), renewals);
    }
}

#[tokio::test(start_paused = true)]
async fn waiters_take_over_when_the_lease_of_a_dead_process_ends() {
    let store = faulty();
    // A process that died with its claim: nobody abandons it.
    store.fail_always(Method::Abandon, Fault::Hang);
    let works = Works::default();
    let (running, _) = start(&operation(&store), &works).await;
    running.abort();
    let waiter = elsewhere(&store).in_flight(idem::InFlight::Wait(LEASE * 2));
    let before = tokio::time::Instant::now();
    assert_eq!(attempt_number(&waiter, "k").await.unwrap(), 2);
    assert!(before.elapsed() <= LEASE + Duration::from_secs(1));
}

/// Renewed every 0.8 s, and on no machine so late that it is over.
const BRIEF: Duration = Duration::from_millis(2400);

/// Blocks its thread for longer than a lease, as a body that calls a blocking client does.
fn block(store: &FaultyStore) {
    let began = std::time::Instant::now();
    let renewals = store.calls(Method::Renew);
    while store.calls(Method::Renew) < renewals + 4 {
        assert!(began.elapsed() < BRIEF * 20, "nobody renews");
        std::thread::yield_now();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_blocks_its_thread_keeps_its_lease_on_a_runtime_with_others() {
    let store = faulty();
    let brief = operation(&store).lease(BRIEF);
    let blocking = store.clone();
    // Not on a worker of its own: the task runs wherever the runtime puts it.
    let body = async move {
        block(&blocking);
        Ok::<_, Error>(idem::attempt().number())
    };
    let running = tokio::spawn(async move { brief.run("k", request(), body).await });
    store.called(Method::Renew, 3).await;
    let duplicate = must_not_run(&elsewhere(&store), "k", request()).await;
    assert!(matches!(duplicate, Err(Error::InFlight { .. })));
    assert_eq!(running.await.unwrap().unwrap(), 1);

    // Detached, as handlers run.
    let brief = operation(&store).lease(BRIEF);
    let Ok(Begun::Execute(execution)) = brief.keyed(Key::of("l")).unwrap().begin(request()).await
    else {
        panic!("the first call executes");
    };
    let blocking = store.clone();
    let ended = execution.drive_detached(async move {
        block(&blocking);
        (Verdict::Released, ())
    });
    assert!(ended.await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_cannot_be_regained_after_its_lease_frees_the_key() {
    let store = faulty();
    let engine = Engine::builder(store.clone()).store_timeout(LEASE * 10);
    let operation = operation_of(&engine.build()).on_crash(OnCrash::Refuse);
    store.fail(Method::Claim, 1, Fault::LoseAnswer);
    store.fail(Method::Renew, 1, Fault::Unavailable);
    let gate = store.hold(Method::Claim);
    let call = tokio::spawn({
        let operation = operation.clone();
        async move { must_not_run(&operation, "k", request()).await }
    });
    gate.arrived(1).await;
    gate.admit(1);
    store.called(Method::Claim, 2).await;
    sleep(LEASE * 2).await;
    gate.open();
    assert!(matches!(call.await.unwrap(), Err(Error::Store(_))));
    store.called(Method::Release, 1).await;
    // No body ran, so nothing is unknown.
    assert_eq!(attempt_number(&operation, "k").await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_execution_that_was_driven_too_late_does_not_run_beside_its_successor() {
    let store = faulty();
    let claimed = operation(&store).keyed(Key::of("k")).unwrap();
    let Ok(Begun::Execute(late)) = claimed.begin(request()).await else {
        panic!("the first call executes");
    };
    // Nothing renews before the body begins.
    sleep(LEASE + Duration::from_secs(1)).await;
    let works = Works::default();
    let (successor, _) = start(&elsewhere(&store), &works).await;
    let body = async { (Verdict::Released, works.execute()) };
    let ended = late.drive(body).await;
    assert!(
        matches!(ended, Err(ExecutionError::NotRun(Error::InFlight { .. }))),
        "{ended:?}"
    );
    works.let_go();
    assert_eq!(successor.await.unwrap().unwrap(), 102);
    assert_eq!(works.executed(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_execution_that_was_driven_late_runs_where_nobody_has_taken_its_lease() {
    let store = faulty();
    let claimed = operation(&store).keyed(Key::of("k")).unwrap();
    let Ok(Begun::Execute(late)) = claimed.begin(request()).await else {
        panic!("the first call executes");
    };
    sleep(LEASE + Duration::from_secs(1)).await;
    let body = async { (Verdict::Released, idem::attempt().lease_lost()) };
    assert!(!late.drive(body).await.unwrap());
    assert_eq!(store.calls(Method::Renew), 1);
}

#[tokio::test(start_paused = true)]
async fn a_short_lease_is_renewed_in_time_while_only_long_ones_were_before_it() {
    let store = faulty();
    let engine = Engine::new(store.clone());
    let long = operation_of(&engine).lease(Duration::from_secs(3600));
    let short = operation_of(&engine).lease(Policy::MIN_LEASE);
    let body = async {
        // Whoever renews has nothing to do for twenty minutes.
        sleep(Duration::from_secs(1)).await;
        let body = async {
            sleep(Policy::MIN_LEASE * 100).await;
            Ok::<_, Error>(idem::attempt().lease_lost())
        };
        short.run("short", request(), body).await
    };
    assert!(!long.run("long", request(), body).await.unwrap());
    assert!(store.calls(Method::Renew) >= 100);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_leases_are_each_renewed_once_in_a_third_of_their_time() {
    let store = faulty();
    let engine = Engine::new(store.clone());
    let bodies = (0..1000).map(|key| {
        let operation = operation_of(&engine);
        async move {
            let body = async {
                sleep(LEASE * 10).await;
                Ok::<_, Error>(idem::attempt().lease_lost())
            };
            operation.run(&key.to_string(), request(), body).await
        }
    });
    for lost in join_all(bodies).await {
        assert!(!lost.unwrap());
    }
    let renewals = store.calls(Method::Renew) / 1000;
    assert!((29..=36).contains(&renewals), "{renewals}");
}

/// As the workers of actix-web are.
#[test]
fn every_runtime_renews_the_leases_of_its_own_attempts() {
    let store = faulty();
    let engine = Engine::new(store.clone());
    // Renewed every 0.8 s, and on no machine so late that it is over.
    let lease = BRIEF;
    let in_a_runtime_of_its_own = |key: String, engine: Engine| {
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let operation = operation_of(&engine).lease(lease);
                let body = async {
                    sleep(lease * 3 / 2).await;
                    Ok::<_, Error>(idem::attempt().lease_lost())
                };
                operation.run(&key, request(), body).await
            })
        })
    };
    // The first runtime has ended when the next ones begin.
    for round in 0..2 {
        let others = ["a", "b", "c"]
            .map(|thread| in_a_runtime_of_its_own(format!("{thread}{round}"), engine.clone()));
        for other in others {
            assert!(!other.join().unwrap().unwrap());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_keeps_a_store_that_its_engine_has_left() {
    let store = Arc::new(MemoryStore::new());
    let engine = Engine::builder(FaultyStore::new(store.clone())).build();
    assert_eq!(
        attempt_number(&operation_of(&engine), "k").await.unwrap(),
        1
    );
    drop(engine);
    assert_eq!(Arc::strong_count(&store), 1);
}
