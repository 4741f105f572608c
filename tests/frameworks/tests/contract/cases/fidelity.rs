//! A replay is the first response, byte for byte; what cannot be kept is never run again.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use idem::http::HttpSettings;

use crate::app::{MIB, binary};
use crate::{Framework, Setup, serve};
use idem_frameworks::{is_replay, post, problem};

/// The headers that a replay must share, by name in order; servers add `date` to both.
fn kept(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let mut kept: Vec<_> = headers
        .iter()
        .filter(|(name, _)| !["date", "idempotent-replayed"].contains(&name.as_str()))
        .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
        .collect();
    // The order of different names is no part of a response.
    kept.sort_by(|(one, _), (other, _)| one.cmp(other));
    kept
}

pub(crate) async fn a_replay_has_the_first_ones_status_headers_and_body<F: Framework>() {
    let Setup { server, works, .. } = serve::<F>(|engine| engine).await;
    let cases = [
        ("created", 201, Bytes::from_static(b"made")),
        ("no-content", 204, Bytes::new()),
        ("empty", 200, Bytes::new()),
        ("binary", 200, binary(1000)),
        ("mib", 200, binary(MIB)),
        ("error", 500, Bytes::from_static(b"after the charge")),
        ("headers", 200, Bytes::from_static(b"body")),
    ];
    for (number, (kind, status, body)) in (1..).zip(cases) {
        let send = || server.send(post("/respond", kind, kind));
        let first = send().await;
        assert_eq!(first.status(), status, "{kind}");
        assert_eq!(first.body(), &body, "{kind}");
        assert!(!is_replay(&first), "{kind}");
        for _ in 0..2 {
            let replay = send().await;
            assert!(is_replay(&replay), "{kind}");
            assert_eq!(replay.status(), first.status(), "{kind}");
            assert_eq!(replay.body(), first.body(), "{kind}");
            assert_eq!(kept(replay.headers()), kept(first.headers()), "{kind}");
        }
        assert_eq!(works.executed(), number, "{kind}");
    }
}

pub(crate) async fn location_repeated_headers_and_foreign_bytes_survive<F: Framework>() {
    let Setup { server, .. } = serve::<F>(|engine| engine).await;
    for _ in 0..2 {
        let created = server.send(post("/respond", "a", "created")).await;
        assert_eq!(created.headers()["location"], "/charges/1");
    }
    for _ in 0..2 {
        let response = server.send(post("/respond", "b", "headers")).await;
        let links: Vec<_> = response.headers().get_all("link").iter().collect();
        assert_eq!(
            links,
            ["</a>; rel=\"a\"", "</b>; rel=\"b\"", "</c>; rel=\"c\""]
        );
        assert_eq!(
            response.headers()["x-latin"].as_bytes(),
            b"caf\xe9 \xff\x80"
        );
        assert_eq!(response.headers()["x-empty"], "");
    }
}

pub(crate) async fn cookies_dates_and_hop_by_hop_headers_are_not_stored<F: Framework>() {
    let Setup { server, .. } = serve::<F>(|engine| engine).await;
    let first = server.send(post("/respond", "a", "unkept")).await;
    assert_eq!(first.headers()["set-cookie"], "session=secret");
    let replay = server.send(post("/respond", "a", "unkept")).await;
    assert!(is_replay(&replay));
    assert_eq!(replay.headers()["x-kept"], "1");
    for name in ["set-cookie", "x-hop", "keep-alive"] {
        assert!(!replay.headers().contains_key(name), "{name}");
    }
    let date = replay.headers().get("date");
    assert!(date.is_none_or(|date| date != "Thu, 01 Jan 1970 00:00:00 GMT"));
    let marks = replay.headers().get_all("idempotent-replayed");
    assert_eq!(marks.iter().count(), 1);

    let Setup { server, .. } =
        serve::<F>(|engine| engine.http(HttpSettings::new().keep_set_cookie(true))).await;
    for _ in 0..2 {
        let response = server.send(post("/respond", "a", "unkept")).await;
        assert_eq!(response.headers()["set-cookie"], "session=secret");
    }
}

async fn is_kept_for_the_first_caller_only<F: Framework>(kind: &'static str, body: Bytes) {
    let Setup { server, works, .. } = serve::<F>(|engine| engine).await;
    let send = || server.send(post("/respond", "a", kind));
    let first = send().await;
    assert_eq!(first.status(), 200);
    assert_eq!(first.body(), &body);
    for _ in 0..2 {
        let retry = send().await;
        assert_eq!(retry.status(), 409);
        assert_eq!(problem(&retry), "not-replayable");
        assert!(!retry.headers().contains_key("retry-after"));
    }
    assert_eq!(works.executed(), 1);
}

