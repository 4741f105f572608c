//! Which responses are stored, what of them, and how they are given back.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, HeaderName, SET_COOKIE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};

use super::{CapturedBody, FlowingResponse, HttpSettings};
use crate::outcome::{NotReplayable, Outcome, Undecodable, Verdict};

/// The header that marks a response as a replay: `Idempotent-Replayed: true`.
pub const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The statuses that say "not processed" unless the operation lists others: the key is freed.
pub const DEFAULT_RELEASE: &[u16] = &[307, 308, 401, 408, 425, 429, 503];

/// RFC 9110 §7.6.1, with the two that proxies invented.
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-authenticate"),
    HeaderName::from_static("proxy-authorization"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("te"),
    HeaderName::from_static("trailer"),
    HeaderName::from_static("transfer-encoding"),
    HeaderName::from_static("upgrade"),
];

/// A response as it is stored. Its encoding is postcard's, within a versioned [`Outcome`].
#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    status: u16,
    #[serde(borrow)]
    headers: Vec<(&'a str, Raw<'a>)>,
    body: Raw<'a>,
}

/// Bytes that serde takes as bytes, not as a sequence of numbers.
#[derive(Deserialize)]
struct Raw<'a>(#[serde(borrow)] &'a [u8]);

impl Serialize for Raw<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

/// A response as an outcome to store, whatever its status: what an operator resolves a record with.
pub fn outcome_of(response: &Response<Bytes>, settings: &HttpSettings) -> Outcome {
    store(
        response.status(),
        response.headers(),
        response.body(),
        settings,
    )
}

/// Marks a response that is not whole as it stands here, because an adapter had no room for all of its
/// headers: it is passed on, and not stored.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Incomplete;

/// A handler's response, judged.
#[derive(Debug)]
pub enum Captured<B: Body<Data = Bytes>> {
    /// The attempt has ended. The response is the handler's, whole, for the first caller.
    Ended(Verdict, Response<CapturedBody<B>>),
    /// The attempt ends with the response's body.
    Flows(FlowingResponse<B>),
}

/// Judges a handler's response, and reads its body if its length is known.
///
/// A status in `release` frees the key. Every other response is final, 5xx too. One that is longer
/// than `max_bytes`, or breaks off, leaves a tombstone.
pub async fn capture<B>(
    response: Response<B>,
    release: &[u16],
    max_bytes: usize,
    settings: &HttpSettings,
) -> Captured<B>
where
    B: Body<Data = Bytes>,
{
    let (mut head, body) = response.into_parts();
    // Of an operation elsewhere, whose answer this one passes on.
    head.headers.remove(IDEMPOTENT_REPLAYED);
    let tombstone = |reason| Verdict::Final(Outcome::NotReplayable(reason));
    let length = match body.is_end_stream() {
        true => Some(0),
        false => body.size_hint().exact(),
    };
    let (verdict, body) = match length {
        _ if release.contains(&head.status.as_u16()) => {
            (Verdict::Released, CapturedBody::passed(body))
        }
        // A protocol switch: what follows is no response that could be given again.
        _ if head.status.is_informational() => (
            tombstone(NotReplayable::Streamed),
            CapturedBody::passed(body),
        ),
        _ if head.extensions.get::<Incomplete>().is_some() => (
            tombstone(NotReplayable::NotCaptured),
            CapturedBody::passed(body),
        ),
        None => {
            return Captured::Flows(FlowingResponse {
                head,
                body,
                max_bytes,
                settings: settings.clone(),
            });
        }
        Some(length) if length > max_bytes as u64 => (
            tombstone(NotReplayable::TooLarge),
            CapturedBody::passed(body),
        ),
        Some(length) => match body.collect().await {
            Err(error) => (
                tombstone(NotReplayable::NotCaptured),
                CapturedBody::broken(error),
            ),
            Ok(whole) if whole.trailers().is_some() => (
                tombstone(NotReplayable::NotCaptured),
                CapturedBody::with_trailers(whole),
            ),
            Ok(whole) => {
                let whole = whole.to_bytes();
                if whole.len() as u64 == length {
                    let outcome = store(head.status, &head.headers, &whole, settings);
                    (Verdict::Final(outcome), CapturedBody::whole(whole))
                } else {
                    // The server breaks off. A whole answer of that length would be another.
                    let body = CapturedBody::misannounced(whole, length);
                    (tombstone(NotReplayable::NotCaptured), body)
                }
            }
        },
    };
    Captured::Ended(verdict, Response::from_parts(head, body))
}

pub(super) fn store(
    status: StatusCode,
    headers: &HeaderMap,
    body: &Bytes,
    settings: &HttpSettings,
) -> Outcome {
    let stored = Stored {
        status: status.as_u16(),
        headers: headers
            .iter()
            .filter(|(name, _)| is_kept(name, headers, settings))
            .map(|(name, value)| (name.as_str(), Raw(value.as_bytes())))
            .collect(),
        body: Raw(body),
    };
    let encoded = Vec::with_capacity(body.len() + 256);
    match postcard::to_extend(&stored, encoded) {
        Ok(encoded) => Outcome::Response(encoded.into()),
        Err(_) => Outcome::NotReplayable(NotReplayable::NotCaptured),
    }
}

