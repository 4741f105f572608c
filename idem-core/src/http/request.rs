//! What of a request counts: its body up to a limit, and its fingerprint.

use std::fmt;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, Method, Uri};
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::{Problem, ProblemKind};
use crate::fingerprint::{Fingerprint, Fingerprinter};

/// What must be equal on a retry, unless the operation says otherwise: method, path, query,
/// content type and the body's bytes.
#[derive(Clone, Copy, Debug)]
pub struct RequestIdentity<'a> {
    /// The request's method.
    pub method: &'a Method,
    /// The whole path and query, before a router has taken a prefix away.
    pub uri: &'a Uri,
    /// The request's headers.
    pub headers: &'a HeaderMap,
}

impl RequestIdentity<'_> {
    /// The fingerprint of the request with this body.
    ///
    /// Without a scope, the `Authorization` header takes part, so that the answer to one caller
    /// is never replayed to another.
    pub fn fingerprint(&self, has_scope: bool, body: &[u8]) -> Fingerprint {
        let mut fingerprinter = Fingerprinter::new();
        self.target(&mut fingerprinter);
        self.lines(&mut fingerprinter, "content-type", &CONTENT_TYPE);
        self.finish(fingerprinter, has_scope, Some(body))
    }

    /// The fingerprint of the request with parts that the operation names itself, in place of
    /// content type and body.
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
            self.lines(&mut fingerprinter, "authorization", &AUTHORIZATION);
        }
        if let Some(body) = body {
            fingerprinter.bytes("body", body);
        }
        fingerprinter.finish()
    }

    fn lines(&self, fingerprinter: &mut Fingerprinter, name: &str, header: &http::HeaderName) {
        for line in self.headers.get_all(header) {
            fingerprinter.bytes(name, line.as_bytes());
        }
    }
}

/// Why a request's body was not taken. Nothing was claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// It is longer than the limit.
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// It could not be read to its end.
    Unreadable,
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { limit } => {
                write!(f, "the request's body is longer than {limit} bytes")
            }
            Self::Unreadable => f.write_str("the request's body could not be read to its end"),
        }
    }
}

impl std::error::Error for BodyError {}

impl From<BodyError> for Problem {
    fn from(error: BodyError) -> Self {
        let kind = match error {
            BodyError::TooLarge { .. } => ProblemKind::BodyTooLarge,
            BodyError::Unreadable => ProblemKind::BodyUnreadable,
        };
        Self::new(kind, error.to_string())
    }
}

/// Reads a request's body whole. One that announces more than `limit` bytes is not read at all.
///
/// # Errors
/// When the body is over the limit or breaks off.
pub async fn collect_body<B>(body: B, limit: usize) -> Result<Bytes, BodyError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if body.size_hint().lower() > limit as u64 {
        return Err(BodyError::TooLarge { limit });
    }
    match Limited::new(body, limit).collect().await {
        // A body of one frame, which is most, is not copied here.
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(BodyError::TooLarge { limit }),
        Err(_) => Err(BodyError::Unreadable),
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use http_body_util::{Full, StreamBody};

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

    #[tokio::test]
    async fn bodies_over_the_limit_are_refused_announced_or_not() {
        let announced = Full::new(Bytes::from_static(b"12345"));
        assert_eq!(
            collect_body(announced.clone(), 4).await,
            Err(BodyError::TooLarge { limit: 4 })
        );
        assert_eq!(collect_body(announced, 5).await.unwrap(), "12345");
        let frame = || Ok::<_, std::io::Error>(http_body::Frame::data(Bytes::from_static(b"123")));
        let streamed = StreamBody::new(futures_util::stream::iter([frame(), frame()]));
        assert_eq!(
            collect_body(streamed, 5).await,
            Err(BodyError::TooLarge { limit: 5 })
        );
        let broken = StreamBody::new(futures_util::stream::iter([
            frame(),
            Err(std::io::Error::other("gone")),
        ]));
        assert_eq!(collect_body(broken, 50).await, Err(BodyError::Unreadable));
    }
}
