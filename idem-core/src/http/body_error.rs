//! Why a response's body breaks off.

use std::error::Error;
use std::task::Poll;
use std::{fmt, io};

use bytes::Bytes;
use http_body::Frame;

/// What a body that was captured gives.
pub(super) type Given<E> = Option<Result<Frame<Bytes>, CapturedBodyError<E>>>;

/// Why a response's body breaks off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CapturedBodyError<E> {
    /// The handler's body failed.
    Body(E),
    /// The response has no end: see [`ResponseCutOff`].
    CutOff(ResponseCutOff),
}

/// A response did not come to an end: its attempt was stopped at its deadline; or, for a duplicate that
/// is attached to it, its attempt crashed, or it became longer than what the engine keeps. A retry is
/// told what there is to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseCutOff;

impl fmt::Display for ResponseCutOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the response broke off before its end; retry with the same key")
    }
}

impl Error for ResponseCutOff {}

/// As servers take it: the handler's own error comes out as it is.
impl<E: Into<Box<dyn Error + Send + Sync>>> From<CapturedBodyError<E>>
    for Box<dyn Error + Send + Sync>
{
    fn from(error: CapturedBodyError<E>) -> Self {
        match error {
            CapturedBodyError::Body(error) => error.into(),
            CapturedBodyError::CutOff(error) => Box::new(error),
        }
    }
}

impl From<CapturedBodyError<Self>> for io::Error {
    fn from(error: CapturedBodyError<Self>) -> Self {
        match error {
            CapturedBodyError::Body(error) => error,
            CapturedBodyError::CutOff(error) => Self::other(error),
        }
    }
}

/// What the handler's own body gives.
pub(super) fn of_body<E>(frame: Poll<Option<Result<Frame<Bytes>, E>>>) -> Poll<Given<E>> {
    frame.map(|frame| frame.map(|frame| frame.map_err(CapturedBodyError::Body)))
}
