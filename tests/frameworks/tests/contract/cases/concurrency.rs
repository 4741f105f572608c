//! Duplicates at once, clients that hang up, bodies that panic.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use idem::conformance::faults::{Fault, Method};
use idem::{Operation, Verdict};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::works::Works;
use crate::{Framework, Running, Setup, serve};
use idem_frameworks::{HOST, Server, is_replay, post, problem};

/// 64 equal requests, all sent before the one that runs is let go.
async fn burst(server: Server, works: &Works, path: &str) -> Vec<Response<Bytes>> {
    let all: Vec<_> = (0..64)
        .map(|_| tokio::spawn(server.send(post(path, "a", "{}"))))
        .collect();
    works.started().await;
    works.let_go();
    join_all(all)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect()
}

pub(crate) async fn a_handler_that_hangs_is_stopped_at_its_deadline<F: Framework>() {
    let Setup { server, works, .. } = serve::<F>(|engine| engine).await;
    let stopped = server.send(post("/hanging", "a", "x")).await;
    assert_eq!(
        (stopped.status(), problem(&stopped).as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "deadline-exceeded")
    );
    assert_eq!(stopped.headers()["retry-after"], "1");
    // Its key is claimable at once, and the retry follows `on_crash`.
    let retry = server.send(post("/hanging", "a", "x")).await;
    assert_eq!(
        (retry.status(), &retry.body()[..]),
        (StatusCode::OK, &b"attempt 2"[..])
    );
    assert_eq!(works.executed(), 2);
}