fn is_kept(name: &HeaderName, headers: &HeaderMap, settings: &HttpSettings) -> bool {
    if *name == SET_COOKIE {
        return settings.keep_set_cookie;
    }
    *name != DATE
        && *name != CONTENT_LENGTH
        && *name != IDEMPOTENT_REPLAYED
        && !HOP_BY_HOP.contains(name)
        && !is_named_by_connection(name, headers)
}

/// A header that `Connection` names is hop-by-hop too.
fn is_named_by_connection(name: &HeaderName, headers: &HeaderMap) -> bool {
    headers.get_all(CONNECTION).iter().any(|line| {
        line.as_bytes().split(|byte| *byte == b',').any(|option| {
            option
                .trim_ascii()
                .eq_ignore_ascii_case(name.as_str().as_bytes())
        })
    })
}

/// The response from a stored outcome, marked as a replay. The body shares the stored bytes.
///
/// # Errors
/// When the outcome is no response, or one that this version cannot read.
pub fn replay(outcome: &Outcome) -> Result<Response<Bytes>, Undecodable> {
    let Outcome::Response(encoded) = outcome else {
        return Err(Undecodable);
    };
    let stored: Stored<'_> = postcard::from_bytes(encoded).map_err(|_| Undecodable)?;
    let mut response = Response::new(encoded.slice_ref(stored.body.0));
    *response.status_mut() = StatusCode::from_u16(stored.status).map_err(|_| Undecodable)?;
    let headers = response.headers_mut();
    headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    // Room is made for names, of which there may be fewer than lines: what cannot be had is not needed.
    let _ = headers.try_reserve(stored.headers.len());
    for (name, value) in stored.headers {
        let name = HeaderName::try_from(name).map_err(|_| Undecodable)?;
        let value = HeaderValue::from_bytes(value.0).map_err(|_| Undecodable)?;
        headers.try_append(name, value).map_err(|_| Undecodable)?;
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use http_body::{Frame, SizeHint};
    use http_body_util::Full;

    use super::*;

    /// Says that it is ten bytes long.
    struct Ten(Full<Bytes>);

    impl Body for Ten {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Pin::new(&mut self.0).poll_frame(cx)
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(10)
        }
    }

    #[tokio::test]
    async fn a_body_of_another_length_than_announced_is_never_a_whole_answer() {
        for (content, is_kept) in [
            ("short", false),
            ("ten  bytes", true),
            ("too many bytes", false),
        ] {
            let response = Response::new(Ten(content.into()));
            let settings = HttpSettings::new();
            let captured = capture(response, DEFAULT_RELEASE, 1000, &settings).await;
            let Captured::Ended(verdict, response) = captured else {
                panic!("its length is known");
            };
            let kept = matches!(verdict, Verdict::Final(Outcome::Response(_)));
            assert_eq!(kept, is_kept, "{content}");
            let body = response.into_body();
            assert_eq!(body.size_hint().exact(), Some(10));
            assert_eq!(body.collect().await.unwrap().to_bytes(), content);
        }
    }

    /// More lines than a map of headers has room for names.
    const MANY: usize = 25_000;

    #[tokio::test]
    async fn many_lines_of_one_header_are_given_back() {
        let mut response = Response::new(Full::<Bytes>::from("body"));
        for number in 0..MANY {
            let value = HeaderValue::from(number);
            response.headers_mut().append("x-line", value);
        }
        let settings = HttpSettings::new();
        let captured = capture(response, DEFAULT_RELEASE, 1 << 20, &settings).await;
        let Captured::Ended(Verdict::Final(outcome), _) = captured else {
            panic!("{captured:?}");
        };
        let replay = replay(&outcome).unwrap();
        let lines = replay.headers().get_all("x-line").iter();
        assert!(lines.eq((0..MANY).map(HeaderValue::from).collect::<Vec<_>>().iter()));
    }

    #[tokio::test]
    async fn a_response_with_all_the_headers_there_can_be_is_no_panic() {
        let mut response = Response::new(Full::<Bytes>::from("body"));
        for number in 0.. {
            let name = HeaderName::try_from(format!("x-{number}")).unwrap();
            let value = HeaderValue::from_static("1");
            if response.headers_mut().try_append(name, value).is_err() {
                break;
            }
        }
        let settings = HttpSettings::new();
        let captured = capture(response, DEFAULT_RELEASE, 1 << 20, &settings).await;
        let Captured::Ended(Verdict::Final(outcome), _) = captured else {
            panic!("{captured:?}");
        };
        // There is no room for the mark of a replay.
        assert_eq!(replay(&outcome).err(), Some(Undecodable));
    }
}
