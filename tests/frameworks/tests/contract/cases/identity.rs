//! One key is one request of one caller to one operation, and nothing else.

use bytes::Bytes;
use http::Request;

use crate::{Framework, Setup, serve};
use idem_frameworks::{is_replay, post, problem};

fn others(path: &str, key: &str) -> Vec<Request<Bytes>> {
    let put = Request::put(path)
        .header("idempotency-key", key)
        .header("content-type", "application/json")
        .body(Bytes::from_static(b"{}"))
        .unwrap();
    let mut content_type = post(path, key, "{}");
    let text = "text/plain".parse().unwrap();
    content_type.headers_mut().insert("content-type", text);
    vec![
        post(path, key, "{ }"),
        post(path, key, ""),
        post(&format!("{path}/other"), key, "{}"),
        post(&format!("{path}?dry=1"), key, "{}"),
        put,
        content_type,
    ]
}

pub(crate) async fn another_request_under_a_key_is_a_mismatch_and_harms_nothing<F: Framework>() {
    let Setup { server, works, .. } = serve::<F>(|engine| engine).await;
    let first = server.send(post("/echo", "a", "{}")).await;
    for other in others("/echo", "a") {
        let refused = server.send(other).await;
        assert_eq!(refused.status(), 422);
        assert_eq!(problem(&refused), "mismatch");
        let replay = server.send(post("/echo", "a", "{}")).await;
        assert!(is_replay(&replay));
        assert_eq!(replay.body(), first.body());
    }
    assert_eq!(works.executed(), 1);
}

pub(crate) async fn another_request_under_a_key_is_a_mismatch_while_the_first_runs<F: Framework>() {
    let Setup { server, works, .. } = serve::<F>(|engine| engine).await;
    let first = tokio::spawn(server.send(post("/slow", "a", "{}")));
    works.started().await;
    for other in others("/slow", "a") {
        let refused = server.send(other).await;
        assert_eq!(refused.status(), 422);
        assert_eq!(problem(&refused), "mismatch");
    }
    works.let_go();
    let first = first.await.unwrap();
    assert_eq!(first.status(), 201);
    let replay = server.send(post("/slow", "a", "{}")).await;
    assert_eq!(replay.body(), first.body());
    assert_eq!(works.executed(), 1);
}

/// `/counted` counts the body's length.
pub(crate) async fn named_parts_count_in_place_of_the_body_and_of_nothing_else<F: Framework>() {
    let Setup { server, works, .. } = serve::<F>(|engine| engine).await;
    let first = server.send(post("/counted", "a", "{}")).await;
    assert_eq!(first.status(), 200);
    let mut content_type = post("/counted", "a", "[]");
    let text = "text/plain".parse().unwrap();
    content_type.headers_mut().insert("content-type", text);
    for equal in [post("/counted", "a", "[]"), content_type] {
        let replay = server.send(equal).await;
        assert!(is_replay(&replay));
        assert_eq!(replay.body(), first.body());
    }
    let mut put = post("/counted", "a", "{}");
    *put.method_mut() = http::Method::PUT;
    let mut caller = post("/counted", "a", "{}");
    let bearer = "Bearer bob".parse().unwrap();
    caller.headers_mut().insert("authorization", bearer);
    for other in [
        post("/counted", "a", "{ }"),
        post("/counted/other", "a", "{}"),
        post("/counted?dry=1", "a", "{}"),
        put,
        caller,
    ] {
        let what = format!("{} {}", other.method(), other.uri());
        let refused = server.send(other).await;
        assert_eq!(refused.status(), 422, "{what}");
        assert_eq!(problem(&refused), "mismatch");
    }
    assert_eq!(works.executed(), 1);
}

pub(crate) async fn a_nested_routers_prefix_counts<F: Framework>() {
    let Setup { server, works, .. } = serve::<F>(|engine| engine).await;
    let first = server.send(post("/v1/echo", "a", "{}")).await;
    assert_eq!(first.status(), 200);
    let other = server.send(post("/v2/echo", "a", "{}")).await;
    assert_eq!(other.status(), 422);
    let replay = server.send(post("/v1/echo", "a", "{}")).await;
    assert!(is_replay(&replay));
    assert_eq!(works.executed(), 1);
}

