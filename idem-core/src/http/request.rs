//! What of a request counts: its body up to a limit, and its fingerprint.

use std::error::Error;
use std::fmt;
use std::pin::pin;

use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderMap, Method, Uri};
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError};

use super::media_type::{multipart, normal};
use super::multipart::each_part;
use crate::fingerprint::{Fingerprint, Fingerprinter, FormerFingerprint};

/// A request's head. What of it must be equal on a retry, unless the operation says otherwise: method,
/// path, query and content type; without a scope, host and `Authorization`; and the body.
#[derive(Clone, Copy, Debug)]
pub struct RequestIdentity<'a> {
    /// The request's method.
    pub method: &'a Method,
    /// The request's target as the client sent it, before a router has taken a prefix away. Its
    /// authority, which HTTP/2 has there, goes before the `Host` header.
    pub uri: &'a Uri,
    /// The request's headers.
    pub headers: &'a HeaderMap,
}

impl RequestIdentity<'_> {
    /// The fingerprint of the request with this body.
    ///
    /// Without a scope, [who asks](Self::count_caller) takes part, so that the answer to one caller
    /// is never replayed to another.
    ///
    /// The content type counts as a media type: `Application/JSON; charset=UTF-8` is
    /// `application/json`, and the order of parameters does not matter. The boundary of a multipart body,
    /// which clients draw anew for every request, does not count: each part does, its header lines and
    /// its content. One that is malformed, or has text around its parts, counts byte by byte, with its
    /// boundary. A body with a `Content-Encoding` counts as it is here: encoded, unless a layer around
    /// has decoded it.
    pub fn fingerprint(&self, has_scope: bool, body: &[u8]) -> Fingerprint {
        self.fingerprint_by_parts(has_scope, body)
            .unwrap_or_else(|| {
                let mut fingerprinter = Fingerprinter::new();
                self.target(&mut fingerprinter);
                for line in self.headers.get_all(CONTENT_TYPE) {
                    fingerprinter.bytes("content-type", &normal(line.as_bytes()));
                }
                self.finish(fingerprinter, has_scope, Some(body))
            })
    }

    /// The same of a multipart body.
    fn fingerprint_by_parts(&self, has_scope: bool, body: &[u8]) -> Option<Fingerprint> {
        let (content_type, boundary) = self.multipart()?;
        let mut fingerprinter = self.multipart_head(&content_type);
        if !has_scope {
            self.count_caller(&mut fingerprinter);
        }
        let parts = each_part(body, &boundary, |lines, content| {
            fingerprinter.bytes("part-head", lines);
            fingerprinter.bytes("part", content);
        });
        parts.is_ok().then(|| fingerprinter.finish())
    }

    fn multipart_head(&self, content_type: &[u8]) -> Fingerprinter {
        let mut fingerprinter = Fingerprinter::new();
        fingerprinter.by_parts();
        self.target(&mut fingerprinter);
        fingerprinter.bytes("content-type", content_type);
        fingerprinter
    }

    /// The one content type, without its boundary, and the boundary.
    fn multipart(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        let mut lines = self.headers.get_all(CONTENT_TYPE).iter();
        let line = lines.next()?;
        match lines.next() {
            None => multipart(line.as_bytes()),
            Some(_) => None,
        }
    }

    /// What the algorithm before made of the request, if it may be something else: it took the content
    /// type and a multipart body byte by byte.
    #[doc(hidden)]
    pub fn former_fingerprint(&self, has_scope: bool, body: &Bytes) -> Option<FormerFingerprint> {
        let mut lines = self.headers.get_all(CONTENT_TYPE).iter();
        let is_same = lines.all(|line| normal(line.as_bytes()) == line.as_bytes());
        if is_same && self.multipart().is_none() {
            return None;
        }
        let mut fingerprinter = Fingerprinter::new();
        self.target(&mut fingerprinter);
        self.lines(&mut fingerprinter, "content-type", &CONTENT_TYPE);
        if !has_scope {
            self.count_caller(&mut fingerprinter);
        }
        Some(FormerFingerprint::new(fingerprinter, body.clone()))
    }

    /// The fingerprint of the head alone, for who counts a body as something else than its bytes.
    #[doc(hidden)]
    pub fn head_fingerprint(&self) -> Fingerprint {
        match self.multipart() {
            Some((content_type, _)) => self.multipart_head(&content_type).finish(),
            None => self.fingerprint(true, b""),
        }
    }

    /// The fingerprint of the request with parts that the operation names itself, in place of
    /// content type and body. [Who asks](Self::count_caller) is added unless there is a scope.
    pub fn fingerprint_of(&self, has_scope: bool, mut parts: Fingerprinter) -> Fingerprint {
        self.target(&mut parts);
        self.finish(parts, has_scope, None)
    }

    /// What is asked for, whatever the body: method, path and query.
    #[doc(hidden)]
    pub fn target_fingerprint(&self) -> Fingerprint {
        let mut fingerprinter = Fingerprinter::new();
        self.target(&mut fingerprinter);
        fingerprinter.finish()
    }

    /// Who asks.
    #[doc(hidden)]
    pub fn caller_fingerprint(&self) -> Fingerprint {
        self.finish(Fingerprinter::new(), false, None)
    }

    fn target(&self, fingerprinter: &mut Fingerprinter) {
        fingerprinter.bytes("method", self.method.as_str().as_bytes());
        fingerprinter.bytes("path", self.uri.path().as_bytes());
        fingerprinter.bytes("query", self.uri.query().unwrap_or("").as_bytes());
    }

    fn finish(
        &self,
        mut fingerprinter: Fingerprinter,
        has_scope: bool,
        body: Option<&[u8]>,
    ) -> Fingerprint {
        if !has_scope {
            self.count_caller(&mut fingerprinter);
        }
        if let Some(body) = body {
            fingerprinter.bytes("body", body);
        }
        fingerprinter.finish()
    }

    /// Adds who asks, as far as HTTP knows it: the host that the request was sent to, which is
    /// where many APIs have their tenants, and the `Authorization` header.
    ///
    /// The host is the authority of the URI, else the `Host` header: in lower case, and without a
    /// port 80 or 443.
    pub fn count_caller(&self, fingerprinter: &mut Fingerprinter) {
        fingerprinter.with_caller();
        match self.uri.authority() {
            Some(authority) => {
                fingerprinter.bytes("host", &normal_host(authority.as_str().as_bytes()));
            }
            None => {
                for line in self.headers.get_all(HOST) {
                    fingerprinter.bytes("host", &normal_host(line.as_bytes()));
                }
            }
        }
        self.lines(fingerprinter, "authorization", &AUTHORIZATION);
    }

    fn lines(&self, fingerprinter: &mut Fingerprinter, name: &str, header: &http::HeaderName) {
        for line in self.headers.get_all(header) {
            fingerprinter.bytes(name, line.as_bytes());
        }
    }
}

