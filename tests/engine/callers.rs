//! Calls on tasks of their own, whose callers go away.

use futures_util::FutureExt;
use idem::conformance::faults::Method;
use idem::{Engine, Error, InFlight, detached};

use crate::bench::{attempt_number, faulty, must_not_run, operation, request};
use crate::works::Works;

const PATIENT: InFlight = InFlight::Wait(std::time::Duration::from_secs(60));

#[tokio::test]
async fn a_call_that_waits_ends_with_its_caller() {
    let store = faulty();
    let operation = operation(&store).in_flight(PATIENT);
    let works = Works::default();
    let (first, inside) = (operation.clone(), works.clone());
    let body = async move {
        inside.stop_here().await;
        idem::attempt().release();
        Ok::<_, Error>(inside.execute())
    };
    let first = tokio::spawn(async move { first.run("k", request(), body).await });
    works.started().await;

    // What is told on the task says what it did.
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let mut waiting = Vec::new();
    for _ in 0..100 {
        let (operation, told) = (operation.clone(), told.clone());
        let mut call = Box::pin(detached(async move {
            let answer = must_not_run(&operation, "k", request()).await;
            told.send(answer).unwrap();
        }));
        assert!((&mut call).now_or_never().is_none());
        waiting.push(call);
    }
    drop(waiting);
    for _ in 0..100 {
        let answer = heard.recv().await.unwrap();
        assert!(matches!(answer, Err(Error::InFlight { .. })));
    }
    works.let_go();
    assert_eq!(first.await.unwrap().unwrap(), 1);
    assert_eq!(attempt_number(&operation, "k").await.unwrap(), 1);
    assert_eq!(works.executed(), 1);
}

#[tokio::test]
async fn a_call_whose_claim_is_on_its_way_ends_with_its_caller_and_frees_the_key() {
    let store = faulty();
    let operation = operation(&store);
    let gate = store.hold(Method::Claim);
    let call = {
        let operation = operation.clone();
        detached(async move { must_not_run(&operation, "k", request()).await })
    };
    gate.arrived(1).await;
    drop(call);
    gate.open();
    // Freed in the background: whoever comes runs at once or is told to come back.
    loop {
        match attempt_number(&operation, "k").await {
            Err(Error::InFlight { .. }) => tokio::task::yield_now().await,
            answer => break assert_eq!(answer.unwrap(), 1),
        }
    }
}

#[tokio::test]
async fn a_body_that_has_begun_goes_on_and_so_does_what_it_calls() {
    let engine = Engine::new(faulty());
    let [outer, inner, after] = ["outer", "inner", "after"].map(|name| engine.operation(name));
    let works = Works::default();
    let inside = works.clone();
    let (done, ended) = tokio::sync::oneshot::channel();
    let call = detached(async move {
        let body = async {
            inside.stop_here().await;
            attempt_number(&inner, "k").await
        };
        let within = outer.run("k", request(), body).await;
        let then = attempt_number(&after, "k").await;
        done.send((within, then)).unwrap();
    });
    works.started().await;
    drop(call);
    works.let_go();
    let (within, then) = ended.await.unwrap();
    assert_eq!((within.unwrap(), then.unwrap()), (1, 1));
}
