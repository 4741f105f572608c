//! The bytes of a stored response, and the response that they give back.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, HeaderName, SET_COOKIE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde::{Deserialize, Serialize};

use super::settings::HttpSettings;
use crate::outcome::{NotReplayable, Outcome, Undecodable};

/// The header that marks a response as a replay: `Idempotent-Replayed: true`.
pub const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

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

/// [`replay`] with the hints of the settings: a stored failure comes back on every retry.
#[doc(hidden)]
pub fn replay_under(
    outcome: &Outcome,
    settings: &HttpSettings,
) -> Result<Response<Bytes>, Undecodable> {
    let mut response = replay(outcome)?;
    settings.retry_hints.of_replay(&mut response);
    Ok(response)
}
