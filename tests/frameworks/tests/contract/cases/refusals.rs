//! When the body must not run, it does not run, and the answer says why.

use bytes::Bytes;
use http::{HeaderName, Request, Response, StatusCode};
use idem::conformance::faults::{Fault, Method};
use idem::http::{HttpSettings, KeySyntax, Problem, RequestIdentity};

use crate::app::MIB;
use crate::{Framework, Setup, serve};
use idem_frameworks::{HOST, is_replay, post, problem};

const KEY: &str = "idempotency-key";

fn order(amount: u32) -> String {
    format!("{{\"amount\": {amount}}}")
}

fn with_keys(keys: &[&[u8]]) -> Request<String> {
    let mut request = Request::post("/charges").header("content-type", "application/json");
    for key in keys {
        request = request.header(KEY, *key);
    }
    request.body(order(1)).unwrap()
}

pub(crate) async fn a_missing_malformed_or_doubled_key_runs_nothing_and_claims_nothing<
    F: Framework,
>() {
    let setup = serve::<F>(|engine| engine).await;
    let long = "k".repeat(256);
    let cases: [(&[&[u8]], &str); 13] = [
        (&[], "key-missing"),
        (&[b""], "key-invalid"),
        (&[b"\"\""], "key-invalid"),
        (&[b"\"open"], "key-invalid"),
        (&[b"\"a\"b"], "key-invalid"),
        (&[b"a b"], "key-invalid"),
        (&[b"caf\xe9"], "key-invalid"),
        (&[long.as_bytes()], "key-invalid"),
        (&[b"a", b"a"], "key-invalid"),
        // The same lines as an intermediary may join them.
        (&[b"a,a"], "key-invalid"),
        (&[b"a, a"], "key-invalid"),
        (&[b"\"a\", \"a\""], "key-invalid"),
        (&[b"a,"], "key-invalid"),
    ];
    for (keys, kind) in cases {
        let refused = setup.server.send(with_keys(keys)).await;
        assert_eq!(refused.status(), 400);
        assert_eq!(problem(&refused), kind);
    }
    assert_eq!(setup.works.executed(), 0);
    assert_eq!(setup.store.calls(Method::Claim), 0);
}

pub(crate) async fn strict_and_uuid_only_are_settings<F: Framework>() {
    let Setup { server, .. } =
        serve::<F>(|engine| engine.http(HttpSettings::new().key_syntax(KeySyntax::Strict))).await;
    let bare = server.send(with_keys(&[b"bare"])).await;
    assert_eq!(bare.status(), 400);
    // What the client is told to send is accepted.
    let body: serde_json::Value = serde_json::from_slice(bare.body()).unwrap();
    let detail = body["detail"].as_str().unwrap();
    assert!(detail.contains("the key is not quoted"), "{detail}");
    assert_eq!(server.send(with_keys(&[b"\"quoted\""])).await.status(), 201);
    let Setup { server, .. } =
        serve::<F>(|engine| engine.http(HttpSettings::new().key_syntax(KeySyntax::Uuid))).await;
    assert_eq!(server.send(with_keys(&[b"\"quoted\""])).await.status(), 400);
    let id = uuid::Uuid::new_v4().to_string();
    assert_eq!(server.send(with_keys(&[id.as_bytes()])).await.status(), 201);
}

pub(crate) async fn problems_carry_the_configured_type_and_link<F: Framework>() {
    let Setup { server, .. } = serve::<F>(|engine| {
        engine.http(
            HttpSettings::new()
                .problem_base("https://api.example/problems/")
                .documentation("https://api.example/docs/idempotency"),
        )
    })
    .await;
    let refused = server.send(with_keys(&[])).await;
    let body: serde_json::Value = serde_json::from_slice(refused.body()).unwrap();
    assert_eq!(body["type"], "https://api.example/problems/key-missing");
    assert_eq!(
        refused.headers()["link"],
        "<https://api.example/docs/idempotency>; rel=\"describedby\""
    );
}

pub(crate) async fn without_a_key_an_optional_operation_runs_unprotected_but_a_bad_key_is_refused<
    F: Framework,
>() {
    let setup = serve::<F>(|engine| engine).await;
    for number in 1..=2 {
        let mut request = post("/optional", "x", "body");
        request.headers_mut().remove(KEY);
        let response = setup.server.send(request).await;
        assert_eq!(response.body(), &format!("{number}: body"));
    }
    assert_eq!(setup.store.calls(Method::Claim), 0);
    let refused = setup.server.send(post("/optional", "a b", "body")).await;
    assert_eq!(
        (refused.status(), problem(&refused).as_str()),
        (StatusCode::BAD_REQUEST, "key-invalid")
    );
    for again in [false, true] {
        let response = setup.server.send(post("/optional", "a", "body")).await;
        assert_eq!(response.body(), "3: body");
        assert_eq!(is_replay(&response), again);
    }
    assert_eq!(setup.works.executed(), 3);
}