/// An authority in its one spelling (RFC 9110 §4.2.3): without userinfo, in lower case, and without
/// a port that a client may leave out. Which of the two it is is not known: HTTP/1.1 sends no scheme.
fn normal_host(authority: &[u8]) -> Vec<u8> {
    let host = match authority.iter().rposition(|byte| *byte == b'@') {
        Some(at) => &authority[at + 1..],
        None => authority,
    };
    let host = match host.iter().rposition(|byte| *byte == b':') {
        Some(colon) if matches!(&host[colon..], b":" | b":80" | b":443") => &host[..colon],
        _ => host,
    };
    host.to_ascii_lowercase()
}

/// Why a request's body was not taken. Nothing was claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BodyError {
    /// It is longer than a limit.
    TooLarge {
        /// The limit, in bytes. `None` is another one than that of [`HttpSettings`], such as a
        /// layer's around the handler.
        ///
        /// [`HttpSettings`]: super::HttpSettings
        limit: Option<usize>,
    },
    /// It could not be read to its end.
    Unreadable,
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { limit: Some(limit) } => {
                write!(f, "the request's body is longer than {limit} bytes")
            }
            Self::TooLarge { limit: None } => {
                f.write_str("the request's body is longer than the server allows")
            }
            Self::Unreadable => f.write_str("the request's body could not be read to its end"),
        }
    }
}

impl Error for BodyError {}

