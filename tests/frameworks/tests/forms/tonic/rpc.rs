//! A service, its server and its client, as `tonic-build` would write them.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::uri::PathAndQuery;
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tonic::server::{Grpc, NamedService};
use tonic::transport::Channel;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::Service;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct NewCharge {
    #[prost(string, tag = "1")]
    pub(crate) note: String,
    #[prost(uint64, tag = "2")]
    pub(crate) amount: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Charge {
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    #[prost(string, tag = "2")]
    pub(crate) text: String,
}

#[tonic::async_trait]
pub(crate) trait Charges: Send + Sync + 'static {
    async fn create(&self, request: Request<NewCharge>) -> Result<Response<Charge>, Status>;
    async fn other(
        self: Arc<Self>,
        request: Request<NewCharge>,
    ) -> Result<Response<Charge>, Status>;
}

struct Server<S> {
    service: Arc<S>,
    seen: Arc<Seen>,
}

/// How many calls have come to a server, and how many it has let go of, answered or not.
#[derive(Default)]
struct Seen {
    arrived: watch::Sender<u32>,
    left: watch::Sender<u32>,
}

impl<S> Clone for Server<S> {
    fn clone(&self) -> Self {
        Self {
            service: Arc::clone(&self.service),
            seen: Arc::clone(&self.seen),
        }
    }
}

impl<S> NamedService for Server<S> {
    const NAME: &'static str = "shop.Charges";
}

type Answer = http::Response<tonic::body::Body>;

impl<S: Charges> Service<http::Request<tonic::body::Body>> for Server<S> {
    type Response = Answer;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let service = Arc::clone(&self.service);
        self.seen.arrived.send_modify(|arrived| *arrived += 1);
        let leaving = Leaving(Arc::clone(&self.seen));
        let is_create = request.uri().path() == "/shop.Charges/Create";
        let method = tower::service_fn(move |request| {
            let service = Arc::clone(&service);
            async move {
                if is_create {
                    service.create(request).await
                } else {
                    service.other(request).await
                }
            }
        });
        Box::pin(async move {
            let _leaving = leaving;
            let mut grpc = Grpc::new(ProstCodec::default());
            Ok(grpc.unary(method, request).await)
        })
    }
}

struct Leaving(Arc<Seen>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.left.send_modify(|left| *left += 1);
    }
}

/// A server behind the layer that knows its host.
pub(crate) async fn serve(service: impl Charges) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(Seen::default());
    let server = Server {
        service: Arc::new(service),
        seen: Arc::clone(&seen),
    };
    let mut builder = tonic::transport::Server::builder().layer(idem::tonic::HostLayer);
    let router = builder.add_service(server);
    let told = Arc::<Notify>::default();
    let signal = Arc::clone(&told);
    let incoming = TcpIncoming::from(listener);
    let signal = async move { signal.notified().await };
    let running = tokio::spawn(router.serve_with_incoming_shutdown(incoming, signal));
    Client {
        channel: connect(address, "localhost").await,
        address,
        seen,
        server: Arc::new(Serving { told, running }),
    }
}

async fn connect(address: SocketAddr, host: &str) -> Channel {
    let channel = Channel::from_shared(format!("http://{address}")).unwrap();
    let channel = channel.origin(format!("http://{host}").parse().unwrap());
    channel.connect().await.unwrap()
}

struct Serving {
    told: Arc<Notify>,
    running: JoinHandle<Result<(), tonic::transport::Error>>,
}

pub(crate) struct Client {
    channel: Channel,
    address: SocketAddr,
    seen: Arc<Seen>,
    server: Arc<Serving>,
}

async fn reached(count: &watch::Sender<u32>, least: u32) {
    let mut count = count.subscribe();
    count.wait_for(|count| *count >= least).await.unwrap();
}

type Called = Pin<Box<dyn Future<Output = Result<Response<Charge>, Status>> + Send>>;

impl Client {
    pub(crate) fn create(&self, request: Request<NewCharge>) -> Called {
        self.call("/shop.Charges/Create", request)
    }

    pub(crate) fn other(&self, request: Request<NewCharge>) -> Called {
        self.call("/shop.Charges/Other", request)
    }

    /// The same server under another name.
    pub(crate) async fn at_host(&self, host: &str) -> Self {
        Self {
            channel: connect(self.address, host).await,
            address: self.address,
            seen: Arc::clone(&self.seen),
            server: Arc::clone(&self.server),
        }
    }

    /// Stops the server: it takes no more calls.
    pub(crate) async fn stop(self) {
        let Self {
            channel, server, ..
        } = self;
        drop(channel);
        let Serving { told, running } = Arc::into_inner(server).unwrap();
        told.notify_one();
        running.await.unwrap().unwrap();
    }

    /// Resolves when so many calls have come to the server.
    pub(crate) async fn arrived(&self, calls: u32) {
        reached(&self.seen.arrived, calls).await;
    }

    /// Resolves when the server has let go of so many calls, answered or not.
    pub(crate) async fn left(&self, calls: u32) {
        reached(&self.seen.left, calls).await;
    }

    fn call(&self, path: &'static str, request: Request<NewCharge>) -> Called {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        Box::pin(async move {
            grpc.ready().await.unwrap();
            let path = PathAndQuery::from_static(path);
            grpc.unary(request, path, ProstCodec::default()).await
        })
    }
}

pub(crate) fn order(note: &str, amount: u64) -> NewCharge {
    NewCharge {
        note: note.to_owned(),
        amount,
    }
}

pub(crate) fn with_key(key: &str, order: NewCharge) -> Request<NewCharge> {
    let mut request = Request::new(order);
    let key = key.parse().unwrap();
    request.metadata_mut().insert("idempotency-key", key);
    request
}

/// The parts of `google.rpc.Status` that a client reads.
#[derive(Clone, PartialEq, Message)]
struct Details {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
}

#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Delay>,
}

#[derive(Clone, PartialEq, Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
}

fn detail<M: Message + Default>(status: &Status, name: &str) -> Option<M> {
    let details = Details::decode(status.details()).unwrap();
    assert_eq!(details.code, i32::from(status.code()));
    let url = format!("type.googleapis.com/google.rpc.{name}");
    let found = details.details.iter().find(|any| any.type_url == url)?;
    Some(M::decode(&*found.value).unwrap())
}

pub(crate) fn reason(status: &Status) -> String {
    let info: ErrorInfo = detail(status, "ErrorInfo").unwrap();
    assert_eq!(info.domain, "idem");
    info.reason
}

/// In seconds.
pub(crate) fn retry_delay(status: &Status) -> Option<i64> {
    let info: RetryInfo = detail(status, "RetryInfo")?;
    Some(info.retry_delay?.seconds)
}
