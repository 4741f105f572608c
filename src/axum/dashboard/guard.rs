//! Which requests are answered at all: those that the page itself has sent, to a name that is its own.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, ORIGIN, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::answers::Refused;
use super::state::State as Shared;

/// Nothing but what this server sends, no inline script or style, in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

const HEADERS: [(HeaderName, &str); 8] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    (REFERRER_POLICY, "no-referrer"),
    (CACHE_CONTROL, "no-store"),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    (HeaderName::from_static("x-robots-tag"), "noindex, nofollow"),
];

/// The header that carries the process's token.
const TOKEN: &str = "x-idem-token";

const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

const WRONG_HOST: Refused = Refused::new(
    StatusCode::MISDIRECTED_REQUEST,
    "host-not-allowed",
    "The dashboard does not answer under this host name. The program names it with `Dashboard::host`.",
);

const CROSS_SITE: Refused = Refused::new(
    StatusCode::FORBIDDEN,
    "cross-site",
    "The request comes from another site, or does not say where it comes from.",
);

const WRONG_TOKEN: Refused = Refused::new(
    StatusCode::FORBIDDEN,
    "token",
    "The page was loaded from another process, or before this one started. Reload it.",
);

/// Stands around everything that the page has.
pub(super) async fn check(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    let (head, body) = request.into_parts();
    let mut response = match refusal(&shared, &head) {
        Some(refused) => refused.into_response(),
        None => next.run(Request::from_parts(head, body)).await,
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

pub(super) async fn nothing_here() -> Refused {
    Refused::new(StatusCode::NOT_FOUND, "not-found", "There is nothing here.")
}

pub(super) async fn wrong_method() -> Refused {
    Refused::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method-not-allowed",
        "This cannot be asked for in this way.",
    )
}

fn refusal(shared: &Shared, head: &Parts) -> Option<Refused> {
    let Some(hosts) = hosts(head) else {
        return Some(WRONG_HOST);
    };
    let is_own = |host: &Authority| {
        let own = LOOPBACK.into_iter();
        let mut own = own.chain(shared.hosts.iter().map(String::as_str));
        own.any(|own| own.eq_ignore_ascii_case(host.host()))
    };
    if hosts.is_empty() || !hosts.iter().all(is_own) {
        return Some(WRONG_HOST);
    }
    if !is_same_site(head) {
        return Some(CROSS_SITE);
    }
    if matches!(head.method, Method::GET | Method::HEAD) {
        return None;
    }
    if !hosts.iter().all(|host| is_origin(&head.headers, host)) {
        return Some(CROSS_SITE);
    }
    let sent = only(&head.headers, TOKEN).map_or(&[][..], HeaderValue::as_bytes);
    (!are_equal(sent, shared.token.as_bytes())).then_some(WRONG_TOKEN)
}

/// Every name that the request gives its server. `None` if one cannot be read.
fn hosts(head: &Parts) -> Option<Vec<Authority>> {
    let lines = head.headers.get_all(HOST).iter();
    let lines = lines.map(|line| line.to_str().ok()?.parse::<Authority>().ok());
    let of_target = head.uri.authority().cloned().map(Some);
    let hosts: Option<Vec<_>> = lines.chain(of_target).collect();
    hosts.filter(|hosts| hosts.iter().all(|host| !host.as_str().contains('@')))
}

/// What a browser says of where a request comes from. A link from elsewhere may lead to the page, and
/// to nothing else.
fn is_same_site(head: &Parts) -> bool {
    let word = |name| match head.headers.contains_key(name) {
        false => Some(None),
        true => only(&head.headers, name)?.to_str().ok().map(Some),
    };
    let opens_the_page = || {
        head.method == Method::GET
            && head.uri.path() == "/"
            && word("sec-fetch-mode") == Some(Some("navigate"))
            && word("sec-fetch-dest") == Some(Some("document"))
    };
    match word("sec-fetch-site") {
        Some(None | Some("same-origin" | "none")) => true,
        Some(Some(_)) => opens_the_page(),
        None => false,
    }
}

/// Whether the request comes from a page of this host and port.
fn is_origin(headers: &HeaderMap, host: &Authority) -> bool {
    let origin = only(headers, ORIGIN.as_str());
    let origin = origin.and_then(|origin| origin.to_str().ok()?.parse::<Uri>().ok());
    let Some(origin) = origin else {
        return false;
    };
    let (Some(scheme), Some(of_page)) = (origin.scheme_str(), origin.authority()) else {
        return false;
    };
    let default = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return false,
    };
    let port = |authority: &Authority| authority.port_u16().unwrap_or(default);
    of_page.host().eq_ignore_ascii_case(host.host()) && port(of_page) == port(host)
}

/// A header that is there once.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a HeaderValue> {
    let mut lines = headers.get_all(name).iter();
    let line = lines.next();
    line.filter(|_| lines.next().is_none())
}

/// Takes as long wherever they differ.
fn are_equal(sent: &[u8], expected: &[u8]) -> bool {
    let pairs = sent.iter().zip(expected);
    let differences = pairs.fold(0, |found, (one, other)| found | (one ^ other));
    sent.len() == expected.len() && differences == 0
}