pub(crate) async fn a_body_over_the_limit_is_413_and_claims_nothing<F: Framework>() {
    let setup = serve::<F>(|engine| engine.http(HttpSettings::new().max_request_bytes(20))).await;
    let long = format!("{{\"amount\": 1{}}}", " ".repeat(20));
    let refused = setup.server.send(post("/charges", "a", long)).await;
    assert_eq!(refused.status(), 413);
    assert_eq!(problem(&refused), "body-too-large");
    assert_eq!(setup.store.calls(Method::Claim), 0);
    // At the limit.
    let accepted = setup.server.send(post("/echo", "a", "x".repeat(20))).await;
    assert_eq!(accepted.status(), 200);
    // The default limit, by ten megabytes that nobody needs to send.
    let other = serve::<F>(|engine| engine).await;
    assert_eq!(other.server.announce("/echo", "a", "10000000").await, 413);
    assert_eq!(other.store.calls(Method::Claim), 0);
    assert_eq!(setup.works.executed() + other.works.executed(), 1);
}

pub(crate) async fn an_early_refusal_reaches_a_client_that_writes_on<F: Framework>() {
    let setup = serve::<F>(|engine| engine).await;
    let body = vec![b'x'; 8 * MIB];
    let chunked = {
        let mut chunked = format!("{:x}\r\n", body.len()).into_bytes();
        chunked.extend_from_slice(&body);
        chunked.extend_from_slice(b"\r\n0\r\n\r\n");
        chunked
    };
    let announced = format!("content-length: {}", body.len());
    for (key, framing, body, status) in [
        ("idempotency-key: a\r\n", announced.as_str(), &body, 413),
        (
            "idempotency-key: a\r\n",
            "transfer-encoding: chunked",
            &chunked,
            413,
        ),
        ("", announced.as_str(), &body, 400),
        ("", "transfer-encoding: chunked", &chunked, 400),
    ] {
        let head = format!(
            "POST /echo HTTP/1.1\r\nhost: {HOST}\r\n{key}content-type: text/plain\r\n{framing}\r\n\r\n"
        );
        let answer = setup.server.write_all_then_read(&head, body).await;
        assert_eq!(answer.ok(), Some(status), "{key}{framing}");
    }
    assert_eq!(setup.works.executed(), 0);
    assert_eq!(setup.store.calls(Method::Claim), 0);
}

pub(crate) async fn an_empty_body_is_empty_however_its_length_is_written<F: Framework>() {
    let setup = serve::<F>(|engine| engine).await;
    for length in ["0", "00", "000000"] {
        let status = setup
            .server
            .announce("/nothing-happened", "a", length)
            .await;
        assert_eq!(status, 200, "{length}");
    }
    assert_eq!(setup.works.executed(), 3);
}

pub(crate) async fn an_extractors_rejection_is_the_frameworks_own_and_keeps_nothing_claimed<
    F: Framework,
>() {
    let setup = serve::<F>(|engine| engine).await;
    let bodies = ["{", "{\"amount\": \"much\"}"];
    for (number, (key, body)) in (1..).zip(["a", "b"].into_iter().zip(bodies)) {
        let rejected = setup.server.send(post("/charges", key, body)).await;
        assert!(rejected.status().is_client_error(), "{}", rejected.status());
        let content_type = rejected.headers().get("content-type");
        assert!(content_type.is_none_or(|it| it != "application/problem+json"));
        assert!(!is_replay(&rejected));
        // The key is free, for another request too.
        let accepted = setup.server.send(post("/charges", key, order(1))).await;
        assert_eq!(accepted.status(), 201);
        assert_eq!(accepted.body(), &format!("{number}: 1"));
        assert!(!is_replay(&accepted));
    }
    assert_eq!(setup.works.executed(), 2);
}

pub(crate) async fn authentication_comes_before_the_key_and_the_claim<F: Framework>() {
    let setup = serve::<F>(|engine| engine).await;
    for key in ["a", "not a key"] {
        let rejected = setup.server.send(post("/guarded", key, "x")).await;
        assert_eq!(rejected.status(), 401);
    }
    assert_eq!(setup.works.executed(), 0);
    assert_eq!(setup.store.calls(Method::Claim), 0);
    let with_login = || {
        let mut request = post("/guarded", "a", "x");
        let login = "Bearer alice".parse().unwrap();
        request.headers_mut().insert("authorization", login);
        request
    };
    for again in [false, true] {
        let response = setup.server.send(with_login()).await;
        assert_eq!(response.body(), "1: x");
        assert_eq!(is_replay(&response), again);
    }
    // A replay is not given to who does not log in.
    let rejected = setup.server.send(post("/guarded", "a", "x")).await;
    assert_eq!(rejected.status(), 401);
}