pub(crate) async fn steps_run_once_across_a_deadline_and_a_released_status<F: Framework>() {
    let Setup { server, works, .. } = serve::<F>(|engine| engine).await;
    let stopped = server.send(post("/hanging", "a", "steps")).await;
    assert_eq!(problem(&stopped), "deadline-exceeded");
    let released = server.send(post("/hanging", "a", "steps")).await;
    assert_eq!(released.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(released.body(), "not yet");
    let last = server.send(post("/hanging", "a", "steps")).await;
    assert_eq!(
        (last.status(), &last.body()[..]),
        (StatusCode::CREATED, &b"held 1, charged 2"[..])
    );
    let replay = server.send(post("/hanging", "a", "steps")).await;
    assert!(is_replay(&replay));
    assert_eq!(replay.body(), last.body());
    assert_eq!(works.executed(), 2);
}

pub(crate) async fn a_stream_that_hangs_is_cut_off_at_the_deadline<F: Framework>() {
    let Setup { server, engine, .. } = serve::<F>(|engine| engine).await;
    let first = server.exchange(post("/hanging", "a", "stream")).await;
    // How it ends is the framework's to say.
    let _ = first.into_body().collect().await;
    engine.idle().await;
    let retry = server.send(post("/hanging", "a", "stream")).await;
    assert_eq!(retry.body(), "attempt 2");
}

pub(crate) async fn of_64_at_once_one_runs_and_63_wait_for_its_answer<F: Framework>() {
    let Setup { server, works, .. } = serve::<F>(|engine| engine).await;
    let responses = burst(server, &works, "/waiting").await;
    assert_eq!(works.executed(), 1);
    for response in &responses {
        assert_eq!(response.status(), 201);
        assert_eq!(response.body(), "1: {}");
    }
    let replays = responses.iter().filter(|response| is_replay(response));
    assert_eq!(replays.count(), 63);
}

pub(crate) async fn of_64_at_once_one_runs_and_63_are_told_to_come_back<F: Framework>() {
    let Setup { server, works, .. } = serve::<F>(|engine| engine).await;
    let first = tokio::spawn(server.send(post("/slow", "a", "{}")));
    works.started().await;
    let others = join_all((0..63).map(|_| server.send(post("/slow", "a", "{}")))).await;
    works.let_go();
    assert_eq!(first.await.unwrap().status(), 201);
    for refused in others {
        assert_eq!(refused.status(), 409);
        assert_eq!(problem(&refused), "in-flight");
        assert_eq!(refused.headers()["retry-after"], "1");
    }
    assert_eq!(works.executed(), 1);
    assert!(is_replay(&server.send(post("/slow", "a", "{}")).await));
}

pub(crate) async fn different_keys_do_not_wait_for_each_other<F: Framework>() {
    let Setup { server, works, .. } = serve::<F>(|engine| engine).await;
    let all: Vec<_> = (0..16)
        .map(|key| tokio::spawn(server.send(post("/slow", &key.to_string(), "{}"))))
        .collect();
    for _ in &all {
        works.started().await;
    }
    for _ in &all {
        works.let_go();
    }
    for response in join_all(all).await {
        assert_eq!(response.unwrap().status(), 201);
    }
    assert_eq!(works.executed(), 16);
}

/// A client that sends a request and does not read its answer.
async fn call(server: Server, path: &str, key: Option<&str>, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.0).await.unwrap();
    let key = key.map_or_else(String::new, |key| format!("idempotency-key: {key}\r\n"));
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: {HOST}\r\n{key}content-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// Resets a client's connection, and where the framework drops requests, waits until it has dropped
/// this one.
async fn hang_up<F: Framework>(client: TcpStream, works: &Works) {
    client.set_zero_linger().unwrap();
    drop(client);
    if F::DROPS_REQUESTS {
        works.left().await;
    }
}

pub(crate) async fn a_client_that_hangs_up_gets_its_answer_on_the_retry<F: Framework>() {
    let Setup { server, works, .. } = serve::<F>(|engine| engine).await;
    let first = call(server, "/waiting", Some("a"), "{}").await;
    works.started().await;
    hang_up::<F>(first, &works).await;
    // The duplicate joins the attempt whose client is gone.
    let retry = tokio::spawn(server.send(post("/waiting", "a", "{}")));
    works.let_go();
    let retry = retry.await.unwrap();
    assert_eq!(retry.status(), 201);
    assert!(is_replay(&retry));
    assert_eq!(retry.body(), "1: {}");
    assert_eq!(works.executed(), 1);
}

pub(crate) async fn a_client_that_hangs_up_does_not_stop_an_unprotected_body_either<
    F: Framework,
>() {
    // Without a key where none is required, and when the engine fails open.
    let setup = serve::<F>(|engine| engine.fail_open(true)).await;
    setup.store.fail_always(Method::Claim, Fault::Unavailable);
    for (number, key) in [(1, None), (2, Some("a"))] {
        let client = call(setup.server, "/slow-optional", key, "{}").await;
        setup.works.started().await;
        hang_up::<F>(client, &setup.works).await;
        setup.works.let_go();
        setup.works.reached(number).await;
    }
}

pub(crate) async fn who_hangs_up_while_waiting_never_runs<F: Framework>() {
    const WAITERS: u32 = 20;
    let Setup { server, works, .. } = serve::<F>(|engine| engine).await;
    // A body that frees its key: whoever waits for it would run next.
    let first = tokio::spawn(server.send(post("/waiting", "a", "release")));
    works.started().await;
    let waiters = (0..WAITERS).map(|_| call(server, "/waiting", Some("a"), "release"));
    let waiters = join_all(waiters).await;
    works.arrived(1 + WAITERS).await;
    for waiter in waiters {
        hang_up::<F>(waiter, &works).await;
    }
    for _ in 0..=WAITERS {
        works.let_go();
    }
    assert_eq!(first.await.unwrap().body(), "1: release");
    let next = server.send(post("/waiting", "a", "release")).await;
    assert_eq!(next.body(), "2: release");
    assert_eq!(works.executed(), 2);
}

pub(crate) async fn a_shutdown_waits_for_bodies_whose_clients_have_gone<F: Framework>() {
    shutdown_waits::<F>("/slow", Some("a")).await;
}

pub(crate) async fn a_shutdown_waits_for_unprotected_bodies_too<F: Framework>() {
    shutdown_waits::<F>("/slow-optional", None).await;
}

async fn shutdown_waits<F: Framework>(path: &str, key: Option<&str>) {
    let Setup {
        server,
        works,
        stop,
        app,
        ..
    } = serve::<F>(|engine| engine).await;
    let client = call(server, path, key, "{}").await;
    works.started().await;
    hang_up::<F>(client, &works).await;
    let mut stopping = tokio::spawn(stop);
    // The body stands still, so that nothing but a shutdown that cuts it off ends in this time.
    let cut_off = tokio::time::timeout(Duration::from_millis(200), &mut stopping);
    assert!(cut_off.await.is_err(), "the shutdown waits for nothing");
    works.let_go();
    stopping.await.unwrap();
    assert_eq!(works.executed(), 1);

    let Running { address, .. } = F::start(app).await;
    let next = tokio::spawn(Server(address).send(post(path, "a", "{}")));
    works.let_go();
    assert_eq!(is_replay(&next.await.unwrap()), key.is_some());
}

pub(crate) async fn a_panic_is_500_and_the_next_attempt_follows_the_crash_rule<F: Framework>() {
    let Setup { server, works, .. } = serve::<F>(|engine| engine).await;
    let first = tokio::spawn(server.send(post("/panics-once", "a", "")));
    works.started().await;
    let waiter = tokio::spawn(server.send(post("/panics-once", "a", "")));
    works.let_go();
    let first = first.await.unwrap();
    assert_eq!(first.status(), 500);
    assert_eq!(problem(&first), "crashed");
    assert!(!String::from_utf8_lossy(first.body()).contains("half-way"));
    // The waiter, or the next retry, runs as the second attempt.
    works.started().await;
    works.let_go();
    let second = waiter.await.unwrap();
    assert_eq!(
        (second.status(), &second.body()[..]),
        (StatusCode::OK, &b"attempt 2"[..])
    );
    assert!(is_replay(&server.send(post("/panics-once", "a", "")).await));
    assert_eq!(works.executed(), 2);
}

pub(crate) async fn after_a_panic_a_refusing_operation_waits_for_an_operator<F: Framework>() {
    let Setup {
        server,
        works,
        engine,
        ..
    } = serve::<F>(|engine| engine).await;
    let send = || server.send(post("/panics-and-refuses", "a", ""));
    assert_eq!(send().await.status(), 500);
    for _ in 0..3 {
        let refused = send().await;
        assert_eq!(refused.status(), 409);
        assert_eq!(problem(&refused), "outcome-unknown");
        assert!(!refused.headers().contains_key("retry-after"));
    }
    assert_eq!(works.executed(), 1);
    let operation: Operation = engine.operation(F::REFUSING).ttl(Duration::from_secs(60));
    let resolved = operation.resolve("a", Verdict::Released).await.unwrap();
    assert_eq!(resolved, idem::Resolution::Resolved);
    let resolved = operation.resolve("a", Verdict::Released).await.unwrap();
    assert_eq!(resolved, idem::Resolution::NoRecord);
    assert_eq!(send().await.status(), 500);
    assert_eq!(works.executed(), 2);
}