/// Reads a request's body whole. One that announces more than `limit` bytes is not read at all.
///
/// # Errors
/// When the body is over the limit, or over that of a layer around it, or breaks off.
pub async fn collect_body<B>(body: B, limit: usize) -> Result<Bytes, BodyError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let too_large = BodyError::TooLarge { limit: Some(limit) };
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large);
    }
    let mut body = pin!(body);
    // A body of one frame, which is most, is not copied.
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| body_error(&*error.into()))?;
        // Trailers are no part of the body.
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if first.len() + whole.len() + data.len() > limit {
            return Err(too_large);
        }
        if first.is_empty() && whole.is_empty() {
            first = data;
        } else {
            whole.extend_from_slice(&std::mem::take(&mut first));
            whole.extend_from_slice(&data);
        }
    }
    Ok(match whole.is_empty() {
        true => first,
        false => whole.freeze(),
    })
}

/// What a body's own error says, or what is behind it.
fn body_error(error: &(dyn Error + 'static)) -> BodyError {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(known) = error.downcast_ref::<BodyError>() {
            return *known;
        }
        if error.is::<LengthLimitError>() {
            return BodyError::TooLarge { limit: None };
        }
        cause = match error.downcast_ref().and_then(std::io::Error::get_ref) {
            // Its source is that of the error that it holds.
            Some(held) => Some(held),
            None => error.source(),
        };
    }
    BodyError::Unreadable
}

#[cfg(test)]
mod tests {
    use http::Request;
    use http_body_util::{Full, Limited, StreamBody};

    use super::*;

    fn fingerprint(request: &Request<&str>, has_scope: bool) -> Fingerprint {
        RequestIdentity {
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
        }
        .fingerprint(has_scope, request.body().as_bytes())
    }

    fn base() -> http::request::Builder {
        Request::post("/charges?dry=1")
            .header(CONTENT_TYPE, "application/json")
            .header(AUTHORIZATION, "Bearer a")
    }

    #[test]
    fn every_part_of_a_request_counts() {
        let first = fingerprint(&base().body("{}").unwrap(), false);
        let others = [
            base().body("{ }"),
            base().body(""),
            base().method("PUT").body("{}"),
            base().uri("/charges").body("{}"),
            base().uri("/charges?dry=2").body("{}"),
            base().uri("/charge?dry=1").body("{}"),
            base().header(CONTENT_TYPE, "text/plain").body("{}"),
            base().header(AUTHORIZATION, "Bearer b").body("{}"),
        ];
        for other in others {
            assert_ne!(first, fingerprint(&other.unwrap(), false));
        }
        assert_eq!(first, fingerprint(&base().body("{}").unwrap(), false));
    }

    #[test]
    fn other_headers_do_not_count_and_authorization_not_within_a_scope() {
        let with = |name, value: &str| base().header(name, value).body("{}").unwrap();
        let rotated = Request::post("/charges?dry=1")
            .header(CONTENT_TYPE, "application/json")
            .header(AUTHORIZATION, "Bearer rotated")
            .body("{}")
            .unwrap();
        let first = base().body("{}").unwrap();
        assert_eq!(
            fingerprint(&first, false),
            fingerprint(&with("x-request-id", "7"), false)
        );
        assert_eq!(fingerprint(&first, true), fingerprint(&rotated, true));
        assert_ne!(fingerprint(&first, false), fingerprint(&rotated, false));
    }