pub(crate) async fn statuses_that_say_not_processed_free_the_key_and_all_others_are_final<
    F: Framework,
>() {
    let Setup { server, works, .. } = serve::<F>(|engine| engine).await;
    let mut expected = 0;
    for status in [
        200, 201, 400, 402, 404, 409, 422, 500, 502, 504, 401, 408, 425, 429, 503,
    ] {
        let released = [401, 408, 425, 429, 503].contains(&status);
        let key = status.to_string();
        for again in [false, true] {
            let response = server.send(post("/status", &key, key.clone())).await;
            assert_eq!(response.status(), status);
            assert_eq!(is_replay(&response), again && !released, "{status}");
        }
        expected += if released { 2 } else { 1 };
    }
    assert_eq!(works.executed(), expected);
}

pub(crate) async fn an_operation_lists_its_own_released_statuses<F: Framework>() {
    let Setup { server, works, .. } = serve::<F>(|engine| engine).await;
    for (status, replayed) in [("500", false), ("503", true)] {
        server.send(post("/releases-500", status, status)).await;
        let again = server.send(post("/releases-500", status, status)).await;
        assert_eq!(is_replay(&again), replayed);
    }
    assert_eq!(works.executed(), 3);
}

pub(crate) async fn a_body_can_say_that_nothing_happened<F: Framework>() {
    let Setup { server, works, .. } = serve::<F>(|engine| engine).await;
    for _ in 0..2 {
        let response = server.send(post("/nothing-happened", "a", "")).await;
        assert!(!is_replay(&response));
        assert_eq!(response.body(), "nothing to do yet");
    }
    assert_eq!(works.executed(), 2);
}

pub(crate) async fn a_store_that_is_away_runs_nothing<F: Framework>() {
    let setup = serve::<F>(|engine| engine).await;
    let first = setup.server.send(post("/echo", "finished", "x")).await;
    assert_eq!(first.status(), 200);
    setup.store.fail_always(Method::Claim, Fault::Unavailable);
    for key in ["new", "finished"] {
        let refused = setup.server.send(post("/echo", key, "x")).await;
        assert_eq!(refused.status(), 503);
        assert_eq!(problem(&refused), "store-unavailable");
        assert_eq!(refused.headers()["retry-after"], "1");
        // Of what was executed before, the answer claims nothing.
        let body: serde_json::Value = serde_json::from_slice(refused.body()).unwrap();
        assert_eq!(
            body["detail"],
            "this request was not executed; whether an earlier one with this key was is not known; \
             retry with the same key"
        );
    }
    assert_eq!(setup.works.executed(), 1);
    setup.store.heal(Method::Claim);
    let replay = setup.server.send(post("/echo", "finished", "x")).await;
    assert_eq!(replay.body(), first.body());
}

/// As an API may answer that has a shape of its own: another status for each, and a few words.
fn in_own_shape(problem: &Problem, request: Option<&RequestIdentity<'_>>) -> Response<Bytes> {
    let asked = request.map_or_else(
        || "-".to_owned(),
        |request| format!("{} {}", request.method, request.uri.path()),
    );
    let tag = request.and_then(|request| request.headers.get("x-request-id"));
    let tag = tag.and_then(|tag| tag.to_str().ok()).unwrap_or("-");
    let body = format!("{}|{asked}|{tag}", problem.kind.as_str());
    let mut response = Response::new(Bytes::from(body));
    let status = problem.kind.status();
    *response.status_mut() = match status {
        StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
        status => status,
    };
    let headers = response.headers_mut();
    headers.insert("content-type", "text/x-own".parse().unwrap());
    if let Some(seconds) = problem.retry_after_seconds() {
        headers.insert("retry-after", seconds.into());
    }
    response
}

const HINT: HeaderName = HeaderName::from_static("stripe-should-retry");

/// The kind, what was asked for, and the request's tag.
fn own(response: &Response<Bytes>) -> [String; 3] {
    assert_eq!(response.headers()["content-type"], "text/x-own");
    assert!(!is_replay(response));
    let body = std::str::from_utf8(response.body()).unwrap();
    let mut parts = body.split('|').map(ToOwned::to_owned);
    std::array::from_fn(|_| parts.next().unwrap())
}