pub(crate) async fn without_a_scope_a_caller_never_gets_anothers_answer<F: Framework>() {
    let Setup { server, works, .. } = serve::<F>(|engine| engine).await;
    let with = |authorization: Option<&str>| {
        let mut request = post("/echo", "a", "{}");
        if let Some(value) = authorization {
            let value = value.parse().unwrap();
            request.headers_mut().insert("authorization", value);
        }
        server.send(request)
    };
    let first = with(Some("Bearer alice")).await;
    assert_eq!(first.status(), 200);
    for other in [Some("Bearer bob"), Some("bearer alice"), Some(""), None] {
        let refused = with(other).await;
        assert_eq!(refused.status(), 422);
        assert_ne!(refused.body(), first.body());
    }
    assert!(is_replay(&with(Some("Bearer alice")).await));
    assert_eq!(works.executed(), 1);
}

fn to_host(mut request: Request<Bytes>, host: &str) -> Request<Bytes> {
    request.headers_mut().insert("host", host.parse().unwrap());
    request
}

pub(crate) async fn without_a_scope_another_host_never_gets_the_answer<F: Framework>() {
    let Setup { server, works, .. } = serve::<F>(|engine| engine).await;
    let to = |host: &str| server.send(to_host(post("/echo", "a", "{}"), host));
    let first = to("acme.example.com").await;
    assert_eq!(first.status(), 200);
    for other in [
        "umbrella.example.com",
        "acme.example.com:8080",
        "acme.example.com.umbrella.example.com",
        "example.com",
    ] {
        let refused = to(other).await;
        assert_eq!(refused.status(), 422, "{other}");
        assert_eq!(problem(&refused), "mismatch");
    }
    // One host, however a client writes it.
    for same in [
        "acme.example.com",
        "ACME.example.com",
        "acme.example.com:80",
        "acme.example.com:443",
    ] {
        let replay = to(same).await;
        assert!(is_replay(&replay), "{same}");
        assert_eq!(replay.body(), first.body());
    }
    assert_eq!(works.executed(), 1);

    // A scope says who asks, at whichever host.
    for (host, again) in [("acme.example.com", false), ("umbrella.example.com", true)] {
        let mut request = to_host(post("/scoped", "b", "{}"), host);
        let tenant = "acme".parse().unwrap();
        request.headers_mut().insert("x-tenant", tenant);
        assert_eq!(is_replay(&server.send(request).await), again);
    }
}

pub(crate) async fn within_a_scope_each_tenant_has_its_own_keys_and_may_rotate_its_token<
    F: Framework,
>() {
    let Setup { server, works, .. } = serve::<F>(|engine| engine).await;
    let send = |tenant: &str, key: &str, token: &str| {
        let mut request = post("/scoped", key, "{}");
        let headers = request.headers_mut();
        headers.insert("x-tenant", tenant.parse().unwrap());
        headers.insert("authorization", token.parse().unwrap());
        server.send(request)
    };
    // ("a", "bc") and ("ab", "c") are different records.
    for (number, (tenant, key)) in (1..).zip([("a", "bc"), ("ab", "c"), ("b", "bc")]) {
        let first = send(tenant, key, "Bearer old").await;
        assert_eq!(first.body(), &format!("{number}: {tenant} {{}}"));
        let replay = send(tenant, key, "Bearer new").await;
        assert!(is_replay(&replay));
        assert_eq!(replay.body(), first.body());
    }
    assert_eq!(works.executed(), 3);
}

pub(crate) async fn two_operations_never_share_a_record<F: Framework>() {
    let Setup { server, works, .. } = serve::<F>(|engine| engine).await;
    let charged = server.send(post("/echo", "a", "{}")).await;
    let refunded = server.send(post("/refunds", "a", "{}")).await;
    assert!(!is_replay(&refunded));
    assert_ne!(charged.body(), refunded.body());
    assert_eq!(works.executed(), 2);
}

pub(crate) async fn a_quoted_and_a_bare_key_name_one_record<F: Framework>() {
    let Setup { server, works, .. } = serve::<F>(|engine| engine).await;
    for (key, replayed) in [("\"k-1\"", false), ("k-1", true), ("\"k-1\";p=1", true)] {
        let response = server.send(post("/echo", key, "{}")).await;
        assert_eq!(is_replay(&response), replayed, "{key}");
    }
    assert_eq!(works.executed(), 1);
}

