//! An operation as it is written down.

use std::time::SystemTime;

use bytes::Bytes;
use http::header::{AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};

use super::error::JournalError;
use crate::key::IdempotencyKey;

/// An operation in the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pending {
    /// Its key.
    pub key: IdempotencyKey,
    /// Its method.
    pub method: Method,
    /// Where it is sent.
    pub uri: Uri,
    /// When it was written down, by the machine's clock.
    pub recorded_at: SystemTime,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) method: String,
    pub(super) uri: String,
    pub(super) headers: Vec<u8>,
    pub(super) body: Bytes,
}

impl Entry {
    pub(super) fn of(request: &Request<Bytes>, max_bytes: usize) -> Result<Self, JournalError> {
        let entry = Self {
            method: request.method().as_str().to_owned(),
            uri: request.uri().to_string(),
            headers: written(request.headers())?,
            body: request.body().clone(),
        };
        let length = entry.method.len() + entry.uri.len() + entry.headers.len();
        match length.saturating_add(entry.body.len()) <= max_bytes {
            true => Ok(entry),
            false => Err(JournalError::TooLarge),
        }
    }

    pub(super) fn request(&self) -> Result<Request<Bytes>, JournalError> {
        let mut request = Request::new(self.body.clone());
        *request.method_mut() = self.method.parse().map_err(|_| JournalError::Damaged)?;
        *request.uri_mut() = self.uri.parse().map_err(|_| JournalError::Damaged)?;
        *request.headers_mut() = read(&self.headers).ok_or(JournalError::Damaged)?;
        Ok(request)
    }
}

/// Names and values, each behind its length.
fn written(headers: &HeaderMap) -> Result<Vec<u8>, JournalError> {
    let mut bytes = Vec::new();
    for (name, value) in headers {
        let secret = [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION].contains(name);
        if secret || value.is_sensitive() {
            return Err(JournalError::SecretHeader(name.clone()));
        }
        for part in [name.as_str().as_bytes(), value.as_bytes()] {
            let length = u32::try_from(part.len()).map_err(|_| JournalError::TooLarge)?;
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(part);
        }
    }
    Ok(bytes)
}

fn read(mut bytes: &[u8]) -> Option<HeaderMap> {
    let mut part = || -> Option<Option<&[u8]>> {
        if bytes.is_empty() {
            return Some(None);
        }
        let (length, rest) = bytes.split_first_chunk()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let (part, rest) = rest.split_at_checked(length)?;
        bytes = rest;
        Some(Some(part))
    };
    let mut headers = HeaderMap::new();
    while let Some(name) = part()? {
        let name = HeaderName::from_bytes(name).ok()?;
        let value = HeaderValue::from_bytes(part()??).ok()?;
        headers.try_append(name, value).ok()?;
    }
    Some(headers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn credentials_are_refused() {
        for name in ["authorization", "cookie", "proxy-authorization"] {
            let request = Request::post("/")
                .header(name, "secret")
                .body(Bytes::new())
                .unwrap();
            let error = Entry::of(&request, 1000).unwrap_err();
            let JournalError::SecretHeader(refused) = &error else {
                panic!("{error}")
            };
            assert_eq!(refused, name);
            assert!(!format!("{error} {error:?}").contains("secret"));
        }
        let mut value = HeaderValue::from_static("secret");
        value.set_sensitive(true);
        let request = Request::post("/")
            .header("x-api-key", value)
            .body(Bytes::new())
            .unwrap();
        assert!(matches!(
            Entry::of(&request, 1000),
            Err(JournalError::SecretHeader(_))
        ));
    }

    proptest! {
        #[test]
        fn a_request_is_read_as_it_was_written(
            values in prop::collection::vec(("[a-z]{1,9}", "[ -~\u{80}-\u{ff}]{0,9}"), 0..9),
            body: Vec<u8>,
        ) {
            let mut request = Request::patch("https://api.example/a?b=c").body(Bytes::from(body)).unwrap();
            for (name, value) in values {
                let name: HeaderName = format!("x-{name}").parse().unwrap();
                request.headers_mut().append(name, HeaderValue::from_str(&value).unwrap());
            }
            let read = Entry::of(&request, 10_000).unwrap().request().unwrap();
            prop_assert_eq!(read.method(), request.method());
            prop_assert_eq!(read.uri(), request.uri());
            prop_assert_eq!(read.headers(), request.headers());
            prop_assert_eq!(read.body(), request.body());
        }

        #[test]
        fn what_is_no_list_of_headers_is_an_error_and_no_panic(bytes: Vec<u8>) {
            let _ = read(&bytes);
        }
    }
}