    fn hex(fingerprint: Fingerprint) -> String {
        let bytes = fingerprint.to_bytes();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_algorithm_of_requests_never_changes() {
        // A change of a value makes every retry across a deploy a mismatch: it needs a version.
        let request = base().header(HOST, "acme.example.com").body("{}").unwrap();
        assert_eq!(
            hex(fingerprint(&request, true)),
            "01e13575a6c4d3865f2bc3527017a885e7f35fc12b1e366a8e0c305dd1b6e03f7b"
        );
        assert_eq!(
            hex(fingerprint(&request, false)),
            "025a4c48a66ee4e3284a7e1a345c8cd54f45d11711426827074824b8eb3deeaae1"
        );
    }

    #[test]
    fn without_a_scope_the_host_counts_in_one_spelling() {
        let at = |uri: &str, host: &str| {
            let request = Request::post(uri).header(HOST, host).body("{}").unwrap();
            (fingerprint(&request, false), fingerprint(&request, true))
        };
        let (first, within_a_scope) = at("/charges", "acme.example.com");
        for (uri, host) in [
            ("/charges", "ACME.Example.com"),
            ("/charges", "acme.example.com:80"),
            ("/charges", "acme.example.com:443"),
            ("/charges", "acme.example.com:"),
            // As HTTP/2 has it, and HTTP/1.1 to a proxy: the header does not count.
            ("https://acme.example.com/charges", "umbrella.example.com"),
            (
                "https://ACME.example.com:443/charges",
                "acme.example.com:8443",
            ),
            ("http://user@acme.example.com/charges", ""),
        ] {
            assert_eq!(at(uri, host), (first, within_a_scope), "{uri} {host}");
        }
        for (uri, host) in [
            ("/charges", "umbrella.example.com"),
            ("/charges", "acme.example.com:8080"),
            ("/charges", "acme.example.com:4430"),
            ("/charges", "acme.example.com."),
            ("/charges", ""),
            ("https://umbrella.example.com/charges", "acme.example.com"),
        ] {
            let (other, scoped) = at(uri, host);
            assert_ne!(other, first, "{uri} {host}");
            assert_eq!(scoped, within_a_scope);
        }
        let ipv6 = at("/charges", "[::1]:80").0;
        assert_eq!(ipv6, at("/charges", "[::1]").0);
        assert_ne!(ipv6, at("/charges", "[::80]").0);
        // None at all, and two lines, are others as well.
        let none = Request::post("/charges").body("{}").unwrap();
        assert_ne!(fingerprint(&none, false), at("/charges", "").0);
        let two = Request::post("/charges").header(HOST, "acme.example.com");
        let two = two.header(HOST, "umbrella.example.com").body("{}").unwrap();
        assert_ne!(fingerprint(&two, false), first);
    }

    #[test]
    fn a_record_without_the_host_in_it_is_of_another_version() {
        let request = base().body("{}").unwrap();
        assert_eq!(fingerprint(&request, true).to_bytes()[0], 1);
        assert_eq!(fingerprint(&request, false).to_bytes()[0], 2);
        // What version 1 made of it.
        let mut before = Fingerprinter::new();
        before.bytes("method", b"POST");
        before.bytes("path", b"/charges");
        before.bytes("query", b"dry=1");
        before.bytes("content-type", b"application/json");
        before.bytes("authorization", b"Bearer a");
        before.bytes("body", b"{}");
        assert_ne!(fingerprint(&request, false), before.finish());
    }

    #[tokio::test]
    async fn bodies_over_the_limit_are_refused_announced_or_not() {
        let announced = Full::new(Bytes::from_static(b"12345"));
        assert_eq!(
            collect_body(announced.clone(), 4).await,
            Err(BodyError::TooLarge { limit: Some(4) })
        );
        assert_eq!(collect_body(announced, 5).await.unwrap(), "12345");
        let frame = || Ok::<_, std::io::Error>(http_body::Frame::data(Bytes::from_static(b"123")));
        let streamed = StreamBody::new(futures_util::stream::iter([frame(), frame()]));
        assert_eq!(
            collect_body(streamed, 5).await,
            Err(BodyError::TooLarge { limit: Some(5) })
        );
        let broken = StreamBody::new(futures_util::stream::iter([
            frame(),
            Err(std::io::Error::other("gone")),
        ]));
        assert_eq!(collect_body(broken, 50).await, Err(BodyError::Unreadable));
    }

    #[tokio::test]
    async fn a_body_over_the_limit_of_another_is_too_large_too() {
        let frame = || Ok::<_, std::io::Error>(http_body::Frame::data(Bytes::from_static(b"123")));
        let over = || {
            let frames = futures_util::stream::iter([frame(), frame(), frame()]);
            Limited::new(StreamBody::new(frames), 8)
        };
        let too_large = Err(BodyError::TooLarge { limit: None });
        assert_eq!(collect_body(over(), 50).await, too_large);
        // As frameworks wrap what they read.
        let wrapped = over().map_err(std::io::Error::other);
        assert_eq!(collect_body(wrapped, 50).await, too_large);
        // The one that comes first is told.
        assert_eq!(
            collect_body(over(), 5).await,
            Err(BodyError::TooLarge { limit: Some(5) })
        );
    }

    #[tokio::test]
    async fn a_body_is_whole_in_any_number_of_frames() {
        for frames in [&[][..], &["one"], &["", "one", "", "two", "three"]] {
            let body = frames.iter().map(|text| {
                let frame = http_body::Frame::data(Bytes::from_static(text.as_bytes()));
                Ok::<_, std::io::Error>(frame)
            });
            let body = StreamBody::new(futures_util::stream::iter(body.collect::<Vec<_>>()));
            assert_eq!(collect_body(body, 50).await.unwrap(), frames.concat());
        }
    }
}