fn as_type(content_type: &str, mut request: Request<Bytes>) -> Request<Bytes> {
    let content_type = content_type.parse().unwrap();
    request.headers_mut().insert("content-type", content_type);
    request
}

pub(crate) async fn a_content_type_counts_and_not_its_spelling<F: Framework>() {
    let Setup { server, works, .. } = serve::<F>(|engine| engine).await;
    let send = |content_type| server.send(as_type(content_type, post("/echo", "a", "{}")));
    let first = send("application/json").await;
    assert_eq!(first.status(), 200);
    for spelling in [
        "application/json; charset=utf-8",
        "application/json;charset=UTF-8",
        "Application/JSON; Charset=\"utf-8\"",
        "application/json;",
        "application/json",
    ] {
        let replay = send(spelling).await;
        assert!(is_replay(&replay), "{spelling}");
        assert_eq!(replay.body(), first.body());
    }
    for other in [
        "application/json; charset=iso-8859-1",
        "application/json; profile=x",
        "application/x-json",
        "application/json, text/plain",
    ] {
        let refused = send(other).await;
        assert_eq!(problem(&refused), "mismatch", "{other}");
    }
    assert_eq!(works.executed(), 1);
}

/// A form as clients write it, each with delimiters of its own.
fn forms(file: &str) -> [(String, String); 4] {
    // curl, a browser, undici (fetch of Node), and urllib3 (requests).
    [
        "------------------------dUqFJR7CFSPk7NPZmH5XbE",
        "----WebKitFormBoundaryx9B7pOQ0bXJmYfHe",
        "----formdata-undici-046273817254",
        "6a1de57b9d3ee4cd2b9ffc8b4d6c0f2e",
    ]
    .map(|boundary| {
        let body = [
            "Content-Disposition: form-data; name=\"amount\"\r\n\r\n1999\r\n",
            "Content-Disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\n\
             Content-Type: text/plain\r\n\r\n",
        ];
        let body = format!(
            "--{boundary}\r\n{}--{boundary}\r\n{}{file}\r\n--{boundary}--\r\n",
            body[0], body[1]
        );
        (format!("multipart/form-data; boundary={boundary}"), body)
    })
}

pub(crate) async fn an_upload_is_recognised_whatever_its_boundary<F: Framework>() {
    let Setup { server, works, .. } = serve::<F>(|engine| engine).await;
    let send = |content_type: &str, body: &str| {
        server.send(as_type(content_type, post("/echo", "a", body.to_owned())))
    };
    let (content_type, body) = &forms("the file\r\n--\r\n")[0];
    let first = send(content_type, body).await;
    assert_eq!(first.status(), 200);
    for (content_type, body) in forms("the file\r\n--\r\n") {
        let replay = send(&content_type, &body).await;
        assert!(is_replay(&replay), "{content_type}");
        assert_eq!(replay.body(), first.body());
        // Of another type, with a part less, more or in another place, it is another upload.
        let part = body.find("1999").unwrap();
        let boundary = &body[..body.find('\r').unwrap()];
        let closed = format!("{}\r\n{boundary}--\r\n", &body[..part + 4]);
        let doubled = body.replacen("1999\r\n", &format!("1999\r\n{}1999\r\n", &body[..part]), 1);
        for other in [
            send("multipart/mixed", &body).await,
            send(&content_type.replace("form-data", "mixed"), &body).await,
            send(&content_type, &closed).await,
            send(&content_type, &doubled).await,
            send(&content_type, &body.replace("1999", "1998")).await,
            send(&content_type, &body.replace("a.txt", "b.txt")).await,
            // Malformed: byte by byte.
            send(&content_type, &format!("{body}epilogue")).await,
            send(&content_type, body.trim_end_matches("--\r\n")).await,
        ] {
            assert_eq!(problem(&other), "mismatch");
        }
    }
    for (content_type, body) in forms("another file") {
        assert_eq!(problem(&send(&content_type, &body).await), "mismatch");
    }
    assert_eq!(works.executed(), 1);
}
