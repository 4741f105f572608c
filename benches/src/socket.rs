//! Servers in processes of their own, and clients that talk to them over loopback.

use std::io::{BufRead, BufReader, Write as _};
use std::net::SocketAddr;
use std::ops::Range;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

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

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets so many connections send so many requests each, one after the other, and returns how long
    /// each of them took: from the first byte that is sent until the last that is received. The
    /// connections are there before.
    ///
    /// # Panics
    /// When an answer is no success.
    pub fn latencies(
        &self,
        runtime: &Runtime,
        keys: Keys,
        connections: u64,
        per_connection: u64,
    ) -> Vec<Duration> {
        let address = self.address;
        runtime.block_on(async move {
            let mut opened = Vec::new();
            for _ in 0..connections {
                opened.push(Connection::open(address).await);
            }
            let clients = opened.into_iter().zip(0..).map(|(mut connection, client)| {
                tokio::spawn(async move {
                    let mut latencies = Vec::new();
                    for index in client * per_connection..(client + 1) * per_connection {
                        connection.prepare(&keys.key(index));
                        let sent = Instant::now();
                        assert_eq!(connection.exchange().await, 200);
                        latencies.push(sent.elapsed());
                    }
                    latencies
                })
            });
            let mut all = Vec::new();
            for client in clients.collect::<Vec<_>>() {
                all.append(&mut client.await.expect("the client ends"));
            }
            all
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
    number(address, "/cpu").await
}

/// What is answered there.
///
/// # Panics
/// When it is no number.
pub async fn number(address: SocketAddr, path: &str) -> u64 {
    let mut connection = Connection::open(address).await;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    connection.request = request.into_bytes();
    assert_eq!(connection.exchange().await, 200);
    let text = std::str::from_utf8(connection.body()).expect("a text");
    text.parse().expect("a number")
}

async fn requests(address: SocketAddr, keys: Keys, indices: Range<u64>) {
    let mut connection = Connection::open(address).await;
    for index in indices {
        connection.prepare(&keys.key(index));
        assert_eq!(connection.exchange().await, 200);
    }
}

/// One request after the other.
pub struct Connection {
    stream: TcpStream,
    order: Arc<str>,
    request: Vec<u8>,
    answer: Vec<u8>,
    /// Where the answer's body begins.
    body: usize,
}

impl Connection {
    /// # Panics
    /// When nobody listens.
    pub async fn open(address: SocketAddr) -> Self {
        static ORDER: LazyLock<Arc<str>> = LazyLock::new(|| {
            let order = serde_json::to_string(&Order::sample());
            order.expect("an order is JSON").into()
        });
        let stream = TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("an option");
        Self {
            stream,
            order: Arc::clone(&ORDER),
            request: Vec::new(),
            answer: Vec::new(),
            body: 0,
        }
    }

    /// Makes the request that is sent next.
    pub fn prepare(&mut self, key: &str) {
        let order = &*self.order;
        // Ten keys a session, of which one peer makes use.
        let session = &key[14..35];
        self.request.clear();
        let written = write!(
            self.request,
            "POST /charges HTTP/1.1\r\nhost: localhost\r\naccept: application/json\r\n\
             user-agent: bench/1.0\r\ncontent-type: application/json\r\n\
             content-length: {}\r\ncookie: session={session}A\r\nidempotency-key: {key}\r\n\r\n{order}",
            order.len(),
        );
        written.expect("memory takes everything");
    }

    /// Sends the request and reads its answer, which names its length, to its end. Returns the status.
    ///
    /// # Panics
    /// When the server hangs up.
    pub async fn exchange(&mut self) -> u16 {
        self.stream.write_all(&self.request).await.expect("sent");
        self.answer.clear();
        loop {
            let read = self.stream.read_buf(&mut self.answer).await;
            assert!(read.expect("received") > 0, "the server hung up");
            if let Some(body) = whole_body(&self.answer) {
                self.body = body;
                let status = self.answer.get(9..12).unwrap_or_default();
                let status = std::str::from_utf8(status).expect("digits");
                return status.parse().expect("a status");
            }
        }
    }

    fn body(&self) -> &[u8] {
        &self.answer[self.body..]
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
