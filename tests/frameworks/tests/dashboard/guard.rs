//! Who is answered.

use axum::Router;
use axum::body::Body;
use http::{Request, StatusCode};
use serde_json::json;

use crate::bench::{Bench, HOST, ORIGIN, Page, asked, path};

async fn get_as(page: &Page, path: &str, headers: &[(&str, &str)]) -> (StatusCode, String) {
    let mut request = Request::get(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = page.send(request.body(Body::empty()).unwrap()).await;
    (answer.status(), answer.text)
}

#[tokio::test]
async fn only_a_name_of_its_own_is_answered() {
    let page = Bench::new().page(|it| it.host("admin.example.com")).await;
    for own in [
        "localhost",
        "LOCALHOST:8080",
        "127.0.0.1:3000",
        "[::1]:3000",
        "[::1]",
        "admin.example.com",
        "Admin.Example.com:443",
    ] {
        for path in ["/", "/assets/app.js", "/api/session", "/api/overview"] {
            let (status, _) = get_as(&page, path, &[("host", own)]).await;
            assert_eq!(status, StatusCode::OK, "{own} {path}");
        }
    }
    for foreign in [
        "evil.example",
        "evil.example:3000",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "localhost@evil.example",
        "evil.example@localhost",
        "localhost.",
        "127.0.0.2",
        "0.0.0.0",
        "admin.example.com.evil.example",
        "",
        ":80",
        "[::2]",
    ] {
        for path in ["/", "/assets/app.js", "/api/session", "/nothing"] {
            let (status, text) = get_as(&page, path, &[("host", foreign)]).await;
            assert_eq!(status, StatusCode::MISDIRECTED_REQUEST, "{foreign} {path}");
            assert!(
                text.contains("host-not-allowed") && !text.contains("evil"),
                "{text}"
            );
        }
    }
    let (status, _) = get_as(&page, "/", &[]).await;
    assert_eq!(status, StatusCode::MISDIRECTED_REQUEST, "no host at all");
    let two = [("host", HOST), ("host", "evil.example")];
    assert_eq!(
        get_as(&page, "/", &two).await.0,
        StatusCode::MISDIRECTED_REQUEST
    );
    // As in HTTP/2, or through a proxy.
    let (status, _) = get_as(&page, "http://evil.example/", &[("host", HOST)]).await;
    assert_eq!(status, StatusCode::MISDIRECTED_REQUEST);
    let (status, _) = get_as(&page, "http://localhost/", &[]).await;
    assert_eq!(status, StatusCode::OK);
    let forwarded = [("host", "evil.example"), ("x-forwarded-host", HOST)];
    let (status, _) = get_as(&page, "/", &forwarded).await;
    assert_eq!(status, StatusCode::MISDIRECTED_REQUEST);
}

#[tokio::test]
async fn another_site_can_open_the_page_and_read_nothing() {
    let page = Bench::new().page(|it| it).await;
    for site in ["cross-site", "same-site", "something new"] {
        let headers = [("host", HOST), ("sec-fetch-site", site)];
        for path in ["/", "/assets/app.js", "/api/session", "/api/records"] {
            let (status, _) = get_as(&page, path, &headers).await;
            assert_eq!(status, StatusCode::FORBIDDEN, "{site} {path}");
        }
        let by_link = [
            headers[0],
            headers[1],
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
        ];
        assert_eq!(get_as(&page, "/", &by_link).await.0, StatusCode::OK);
        assert_eq!(
            get_as(&page, "/api/session", &by_link).await.0,
            StatusCode::FORBIDDEN
        );
        let in_a_frame = [
            headers[0],
            headers[1],
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "iframe"),
        ];
        assert_eq!(
            get_as(&page, "/", &in_a_frame).await.0,
            StatusCode::FORBIDDEN
        );
    }
    for site in ["same-origin", "none"] {
        let headers = [("host", HOST), ("sec-fetch-site", site)];
        assert_eq!(
            get_as(&page, "/api/session", &headers).await.0,
            StatusCode::OK
        );
    }
    let two = [
        ("host", HOST),
        ("sec-fetch-site", "none"),
        ("sec-fetch-site", "cross-site"),
    ];
    assert_eq!(
        get_as(&page, "/api/session", &two).await.0,
        StatusCode::FORBIDDEN
    );
}

