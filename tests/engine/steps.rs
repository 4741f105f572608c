//! Steps: what a later attempt is given back, what is suspended, and what happens to a step whose
//! store is away, forgets, or has given the record to another.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use idem::conformance::faults::{Fault, Method};
use idem::stores::memory::MemoryStore;
use idem::{
    Engine, Error, InFlight, OnCrash, Operation, Phase, Resolution, StepError, StoreError, Verdict,
};
use tokio::sync::Notify;

use crate::bench::{LEASE, STORE_TIMEOUT, faulty, must_not_run, operation, operation_of, request};
use crate::late::Forgetful;

const POLICIES: [OnCrash; 2] = [OnCrash::Rerun, OnCrash::Refuse];

/// What each step has really done.
#[derive(Default)]
struct Effects {
    hold: AtomicU32,
    charge: AtomicU32,
}

impl Effects {
    async fn hold(&self) -> Result<u32, Error> {
        idem::step("hold", async { Ok(done(&self.hold)) }).await
    }

    async fn charge(&self) -> Result<u32, Error> {
        idem::step("charge", async { Ok(done(&self.charge)) }).await
    }

    fn seen(&self) -> (u32, u32) {
        let (hold, charge) = (&self.hold, &self.charge);
        (hold.load(Ordering::SeqCst), charge.load(Ordering::SeqCst))
    }
}

fn done(effect: &AtomicU32) -> u32 {
    effect.fetch_add(1, Ordering::SeqCst) + 1
}

async fn trip(effects: &Effects, operation: &Operation) -> Result<(u32, u32), Error> {
    let body = async { Ok((effects.hold().await?, effects.charge().await?)) };
    operation.run("k", request(), body).await
}

/// A step that must not run.
async fn ran_again<T>() -> Result<T, Error> {
    panic!("it ran");
}