pub(crate) async fn what_is_too_large_reaches_the_first_caller_whole_and_never_runs_again<
    F: Framework,
>() {
    is_kept_for_the_first_caller_only::<F>("large", binary(3 * MIB)).await;
}

pub(crate) async fn what_is_streamed_is_given_back_whole<F: Framework>() {
    let Setup { server, works, .. } = serve::<F>(|engine| engine).await;
    for retry in [false, true] {
        let response = server.send(post("/respond", "a", "streamed")).await;
        assert_eq!(response.status(), 200);
        assert_eq!(is_replay(&response), retry);
        assert_eq!(response.body(), "one two three");
    }
    assert_eq!(works.executed(), 1);
}

pub(crate) async fn a_stream_is_passed_on_as_it_comes_and_in_flight_until_it_has_ended<
    F: Framework,
>() {
    let Setup { server, works, .. } = serve::<F>(|engine| engine).await;
    let mut first = server.exchange(post("/respond", "a", "slow stream")).await;
    let frame = first.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "first ");
    works.started().await;
    let retry = server.send(post("/respond", "a", "slow stream")).await;
    assert_eq!(
        (retry.status(), problem(&retry).as_str()),
        (StatusCode::CONFLICT, "in-flight")
    );
    works.let_go();
    let rest = first.collect().await.unwrap().to_bytes();
    assert_eq!(rest, "second of attempt 1");
    // Who has seen the end finds a replay.
    let retry = server.send(post("/respond", "a", "slow stream")).await;
    assert!(is_replay(&retry));
    assert_eq!(retry.body(), "first second of attempt 1");
    assert_eq!(works.executed(), 1);
}

pub(crate) async fn a_stream_whose_client_has_gone_is_recorded_to_its_end<F: Framework>() {
    let Setup {
        server,
        works,
        engine,
        ..
    } = serve::<F>(|engine| engine).await;
    let mut first = server.exchange(post("/respond", "a", "slow stream")).await;
    first.frame().await.unwrap().unwrap();
    works.started().await;
    drop(first);
    works.let_go();
    engine.idle().await;
    let retry = server.send(post("/respond", "a", "slow stream")).await;
    assert!(is_replay(&retry));
    assert_eq!(retry.body(), "first second of attempt 1");
    assert_eq!(works.executed(), 1);
}

pub(crate) async fn a_stream_that_breaks_off_is_never_run_again<F: Framework>() {
    let Setup { server, works, .. } = serve::<F>(|engine| engine).await;
    let mut first = server
        .exchange(post("/respond", "a", "broken stream"))
        .await;
    let frame = first.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "first ");
    works.started().await;
    works.let_go();
    // How it ends is the framework's to say.
    let _ = first.collect().await;
    for _ in 0..2 {
        let retry = server.send(post("/respond", "a", "broken stream")).await;
        assert_eq!(
            (retry.status(), problem(&retry).as_str()),
            (StatusCode::CONFLICT, "not-replayable")
        );
    }
    assert_eq!(works.executed(), 1);
}

pub(crate) async fn a_stream_that_is_too_long_is_never_run_again<F: Framework>() {
    let body: Vec<u8> = binary(MIB / 16).repeat(48);
    is_kept_for_the_first_caller_only::<F>("long stream", body.into()).await;
}

pub(crate) async fn an_endless_response_flows_and_is_never_run_again<F: Framework>() {
    let Setup { server, works, .. } = serve::<F>(|engine| engine).await;
    let mut first = server.exchange(post("/respond", "a", "endless")).await;
    let mut received = 0;
    while received < 4 * MIB {
        let frame = first.frame().await.unwrap().unwrap();
        received += frame.into_data().unwrap().len();
    }
    // The retry comes while the first response still flows.
    let retry = server.send(post("/respond", "a", "endless")).await;
    assert_eq!(
        (retry.status(), problem(&retry).as_str()),
        (StatusCode::CONFLICT, "not-replayable")
    );
    drop(first);
    let retry = server.send(post("/respond", "a", "endless")).await;
    assert_eq!(retry.status(), 409);
    assert_eq!(works.executed(), 1);
}
