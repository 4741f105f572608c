//! The host that a call was sent to, which tonic does not hand to methods.

use std::task::{Context, Poll};

use http::{Request, Uri};
use tower_layer::Layer;
use tower_service::Service;

/// Tells idempotent methods which host their calls were sent to.
///
/// tonic hands a method neither the host nor the path of its call. Behind this layer, the host takes
/// part in the fingerprint of a call without a `scope`, as it does over HTTP. A server for several
/// hosts needs it, unless its methods name a `scope`: `Server::builder().layer(HostLayer)`.
///
/// To add or to remove it makes the retries of calls that came before a mismatch.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostLayer;

/// The target of a call, as the server got it.
#[derive(Clone, Debug)]
pub(super) struct Target(pub(super) Uri);

impl<S> Layer<S> for HostLayer {
    type Service = KnowsHost<S>;

    fn layer(&self, inner: S) -> KnowsHost<S> {
        KnowsHost { inner }
    }
}

/// A service in a [`HostLayer`].
#[derive(Clone, Debug)]
pub struct KnowsHost<S> {
    inner: S,
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for KnowsHost<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        let target = Target(request.uri().clone());
        request.extensions_mut().insert(target);
        self.inner.call(request)
    }
}
