//! Salvo's errors are rendered by the service's catcher, whatever has answered.

use idem::http::HttpSettings;
use idem::salvo::idempotent;
use salvo::http::cookie::Cookie;
use salvo::prelude::*;

use super::{Shop, server, server_with};

pub(super) fn router() -> Router {
    Router::new()
        .push(Router::with_path("failing").post(failing))
        .push(Router::with_path("bare").post(bare))
        .push(Router::with_path("empty").post(empty))
        .push(
            Router::with_path("cookies")
                .hoop(cookie_before)
                .post(cookies),
        )
}

/// A catcher of the application's own: it renders in place of salvo's page.
#[handler]
pub(super) async fn teapots(res: &mut Response, ctrl: &mut FlowCtrl) {
    let error = match &res.body {
        salvo::http::ResBody::Error(error) => error.brief.clone(),
        _ => String::new(),
    };
    if res.status_code == Some(StatusCode::IM_A_TEAPOT) {
        res.render(Text::Plain(format!("teapot: {error}")));
        ctrl.skip_rest();
    }
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[handler]
async fn failing(req: &mut Request, depot: &mut Depot) -> Result<&'static str, StatusError> {
    let run = Shop::of(depot).run();
    // The body is there for the handler itself.
    let status: u16 = req.parse_json().await.map_err(|_| StatusError::gone())?;
    let status = StatusCode::from_u16(status).map_err(|_| StatusError::gone())?;
    let error = StatusError::from_code(status).unwrap_or_else(StatusError::conflict);
    Err(error.brief(format!("run {run}")))
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[handler]
async fn bare(depot: &mut Depot, res: &mut Response) {
    Shop::of(depot).run();
    res.status_code(StatusCode::CONFLICT);
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[handler]
async fn empty(depot: &mut Depot, res: &mut Response) -> &'static str {
    Shop::of(depot).run();
    res.status_code(StatusCode::CONFLICT);
    ""
}

#[handler]
async fn cookie_before(res: &mut Response) {
    res.add_cookie(Cookie::new("hoop", "1"));
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[handler]
async fn cookies(res: &mut Response) {
    res.add_cookie(Cookie::new("handler", "1"));
    res.add_cookie(Cookie::new("handler-too", "2"));
}

#[tokio::test]
async fn an_error_is_stored_unless_its_status_says_not_processed() {
    let server = server();
    let first = server.send_json("/failing", "a", "409").await;
    assert_eq!(first.status, StatusCode::CONFLICT);
    assert!(first.body.contains("run 1"), "{first:?}");
    first.assert_replayed_by(server.send_json("/failing", "a", "409").await);
    server.send_json("/failing", "b", "503").await;
    let again = server.send_json("/failing", "b", "503").await;
    assert!(!again.is_replay());
    assert!(again.body.contains("run 3"), "{again:?}");
}

#[tokio::test]
async fn the_services_catcher_renders_a_replayed_error_as_it_did_the_first() {
    let server = server();
    let first = server.send_json("/failing", "a", "418").await;
    assert_eq!(first.body, "teapot: run 1");
    first.assert_replayed_by(server.send_json("/failing", "a", "418").await);
}

#[tokio::test]
async fn no_body_and_an_empty_one_stay_what_they_are() {
    let server = server();
    for (path, is_rendered) in [("/bare", true), ("/empty", false)] {
        let first = server.send_json(path, "a", "").await;
        assert_eq!(first.body.contains("Conflict"), is_rendered, "{first:?}");
        first.assert_replayed_by(server.send_json(path, "a", "").await);
    }
}

#[tokio::test]
async fn cookies_of_the_jar_go_out_and_are_kept_if_allowed() {
    for keep in [false, true] {
        let settings = HttpSettings::new().keep_set_cookie(keep);
        let server = server_with(|engine| engine.http(settings));
        let first = server.send_json("/cookies", "a", "").await;
        let names = |answer: &super::Answer| {
            let lines = answer.headers.get_all("set-cookie").into_iter();
            let mut lines: Vec<_> = lines
                .map(|line| line.to_str().unwrap().to_owned())
                .collect();
            lines.sort();
            lines
        };
        assert_eq!(names(&first), ["handler-too=2", "handler=1", "hoop=1"]);
        let second = server.send_json("/cookies", "a", "").await;
        assert!(second.is_replay());
        if keep {
            assert_eq!(names(&second), names(&first));
        } else {
            assert_eq!(names(&second), ["hoop=1"]);
        }
    }
}
