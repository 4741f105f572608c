//! Salvo's `StatusError` as bytes, and back. The service's catcher renders it, so it is stored
//! before it has any form that a client would see.

use std::error::Error;
use std::fmt;

use salvo_core::http::{StatusCode, StatusError};

/// What a catcher can show of an error.
pub(super) fn encode(error: &StatusError) -> Vec<u8> {
    let cause = error.cause.as_ref();
    let parts = [
        Some(error.name.clone()),
        Some(error.brief.clone()),
        error.detail.clone(),
        cause.map(|cause| cause.to_string()),
        // Catchers show it so.
        cause.map(|cause| format!("{cause:#?}")),
    ];
    let mut encoded = Vec::new();
    for part in parts {
        match part {
            None => encoded.push(0),
            Some(text) => {
                encoded.push(1);
                encoded.extend_from_slice(&(text.len() as u64).to_be_bytes());
                encoded.extend_from_slice(text.as_bytes());
            }
        }
    }
    encoded
}

/// `None` where it is not what [`encode`] has made, or the status is no error's.
pub(super) fn decode(code: StatusCode, encoded: &[u8]) -> Option<StatusError> {
    let mut rest = encoded;
    let name = part(&mut rest)??;
    let brief = part(&mut rest)??;
    let detail = part(&mut rest)?;
    let cause = part(&mut rest)?.zip(part(&mut rest)?);
    let mut error = StatusError::from_code(code).unwrap_or_else(|| {
        let mut error = StatusError::internal_server_error();
        error.code = code;
        error
    });
    error.name = name;
    error.brief = brief;
    error.detail = detail;
    error.cause = cause.map(|(shown, debugged)| Cause { shown, debugged }.into());
    Some(error)
}

fn part(rest: &mut &[u8]) -> Option<Option<String>> {
    let (is_there, after) = rest.split_first()?;
    *rest = after;
    if *is_there == 0 {
        return Some(None);
    }
    let (length, after) = after.split_first_chunk::<8>()?;
    let length = usize::try_from(u64::from_be_bytes(*length)).ok()?;
    let (text, after) = after.split_at_checked(length)?;
    *rest = after;
    Some(Some(String::from_utf8(text.to_vec()).ok()?))
}

/// A cause that another process may have had.
struct Cause {
    shown: String,
    debugged: String,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.debugged)
    }
}

impl Error for Cause {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_comes_back_as_a_catcher_shows_it() {
        let error = StatusError::conflict()
            .brief("sold out")
            .detail("")
            .cause(std::io::Error::other("no stock"));
        let decoded = decode(error.code, &encode(&error)).unwrap();
        assert_eq!(decoded.to_string(), error.to_string());
        assert_eq!(decoded.detail.as_deref(), Some(""));
        assert_eq!(
            format!("{:#?}", decoded.cause.unwrap()),
            format!("{:#?}", error.cause.unwrap())
        );
        assert!(decode(StatusCode::CONFLICT, b"another thing").is_none());
        assert!(decode(StatusCode::CONFLICT, b"").is_none());
    }
}
