//! Servers in processes of their own, and clients that talk to them over loopback.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::ops::Range;
use std::process::{Child, Command, Stdio};

use axum::routing::{Router, get};
use axum::serve;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use crate::http::{KNOWN, Keys, Order};
use crate::process_cpu;

/// How many connections a round has.
pub const CONNECTIONS: u64 = 8;
const PER_CONNECTION: u64 = 200;
/// How many requests a round has.
pub const REQUESTS: u64 = CONNECTIONS * PER_CONNECTION;

/// What follows `--serve`, where this process is to be a server.
pub fn serving() -> Option<Vec<String>> {
    let mut arguments = std::env::args();
    arguments.find(|argument| argument == "--serve")?;
    Some(arguments.collect())
}

/// A runtime for the clients, and for nothing that is measured.
///
/// # Panics
/// When the system gives no runtime.
pub fn client_runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .expect("a runtime")
}

/// The server's process: prints its port, and answers until it is ended.
///
/// # Panics
/// When there is no port to listen on.
pub fn listen(runtime: &Runtime, app: Router) {
    let cpu = get(|| async { process_cpu().as_nanos().to_string() });
    let app = app.route("/cpu", cpu);
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        println!("{}", listener.local_addr().expect("an address"));
        serve(listener, app).await.expect("the server runs");
    });
}

/// This program, as a server in a process of its own.
pub struct Server {
    process: Child,
    address: SocketAddr,
}

impl Server {
    /// Starts this program with `--serve` and what is to be served, and makes it known all
    /// known keys: one after the other, so that none is asked for while it is in flight.
    ///
    /// # Panics
    /// When it does not print its address, or an answer is no success.
    pub fn start(runtime: &Runtime, serve: &[&str]) -> Self {
        let this = std::env::current_exe().expect("this program's path");
        let mut process = Command::new(this)
            .arg("--serve")
            .args(serve)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let output = process.stdout.take().expect("its output is piped");
        let mut address = String::new();
        BufReader::new(output)
            .read_line(&mut address)
            .expect("its address");
        let address = address.trim().parse().expect("an address");
        runtime.block_on(requests(address, Keys::Known, 0..KNOWN));
        Self { process, address }
    }

    /// The nanoseconds of server CPU of one request.
    ///
    /// # Panics
    /// When an answer is no success.
    #[allow(clippy::cast_precision_loss)]
    pub fn round(&self, runtime: &Runtime, keys: Keys) -> f64 {
        let address = self.address;
        let indices = |client| client * PER_CONNECTION..(client + 1) * PER_CONNECTION;
        runtime.block_on(async move {
            let before = cpu(address).await;
            let clients: Vec<_> = (0..CONNECTIONS)
                .map(|client| tokio::spawn(requests(address, keys, indices(client))))
                .collect();
            for client in clients {
                client.await.expect("the client ends");
            }
            (cpu(address).await - before) as f64 / REQUESTS as f64
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

async fn cpu(address: SocketAddr) -> u64 {
    let mut connection = TcpStream::connect(address).await.expect("a connection");
    let request = b"GET /cpu HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut buffer = Vec::new();
    let body = exchange(&mut connection, request, &mut buffer).await;
    let text = std::str::from_utf8(body).expect("a text");
    text.parse().expect("a number")
}

async fn requests(address: SocketAddr, keys: Keys, indices: Range<u64>) {
    let order = serde_json::to_string(&Order::sample()).expect("an order is JSON");
    let mut connection = TcpStream::connect(address).await.expect("a connection");
    connection.set_nodelay(true).expect("an option");
    let mut buffer = Vec::new();
    for index in indices {
        let request = format!(
            "POST /charges HTTP/1.1\r\nhost: localhost\r\naccept: application/json\r\n\
             user-agent: bench/1.0\r\ncontent-type: application/json\r\n\
             content-length: {}\r\nidempotency-key: {}\r\n\r\n{order}",
            order.len(),
            keys.key(index),
        );
        exchange(&mut connection, request.as_bytes(), &mut buffer).await;
    }
}

/// Sends a request and reads its answer's body; the answer names its length and is a success.
async fn exchange<'a>(
    connection: &mut TcpStream,
    request: &[u8],
    buffer: &'a mut Vec<u8>,
) -> &'a [u8] {
    connection.write_all(request).await.expect("sent");
    buffer.clear();
    loop {
        let read = connection.read_buf(buffer).await.expect("received");
        assert!(read > 0, "the server hung up");
        if let Some(body) = whole_body(buffer) {
            assert!(buffer.starts_with(b"HTTP/1.1 200"));
            return &buffer[body..];
        }
    }
}

/// Where the body begins, once it is there to its end.
fn whole_body(answer: &[u8]) -> Option<usize> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&answer[..end]).expect("a head is a text");
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let named = name.eq_ignore_ascii_case("content-length");
        named.then(|| value.trim().parse::<usize>().ok())?
    })?;
    (answer.len() >= end + length).then_some(end)
}