#[tokio::test]
async fn what_another_site_sends_changes_nothing() {
    let bench = Bench::new();
    let page = bench.page(|it| it.allow_changes(true)).await;
    let id = bench.crash("k", 0).await;
    let change = path(&id, "release");
    let right = [
        ("host", HOST),
        ("origin", ORIGIN),
        ("sec-fetch-site", "same-origin"),
        ("x-idem-token", &*page.token),
    ];
    let other_token = "0".repeat(32);
    let longer_token = format!("{}0", page.token);
    let mut wrong: Vec<(&str, Option<&str>, &str)> = vec![
        ("origin", None, "cross-site"),
        ("x-idem-token", None, "token"),
        ("x-idem-token", Some(""), "token"),
        ("x-idem-token", Some(&other_token), "token"),
        ("x-idem-token", Some(&longer_token), "token"),
        ("x-idem-token", Some(&page.token[..31]), "token"),
        ("sec-fetch-site", Some("cross-site"), "cross-site"),
        ("sec-fetch-site", Some("same-site"), "cross-site"),
        ("host", Some("evil.example:3000"), "host-not-allowed"),
    ];
    for origin in [
        "null",
        "https://evil.example",
        "http://localhost:3001",
        "http://localhost",
        "http://127.0.0.1:3000",
        "http://localhost:3000.evil.example",
        "ftp://localhost:3000",
        "localhost:3000",
        "",
        "http://evil.example@localhost:4000",
    ] {
        wrong.push(("origin", Some(origin), "cross-site"));
    }
    for (name, value, error) in wrong {
        let mut request = Request::post(&change).header("content-type", "application/json");
        for (header, right) in right {
            if let Some(sent) = if header == name { value } else { Some(right) } {
                request = request.header(header, sent);
            }
        }
        let body = asked("crashed", 1).to_string();
        let refused = page.send(request.body(Body::from(body)).unwrap()).await;
        assert!(refused.status().is_client_error(), "{name} {value:?}");
        assert_eq!(refused.error(), error, "{name} {value:?}");
    }
    // A form of another site, which needs no leave of this one, has none of its types.
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
    ] {
        let mut request = page.posting(&change, &asked("crashed", 1));
        request
            .headers_mut()
            .insert("content-type", kind.parse().unwrap());
        let refused = page.send(request).await;
        assert_eq!(
            refused.status(),
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "{kind}"
        );
    }
    let found = bench.charges().inspect("k").await.unwrap().unwrap();
    assert_eq!(found.attempt, 1, "nothing has touched it");
    // The same request as it should be is taken: it was not refused for something else.
    let taken = page.post(&change, &asked("crashed", 1)).await;
    assert_eq!(taken.status(), StatusCode::OK, "{}", taken.text);
}

#[tokio::test]
async fn a_default_port_may_be_named_or_not() {
    let bench = Bench::new();
    let page = bench.page(|it| it.host("admin.example.com")).await;
    for (host, origin, is_own) in [
        ("admin.example.com", "https://admin.example.com", true),
        ("admin.example.com:443", "https://admin.example.com", true),
        ("admin.example.com", "https://admin.example.com:443", true),
        ("admin.example.com", "http://admin.example.com", true),
        ("admin.example.com:443", "http://admin.example.com", false),
        ("admin.example.com", "https://admin.example.com:8443", false),
    ] {
        let named = json!({ "operation": "o", "key": ["k"] });
        let mut request = page.posting("/api/find", &named);
        request.headers_mut().insert("host", host.parse().unwrap());
        request
            .headers_mut()
            .insert("origin", origin.parse().unwrap());
        let answer = page.send(request).await;
        assert_eq!(answer.status().is_success(), is_own, "{host} {origin}");
    }
}

#[tokio::test]
async fn every_answer_forbids_what_the_page_does_not_need() {
    let page = Bench::new().page(|it| it).await;
    let paths = [
        "/",
        "/assets/app.js",
        "/assets/nothing",
        "/api/session",
        "/api/records/x",
        "/nothing",
    ];
    let mut answers = Vec::new();
    for path in paths {
        answers.push(page.get(path).await);
    }
    let refused = Request::get("/").header("host", "evil.example");
    answers.push(page.send(refused.body(Body::empty()).unwrap()).await);
    answers.push(page.post("/", &json!({})).await);
    for answer in answers {
        let header = |name: &str| answer.head.headers()[name].to_str().unwrap();
        let policy = header("content-security-policy");
        for part in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
            "form-action 'none'",
        ] {
            assert!(policy.contains(part), "{part}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*'));
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("x-frame-options"), "DENY");
        assert_eq!(header("referrer-policy"), "no-referrer");
        assert_eq!(header("cache-control"), "no-store");
        assert_eq!(header("cross-origin-resource-policy"), "same-origin");
    }
}

#[tokio::test]
async fn the_page_loads_nothing_from_elsewhere_and_has_no_inline_code() {
    let page = Bench::new().page(|it| it).await;
    let html = page.get("/").await.text;
    assert!(!html.contains("style=") && !html.contains("<style") && !html.contains(" on"));
    assert_eq!(html.matches("<script").count(), 1);
    for (part, rest) in html
        .match_indices("assets/")
        .map(|(at, _)| (&html[..at], &html[at..]))
    {
        assert!(part.ends_with("\"./"), "relative");
        let path = rest.split('"').next().unwrap();
        let asset = page.get(&format!("/{path}")).await;
        assert_eq!(asset.status(), StatusCode::OK, "{path}");
        let links = asset.text.replace("http://www.w3.org/2000/svg", "");
        assert!(
            !links.contains("http://") && !links.contains("https://"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn it_is_nested_anywhere() {
    let bench = Bench::new();
    for (prefix, folder) in [("/admin/idem", "./idem/"), ("/admin/idem/", "./")] {
        let router = Router::new().nest(prefix, bench.dashboard().into_router());
        let page = Page {
            router,
            token: String::new(),
        };
        let html = page.get(prefix).await;
        assert_eq!(html.status(), StatusCode::OK, "{prefix}");
        assert!(
            html.text.contains(&format!("\"{folder}assets/app.js\"")),
            "{}",
            html.text
        );
        let by_link = Request::get(prefix)
            .header("host", HOST)
            .header("sec-fetch-site", "cross-site")
            .header("sec-fetch-mode", "navigate")
            .header("sec-fetch-dest", "document");
        let opened = page.send(by_link.body(Body::empty()).unwrap()).await;
        assert_eq!(opened.status(), StatusCode::OK);
        assert_eq!(
            page.get("/admin/idem/api/overview").await.status(),
            StatusCode::OK
        );
    }
}

#[tokio::test]
async fn each_process_has_a_token_of_its_own() {
    let bench = Bench::new();
    let tokens = [
        bench.page(|it| it).await.token,
        bench.page(|it| it).await.token,
    ];
    assert_ne!(tokens[0], tokens[1]);
}
