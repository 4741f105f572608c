//! The bytes of a stored response, and the response that they give back.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, GetAll, HeaderName, SET_COOKIE};
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
    let named_by_connection = Options::of(headers);
    let stored = Stored {
        status: status.as_u16(),
        headers: headers
            .iter()
            .filter(|(name, _)| is_kept(name, &named_by_connection, settings))
            .map(|(name, value)| (name.as_str(), Raw(value.as_bytes())))
            .collect(),
        body: Raw(body),
    };
    // With the exact room, the bytes are not moved once more.
    let encoded = Vec::with_capacity(stored.encoded_len());
    match postcard::to_extend(&stored, encoded) {
        Ok(encoded) => Outcome::Response(encoded.into()),
        Err(_) => Outcome::NotReplayable(NotReplayable::NotCaptured),
    }
}

impl Stored<'_> {
    /// How long postcard's encoding is.
    fn encoded_len(&self) -> usize {
        let line = |(name, value): &(&str, Raw<'_>)| {
            length_len(name.len()) + name.len() + length_len(value.0.len()) + value.0.len()
        };
        length_len(self.status.into())
            + length_len(self.headers.len())
            + self.headers.iter().map(line).sum::<usize>()
            + length_len(self.body.0.len())
            + self.body.0.len()
    }
}

/// How many bytes postcard takes for a number: seven bits each.
const fn length_len(number: usize) -> usize {
    let bits = (usize::BITS - number.leading_zeros()) as usize;
    if bits == 0 { 1 } else { bits.div_ceil(7) }
}

/// The lines of `Connection`, if there are any: its options name headers that are hop-by-hop too.
struct Options<'a>(Option<GetAll<'a, HeaderValue>>);

impl<'a> Options<'a> {
    fn of(headers: &'a HeaderMap) -> Self {
        let any = headers.contains_key(CONNECTION);
        Self(any.then(|| headers.get_all(CONNECTION)))
    }

    fn name(&self, name: &HeaderName) -> bool {
        let lines = self.0.iter().flatten();
        lines
            .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
            .any(|option| {
                option
                    .trim_ascii()
                    .eq_ignore_ascii_case(name.as_str().as_bytes())
            })
    }
}

fn is_kept(name: &HeaderName, named_by_connection: &Options<'_>, settings: &HttpSettings) -> bool {
    if *name == SET_COOKIE {
        return settings.keep_set_cookie;
    }
    *name != DATE
        && *name != CONTENT_LENGTH
        && *name != IDEMPOTENT_REPLAYED
        && !HOP_BY_HOP.contains(name)
        && !named_by_connection.name(name)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_room_for_an_encoded_response_is_exact() {
        for length in [0, 1, 127, 128, 16_383, 16_384, 3_000_000] {
            let value = "v".repeat(length.min(20_000));
            let body = vec![b'b'; length];
            let stored = Stored {
                status: 200,
                headers: vec![("name", Raw(value.as_bytes())), ("", Raw(b""))],
                body: Raw(&body),
            };
            let encoded = postcard::to_extend(&stored, Vec::new()).unwrap();
            assert_eq!(stored.encoded_len(), encoded.len());
        }
    }
}