fn taken<T: std::fmt::Debug>(answer: Result<T, Error>) -> StepError {
    match answer {
        Err(Error::Step(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn finished_steps_are_given_back_after_a_panic_a_drop_and_a_deadline() {
    let store = faulty();
    let operation = operation(&store).deadline(Duration::from_secs(9));
    let effects = Effects::default();
    let panics = async {
        effects.hold().await?;
        panic!("half-way");
    };
    let run = operation.run::<_, _, Result<(u32, u32), Error>>("k", request(), panics);
    std::panic::AssertUnwindSafe(run)
        .catch_unwind()
        .await
        .unwrap_err();

    let hangs = async {
        effects.hold().await?;
        assert_eq!(idem::attempt().steps(), ["hold"]);
        std::future::pending::<Result<(u32, u32), Error>>().await
    };
    let stopped = operation.run("k", request(), hangs).await;
    assert!(matches!(stopped, Err(Error::DeadlineExceeded { .. })));

    let hangs = async {
        effects.hold().await?;
        std::future::pending::<Result<(u32, u32), Error>>().await
    };
    let dropped =
        tokio::time::timeout(Duration::from_secs(1), operation.run("k", request(), hangs));
    dropped.await.unwrap_err();
    store.called(Method::Abandon, 3).await;

    let body = async {
        let attempt = idem::attempt();
        assert_eq!(
            (attempt.number(), attempt.steps()),
            (4, vec!["hold".into()])
        );
        Ok::<_, Error>((effects.hold().await?, effects.charge().await?))
    };
    assert_eq!(operation.run("k", request(), body).await.unwrap(), (1, 1));
    assert_eq!(effects.seen(), (1, 1));
    assert_eq!(trip(&effects, &operation).await.unwrap(), (1, 1));
    assert_eq!(effects.seen(), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_release_after_a_finished_step_suspends_and_the_retry_continues_under_either_policy() {
    for on_crash in POLICIES {
        let store = faulty();
        let operation = operation(&store).on_crash(on_crash);
        let effects = Effects::default();
        for (attempt, says) in [(1, "an error"), (2, "a word")] {
            let body = async {
                assert_eq!(idem::attempt().number(), attempt);
                let held = effects.hold().await?;
                if says == "a word" {
                    idem::attempt().release();
                    return Ok::<_, Error>((held, 0));
                }
                Err(Error::InFlight {
                    retry_after: Duration::ZERO,
                })
            };
            let _ = operation.run("k", request(), body).await;
            let seen = operation.inspect("k").await.unwrap().unwrap();
            assert_eq!((seen.attempt, seen.phase), (attempt, Phase::Suspended));
        }
        assert_eq!(trip(&effects, &operation).await.unwrap(), (1, 1));
        assert_eq!(effects.seen(), (1, 1));
        assert_eq!(store.calls(Method::Release), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_release_without_a_finished_step_frees_the_key() {
    let store = faulty();
    let operation = operation(&store);
    let body = async {
        let failed: Result<u32, Error> = idem::step("hold", async {
            Err(Error::InFlight {
                retry_after: Duration::ZERO,
            })
        })
        .await;
        failed
    };
    operation.run("k", request(), body).await.unwrap_err();
    assert_eq!(operation.inspect("k").await.unwrap(), None);
    assert_eq!(store.calls(Method::Checkpoint), 0);
}

#[tokio::test(start_paused = true)]
async fn calls_without_steps_cost_what_they_cost_and_a_step_costs_one_call() {
    let store = faulty();
    let operation = operation(&store);
    let body = async { Ok::<_, Error>(7) };
    operation.run("plain", request(), body).await.unwrap();
    assert_eq!(store.all_calls(), 2);
    must_not_run(&operation, "plain", request()).await.unwrap();
    assert_eq!(store.all_calls(), 3);
    let effects = Effects::default();
    trip(&effects, &operation).await.unwrap();
    assert_eq!(store.all_calls(), 3 + 4);
    assert_eq!(store.calls(Method::Checkpoint), 2);
}

#[tokio::test(start_paused = true)]
async fn a_name_is_of_one_step_and_free_again_when_the_step_failed() {
    let operation = operation(&faulty());
    let body = async {
        let first = idem::step("hold", async { Ok::<_, Error>(1) }).await?;
        let again = idem::step("hold", ran_again::<u32>()).await;
        assert_eq!(
            taken(again),
            StepError::NameTaken {
                name: "hold".into()
            }
        );
        let attempt = idem::attempt();
        let outer = attempt.step("outer", async {
            let within = idem::step("outer", async { Ok::<_, Error>(1) }).await;
            assert!(matches!(taken(within), StepError::NameTaken { .. }));
            Err::<u32, _>(Error::NoEngine)
        });
        outer.await.unwrap_err();
        let retried = idem::step("outer", async { Ok::<_, Error>(2) }).await?;
        Ok::<_, Error>((first, retried))
    };
    assert_eq!(operation.run("k", request(), body).await.unwrap(), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_value_of_another_type_is_an_error_and_never_run_again() {
    for on_crash in POLICIES {
        let operation = operation(&faulty()).on_crash(on_crash);
        let old = async {
            idem::step("charge", async { Ok::<_, Error>(5_u32) }).await?;
            Err::<u32, _>(Error::NoEngine)
        };
        operation.run("k", request(), old).await.unwrap_err();
        for _ in 0..2 {
            let new = async {
                let charge = ran_again::<(String, String)>();
                idem::step("charge", charge).await.map(|_| 0_u32)
            };
            let refused = taken(operation.run("k", request(), new).await);
            let name = "charge".to_owned();
            assert_eq!(refused, StepError::OtherType { name });
        }
        let old = async { idem::step("charge", ran_again::<u32>()).await };
        assert_eq!(operation.run("k", request(), old).await.unwrap(), 5);
    }
}

#[tokio::test(start_paused = true)]
async fn where_there_can_be_no_step_it_says_so() {
    let outside: Result<u32, Error> = idem::step("a", ran_again()).await;
    assert_eq!(taken(outside), StepError::OutsideOfBody);
    let operation = operation(&faulty());
    let body = async {
        // A task of its own knows the attempt only where it was given it.
        let spawned = tokio::spawn(idem::step("a", async { Ok::<u32, Error>(1) }));
        assert_eq!(taken(spawned.await.unwrap()), StepError::OutsideOfBody);
        let attempt = idem::attempt();
        let given = async move { attempt.step("a", async { Ok::<u32, Error>(2) }).await };
        tokio::spawn(given).await.unwrap()
    };
    assert_eq!(operation.run("k", request(), body).await.unwrap(), 2);
    let unprotected = operation.unprotected();
    let body = idem::step("a", async { Ok::<u32, Error>(3) });
    assert_eq!(unprotected.drive(body).await.unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_step_that_cannot_be_kept_makes_the_attempt_a_crash() {
    let engine = Engine::builder(MemoryStore::new())
        .max_outcome_bytes(64)
        .build();
    let operation = operation_of(&engine).on_crash(OnCrash::Refuse);
    let body = async {
        let large = "x".repeat(64);
        idem::step("large", async move { Ok::<_, Error>(large) }).await?;
        Ok(())
    };
    let refused = taken(operation.run("k", request(), body).await);
    assert!(matches!(refused, StepError::TooLarge { max_bytes: 64, .. }));
    let refused = must_not_run(&operation, "k", request()).await;
    assert!(matches!(refused, Err(Error::OutcomeUnknown { attempt: 1 })));

    // Where it is known before, the step does not run, and nothing is in doubt.
    let body = async {
        let name = "n".repeat(64);
        idem::step(&name, ran_again::<u32>()).await
    };
    let refused = taken(operation.run("other", request(), body).await);
    assert!(matches!(refused, StepError::TooLarge { .. }));
    assert_eq!(operation.inspect("other").await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_is_sent_again_while_the_lease_holds() {
    for fault in [Fault::Unavailable, Fault::LoseAnswer, Fault::Hang] {
        let store = faulty();
        let operation = operation(&store);
        let effects = Effects::default();
        store.fail(Method::Checkpoint, 2, fault);
        assert_eq!(trip(&effects, &operation).await.unwrap(), (1, 1));
        assert_eq!(effects.seen(), (1, 1));
        assert_eq!(store.calls(Method::Checkpoint), 4);
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_whose_store_stays_away_is_kept_when_the_attempt_ends() {
    let store = faulty();
    let engine = Engine::new(store.clone());
    let operation = operation_of(&engine).on_crash(OnCrash::Refuse);
    let effects = Effects::default();
    store.fail_everything(&Fault::Unavailable);
    store.heal(Method::Claim);
    let body = async {
        let stopped = effects.hold().await.unwrap_err();
        assert!(matches!(stopped, Error::StepNotStored(_)), "{stopped:?}");
        assert!(idem::attempt().lease_lost());
        Err::<(u32, u32), _>(stopped)
    };
    let before = tokio::time::Instant::now();
    operation.run("k", request(), body).await.unwrap_err();
    assert!(before.elapsed() <= LEASE + 3 * STORE_TIMEOUT);
    store.heal_everything();
    engine.idle().await;
    let seen = operation.inspect("k").await.unwrap().unwrap();
    assert_eq!(seen.phase, Phase::Suspended);
    assert_eq!(trip(&effects, &operation).await.unwrap(), (1, 1));
    assert_eq!(effects.seen(), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_ends_the_step_at_once() {
    let store = faulty();
    let operation = operation(&store);
    let refuses = StoreError::rejected("tests", std::io::Error::other("no"));
    store.fail(Method::Checkpoint, 1, Fault::Error(refuses));
    let effects = Effects::default();
    let stopped = trip(&effects, &operation).await.unwrap_err();
    assert!(matches!(
        stopped,
        Error::StepNotStored(StoreError::Rejected { .. })
    ));
    assert_eq!(trip(&effects, &operation).await.unwrap(), (1, 1));
    assert_eq!(effects.seen(), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn an_overtaken_attempt_runs_no_further_step_and_keeps_none() {
    let store = faulty();
    let (here, there) = (operation(&store), operation(&store));
    let effects = Arc::new(Effects::default());
    let paused = Arc::new(Notify::new());
    store.fail_always(Method::Renew, Fault::Hang);
    let first = {
        let (effects, paused) = (Arc::clone(&effects), Arc::clone(&paused));
        tokio::spawn(async move {
            let body = async {
                let held = effects.hold().await?;
                let unkept: Result<u32, Error> = idem::step("unkept", async {
                    paused.notified().await;
                    Ok(1)
                })
                .await;
                assert!(matches!(unkept, Err(Error::LeaseLost)), "{unkept:?}");
                let late = effects.charge().await;
                assert!(matches!(late, Err(Error::LeaseLost)), "{late:?}");
                Ok::<_, Error>((held, 0))
            };
            here.run("k", request(), body).await
        })
    };
    store.called(Method::Checkpoint, 1).await;
    tokio::time::sleep(2 * LEASE).await;
    assert_eq!(trip(&effects, &there).await.unwrap(), (1, 1));
    paused.notify_one();
    first.await.unwrap().unwrap();
    assert_eq!(effects.seen(), (1, 1));
    assert_eq!(trip(&effects, &there).await.unwrap(), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn steps_that_a_failover_forgot_are_stored_again_with_the_next_one() {
    let store = Forgetful::default();
    let operation = operation_of(&Engine::new(store.clone()));
    let effects = Effects::default();
    let body = async {
        effects.hold().await?;
        store.forget_all();
        effects.charge().await?;
        idem::attempt().release();
        Ok::<_, Error>((0, 0))
    };
    operation.run("k", request(), body).await.unwrap();
    let seen = operation.inspect("k").await.unwrap().unwrap();
    assert_eq!((seen.attempt, seen.phase), (1, Phase::Suspended));
    assert_eq!(trip(&effects, &operation).await.unwrap(), (1, 1));
    assert_eq!(effects.seen(), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn steps_that_finish_together_are_stored_together_and_none_is_lost() {
    let store = faulty();
    let operation = operation(&store);
    let gate = store.hold(Method::Checkpoint);
    let body = async {
        let step =
            |name: &'static str| idem::step(name, async move { Ok::<_, Error>(name.to_owned()) });
        let steps = async { tokio::join!(step("a"), step("b"), step("c"), step("d")) };
        let open = async {
            gate.arrived(1).await;
            gate.open();
        };
        let (steps, ()) = tokio::join!(steps, open);
        let named = (steps.0?, steps.1?, steps.2?, steps.3?);
        let (a, b, c, d) = &named;
        assert_eq!([a, b, c, d], ["a", "b", "c", "d"]);
        Err::<u32, _>(Error::NoEngine)
    };
    operation.run("k", request(), body).await.unwrap_err();
    // The first alone, and the others with one another; and all of them with the suspension.
    assert_eq!(store.calls(Method::Checkpoint), 3);
    let body = async {
        let mut names = idem::attempt().steps();
        names.sort();
        assert_eq!(names, ["a", "b", "c", "d"]);
        Ok::<_, Error>(4_u32)
    };
    assert_eq!(operation.run("k", request(), body).await.unwrap(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_nobody_waits_for_any_more_keeps_the_steps() {
    for on_crash in POLICIES {
        for fault in [Fault::HangAfterEffect, Fault::Hang] {
            let store = faulty();
            let engine = Engine::new(store.clone());
            let operation = operation_of(&engine).on_crash(on_crash);
            let effects = Effects::default();
            let body = async {
                effects.hold().await?;
                Err::<(u32, u32), _>(Error::NoEngine)
            };
            operation.run("k", request(), body).await.unwrap_err();
            store.fail(Method::Claim, 1, fault);
            let gone = tokio::time::timeout(Duration::from_secs(1), trip(&effects, &operation));
            gone.await.unwrap_err();
            engine.idle().await;
            assert_eq!(trip(&effects, &operation).await.unwrap(), (1, 1));
            assert_eq!(effects.seen(), (1, 1));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_resolves_a_suspended_record_frees_the_key_or_says_what_happened() {
    let operation = operation(&faulty()).in_flight(InFlight::Reject);
    let effects = Effects::default();
    let body = || async {
        effects.hold().await?;
        Err::<(u32, u32), _>(Error::NoEngine)
    };
    operation.run("k", request(), body()).await.unwrap_err();
    let resolved = operation.resolve("k", Verdict::Released).await.unwrap();
    assert_eq!(resolved, Resolution::Resolved);
    assert_eq!(operation.inspect("k").await.unwrap(), None);
    assert_eq!(trip(&effects, &operation).await.unwrap(), (2, 1));
    operation.run("k2", request(), body()).await.unwrap_err();
    let outcome = idem::Outcome::Value("[9,9]".into());
    let resolved = operation.resolve("k2", Verdict::Final(outcome)).await;
    assert_eq!(resolved.unwrap(), Resolution::Resolved);
    let replay: Result<(u32, u32), Error> = operation.run("k2", request(), ran_again()).await;
    assert_eq!(replay.unwrap(), (9, 9));
}
