//! A real server on a free loopback port, a plain HTTP/1.1 client for it, and a workshop whose
//! handlers stop where a test wants them to.

#![allow(missing_docs, reason = "for the tests here alone")]

#[path = "../../support/works.rs"]
mod works;

use std::io;
use std::net::SocketAddr;

use axum::Router;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

pub use works::{Leaving, Works};

/// The host that requests are sent to unless they name one.
pub const HOST: &str = "localhost";

/// A server that lives as long as the test's runtime.
#[derive(Clone, Copy, Debug)]
pub struct Server(pub SocketAddr);

impl Server {
    pub async fn start(router: Router) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self(address)
    }

    /// Sends one request on a connection of its own, and reads the whole answer.
    pub async fn send(self, request: Request<impl Into<Bytes>>) -> Response<Bytes> {
        let (head, body) = self.exchange(request).await.into_parts();
        Response::from_parts(head, body.collect().await.unwrap().to_bytes())
    }

    /// Announces a body of so many bytes and sends none of it. The answer's status.
    pub async fn announce(self, path: &str, key: &str, length: &str) -> u16 {
        let mut stream = TcpStream::connect(self.0).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {HOST}\r\nidempotency-key: {key}\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut line = String::new();
        let mut answer = BufReader::new(stream);
        answer.read_line(&mut line).await.unwrap();
        line.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// Writes a whole request before it reads a byte, as many clients do. The answer's status, if all
    /// was taken and it has come.
    pub async fn write_all_then_read(self, head: &str, body: &[u8]) -> io::Result<u16> {
        let mut stream = TcpStream::connect(self.0).await?;
        stream.write_all(head.as_bytes()).await?;
        for part in body.chunks(64 * 1024) {
            stream.write_all(part).await?;
        }
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).await?;
        let status = line
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        status.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Sends one request, and reads the answer's head only.
    pub async fn exchange(
        self,
        request: Request<impl Into<Bytes>>,
    ) -> Response<hyper::body::Incoming> {
        let stream = TcpStream::connect(self.0).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = request.map(|body| Full::new(body.into()));
        let host = request.headers_mut().entry(http::header::HOST);
        // Whichever port a server got: the servers of one test are one host.
        host.or_insert(http::HeaderValue::from_static(HOST));
        sender.send_request(request).await.unwrap()
    }
}

/// A POST with a key.
pub fn post(path: &str, key: &str, body: impl Into<Bytes>) -> Request<Bytes> {
    Request::post(path)
        .header("idempotency-key", key)
        .header("content-type", "application/json")
        .body(body.into())
        .unwrap()
}

/// The last part of a problem's type.
pub fn problem(response: &Response<Bytes>) -> String {
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
    let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
    assert_eq!(body["status"], response.status().as_u16());
    assert!(body["title"].is_string() && body["detail"].is_string());
    let kind = body["type"].as_str().unwrap();
    kind.rsplit(':').next().unwrap().to_owned()
}

pub fn is_replay(response: &Response<Bytes>) -> bool {
    response
        .headers()
        .get("idempotent-replayed")
        .is_some_and(|value| value == "true")
}
