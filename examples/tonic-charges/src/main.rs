//! gRPC with tonic: `cargo run -p tonic-charges -- --port 3000`. The messages and the service below
//! are what `tonic-build` would write from a `.proto`, so that no `protoc` is needed here.

use std::convert::Infallible;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use clap::Parser;
use idem::tonic::idempotent;
use prost::Message;
use tokio::net::TcpListener;
use tonic::codegen::BoxFuture;
use tonic::server::{Grpc, NamedService};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::Service;

#[derive(Parser)]
struct Options {
    /// The loopback port to listen on; 0 for any free one.
    #[arg(long, default_value_t = 3000)]
    port: u16,
}

#[derive(Clone, PartialEq, Message)]
struct Charge {
    #[prost(uint64, tag = "1")]
    amount: u64,
    #[prost(string, tag = "2")]
    currency: String,
}

#[derive(Clone, PartialEq, Message)]
struct All {
    #[prost(message, repeated, tag = "1")]
    charges: Vec<Charge>,
}

#[tonic::async_trait]
trait Charges: Clone + Send + Sync + 'static {
    async fn create(&self, request: Request<Charge>) -> Result<Response<Charge>, Status>;
    async fn list(&self, request: Request<()>) -> Result<Response<All>, Status>;
}

#[derive(Clone, Default)]
struct Bank(Arc<Mutex<Vec<Charge>>>);

#[tonic::async_trait]
impl Charges for Bank {
    #[idempotent(key = metadata("idempotency-key"), ttl = "24h", name = "charges.create")]
    async fn create(&self, request: Request<Charge>) -> Result<Response<Charge>, Status> {
        let charge = request.into_inner();
        let mut charges = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        charges.push(charge.clone());
        Ok(Response::new(charge))
    }

    async fn list(&self, _: Request<()>) -> Result<Response<All>, Status> {
        let charges = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let charges = charges.clone();
        Ok(Response::new(All { charges }))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    idem::connect("memory://").await?.install()?;
    let listener = TcpListener::bind(("127.0.0.1", options.port)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let server = Server::builder().add_service(ChargesServer(Bank::default()));
    Ok(server
        .serve_with_incoming(TcpIncoming::from(listener))
        .await?)
}

#[derive(Clone)]
struct ChargesServer<S>(S);

impl<S> NamedService for ChargesServer<S> {
    const NAME: &'static str = "shop.Charges";
}

impl<S: Charges> Service<http::Request<tonic::body::Body>> for ChargesServer<S> {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move {
            Ok(match request.uri().path() {
                "/shop.Charges/Create" => {
                    let create = tower::service_fn(|request| service.create(request));
                    Grpc::new(ProstCodec::default())
                        .unary(create, request)
                        .await
                }
                "/shop.Charges/List" => {
                    let list = tower::service_fn(|request| service.list(request));
                    Grpc::new(ProstCodec::default()).unary(list, request).await
                }
                _ => Status::unimplemented("there is no such method").into_http(),
            })
        })
    }
}
