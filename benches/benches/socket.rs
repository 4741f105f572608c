//! One HTTP request over a loopback connection: the CPU time of the whole server process.
//!
//! Every contender is a server in a process of its own, on as many threads as the machine has.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use axum::routing::get;
use axum::serve;
use idem_benches::Target::{AtMost, Baseline, None};
use idem_benches::by_hand::Sharded;
use idem_benches::http::Keys::{Fresh, Known};
use idem_benches::http::{Keys, Order, by_hand_app, install_engine, plain_app, protected_app};
use idem_benches::{Contender, interleave, print, process_cpu, scaled};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

const CONNECTIONS: u64 = 8;
const REQUESTS: u64 = 200;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(serving) = arguments.iter().position(|argument| argument == "--serve") {
        listen(arguments.get(serving + 1).map_or("plain", String::as_str));
    } else {
        compare();
    }
}

fn compare() {
    let runtime = &client_runtime();
    let rounds = scaled(41, 9);
    let contender = |name, target, app, keys| {
        let server = Server::start(app);
        Contender::new(name, target, move || [server.round(runtime, keys)])
    };
    let contenders = vec![
        contender("plain handler", Baseline, "plain", Fresh),
        contender("first, by hand, sharded map", None, "by-hand", Fresh),
        contender("**first, idem**", AtMost(1.3), "idem", Fresh),
        contender("replay, by hand, sharded map", None, "by-hand", Known),
        contender("**replay, idem**", AtMost(0.75), "idem", Known),
    ];
    let [figures] = interleave(rounds, contenders);
    let title = format!("One request over a socket, {CONNECTIONS} connections");
    print(&title, "µs of server CPU per request", 1000.0, &figures);
}

fn client_runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .expect("a runtime")
}

/// The server's process: prints its port, and answers until it is ended.
fn listen(app: &str) {
    install_engine();
    let app = match app {
        "plain" => plain_app(),
        "by-hand" => by_hand_app(Sharded::<false>::default()),
        _ => protected_app(),
    };
    let cpu = get(|| async { process_cpu().as_nanos().to_string() });
    let app = app.route("/cpu", cpu);
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        println!("{}", listener.local_addr().expect("an address"));
        serve(listener, app).await.expect("the server runs");
    });
}

struct Server {
    process: Child,
    address: SocketAddr,
}

impl Server {
    fn start(app: &str) -> Self {
        let this = std::env::current_exe().expect("this program's path");
        let mut process = Command::new(this)
            .args(["--serve", app])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let output = process.stdout.take().expect("its output is piped");
        let mut address = String::new();
        BufReader::new(output)
            .read_line(&mut address)
            .expect("its address");
        let address = address.trim().parse().expect("an address");
        Self { process, address }
    }

    /// The nanoseconds of server CPU of one request.
    #[allow(clippy::cast_precision_loss)]
    fn round(&self, runtime: &Runtime, keys: Keys) -> f64 {
        let address = self.address;
        runtime.block_on(async move {
            let before = cpu(address).await;
            let clients: Vec<_> = (0..CONNECTIONS)
                .map(|client| tokio::spawn(requests(address, keys, client * REQUESTS)))
                .collect();
            for client in clients {
                client.await.expect("the client ends");
            }
            (cpu(address).await - before) as f64 / (CONNECTIONS * REQUESTS) as f64
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

async fn requests(address: SocketAddr, keys: Keys, from: u64) {
    let order = serde_json::to_string(&Order::sample()).expect("an order is JSON");
    let mut connection = TcpStream::connect(address).await.expect("a connection");
    connection.set_nodelay(true).expect("an option");
    let mut buffer = Vec::new();
    for index in from..from + REQUESTS {
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
