//! A duplicate's answer while the first one's is on its way.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http_body::Body;

use super::body::CapturedBody;
use super::live::{Follower, LiveResponse};
use crate::engine::LiveAnswer;

/// A response that is on its way, for a duplicate. Marked as a replay, with the headers of one.
#[derive(Debug)]
#[doc(hidden)]
pub struct Attached(Arc<LiveResponse>);

impl Attached {
    /// `None` where the answer is no HTTP response.
    pub fn to(live: LiveAnswer) -> Option<Self> {
        live.downcast().ok().map(Self)
    }

    /// The response. Its body ends in an error where the first caller's is longer than what is kept,
    /// fails, or has trailers.
    pub fn into_response<B: Body<Data = Bytes>>(self) -> Response<CapturedBody<B>> {
        let mut response = Response::new(());
        *response.status_mut() = self.0.status;
        response.headers_mut().clone_from(&self.0.headers);
        response.map(|()| CapturedBody::attached(Follower::new(self.0)))
    }
}
