//! What is seen in requests and responses that is seldom meant: layers on the wrong side of the
//! protection, and failures that are kept.

use http::StatusCode;
use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_ENCODING, HeaderMap, HeaderValue, VARY};

use crate::engine::{Engine, Notice, Operation};

impl Notice {
    /// Of a response that is about to be stored.
    fn of_response(status: StatusCode, headers: &HeaderMap) -> Option<Self> {
        if status.is_server_error() {
            return Some(Self::FailureKept);
        }
        let origin = headers.get(ACCESS_CONTROL_ALLOW_ORIGIN);
        if origin.is_some_and(|origin| origin != HeaderValue::from_static("*")) {
            return Some(Self::OriginKept);
        }
        let varies_by_encoding = || {
            let mut lines = headers.get_all(VARY).iter();
            lines.any(|line| {
                let mut names = line.as_bytes().split(|byte| *byte == b',');
                names.any(|name| name.trim_ascii().eq_ignore_ascii_case(b"accept-encoding"))
            })
        };
        if headers.contains_key(CONTENT_ENCODING) && varies_by_encoding() {
            return Some(Self::EncodingKept);
        }
        None
    }
}

/// Tells the log, once for each operation, what is seldom meant of a response that is stored. Called in
/// the body whose response it is.
#[doc(hidden)]
pub fn notice_response(engine: &Engine, status: StatusCode, headers: &HeaderMap) {
    if let Some(notice) = Notice::of_response(status, headers) {
        engine.notice_here(notice);
    }
}

/// The same of a request.
#[doc(hidden)]
pub fn notice_request(operation: &Operation, headers: &HeaderMap) {
    let encoding = headers.get(CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| encoding != HeaderValue::from_static("identity")) {
        operation.notice(Notice::EncodedRequest);
    }
}