pub(crate) async fn refusals_have_the_apis_own_shape_and_are_not_kept<F: Framework>() {
    let setup = serve::<F>(|engine| {
        engine.http(HttpSettings::new().refusals(in_own_shape).retry_hint(HINT))
    })
    .await;
    let expect = |response: &Response<Bytes>, status: u16, kind: &str, hint: &str| {
        assert_eq!(response.status(), status, "{kind}");
        assert_eq!(own(response)[0], kind);
        assert_eq!(response.headers()[HINT], hint, "{kind}");
        assert_eq!(
            response.headers().contains_key("retry-after"),
            hint == "true" && status != 500
        );
    };
    expect(
        &setup.server.send(with_keys(&[])).await,
        400,
        "key-missing",
        "false",
    );
    expect(
        &setup.server.send(with_keys(&[b"a b"])).await,
        400,
        "key-invalid",
        "false",
    );

    let first = setup.server.send(post("/echo", "a", "x")).await;
    assert_eq!(first.status(), 200);
    assert!(!first.headers().contains_key(HINT));
    expect(
        &setup.server.send(post("/echo", "a", "y")).await,
        400,
        "mismatch",
        "false",
    );
    let replay = setup.server.send(post("/echo", "a", "x")).await;
    assert!(is_replay(&replay) && !replay.headers().contains_key(HINT));

    let running = tokio::spawn({
        let server = setup.server;
        async move { server.send(post("/slow", "b", "x")).await }
    });
    setup.works.started().await;
    expect(
        &setup.server.send(post("/slow", "b", "x")).await,
        409,
        "in-flight",
        "true",
    );
    setup.works.let_go();
    assert_eq!(running.await.unwrap().status(), 201);

    // A panic is no answer of the handler, and is not kept.
    let panicked = setup
        .server
        .send(post("/panics-and-refuses", "c", "x"))
        .await;
    expect(&panicked, 500, "crashed", "false");
    let refused = setup
        .server
        .send(post("/panics-and-refuses", "c", "x"))
        .await;
    expect(&refused, 409, "outcome-unknown", "false");

    setup.store.fail_always(Method::Claim, Fault::Unavailable);
    expect(
        &setup.server.send(post("/echo", "d", "x")).await,
        503,
        "store-unavailable",
        "true",
    );
}

pub(crate) async fn what_shapes_refusals_is_given_the_requests_head<F: Framework>() {
    let setup = serve::<F>(|engine| engine.http(HttpSettings::new().refusals(in_own_shape))).await;
    for (path, key, kind) in [
        ("/v1/echo?n=1", "a b", "key-invalid"),
        ("/panics-and-refuses", "c", "crashed"),
        ("/panics-and-refuses", "c", "outcome-unknown"),
    ] {
        let mut request = post(path, key, "x");
        let tag = "tag-7".parse().unwrap();
        request.headers_mut().insert("x-request-id", tag);
        let refused = setup.server.send(request).await;
        let path = path.split('?').next().unwrap();
        let expected = [kind, &format!("POST {path}"), "tag-7"];
        assert_eq!(own(&refused), expected);
    }
}

pub(crate) async fn a_renderer_that_panics_is_answered_for<F: Framework>() {
    let setup = serve::<F>(|engine| {
        engine.http(HttpSettings::new().refusals(|_, _| panic!("half an envelope")))
    })
    .await;
    for _ in 0..2 {
        let refused = setup.server.send(with_keys(&[b"a b"])).await;
        assert_eq!(refused.status(), 400);
        assert_eq!(problem(&refused), "key-invalid");
    }
    assert_eq!(
        setup.server.send(post("/echo", "a", "x")).await.status(),
        200
    );
    let refused = setup.server.send(post("/echo", "a", "y")).await;
    assert_eq!(problem(&refused), "mismatch");
}

pub(crate) async fn a_hint_says_whether_a_retry_can_help<F: Framework>() {
    let setup = serve::<F>(|engine| {
        let other = HeaderName::from_static("x-should-retry");
        engine.http(HttpSettings::new().retry_hint(HINT).retry_hint(other))
    })
    .await;
    let refused = setup.server.send(with_keys(&[])).await;
    assert_eq!(refused.headers()[HINT], "false");
    assert_eq!(refused.headers()["x-should-retry"], "false");
    let body: serde_json::Value = serde_json::from_slice(refused.body()).unwrap();
    assert_eq!(body["retryable"], false);
    // A stored failure comes back on every retry; the first answer is the handler's own.
    for (kind, status, on_replay) in [("error", 500, Some("false")), ("created", 201, None)] {
        for again in [false, true] {
            let response = setup.server.send(post("/respond", kind, kind)).await;
            assert_eq!(response.status(), status);
            assert_eq!(is_replay(&response), again);
            let hint = response.headers().get("x-should-retry");
            let hint = hint.map(|hint| hint.to_str().unwrap());
            assert_eq!(hint, on_replay.filter(|_| again), "{kind}");
        }
    }
}
