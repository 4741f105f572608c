//! A proxy that knows where an HTTP/1.1 message ends, and lets each exchange suffer what a test has
//! decided. One exchange for each connection.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// What befalls one exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// The request is read, and never passed on; the connection ends.
    DropRequest,
    /// The server gets half of the request's body, then the connection ends on both sides.
    CutRequest,
    /// The request is passed on, and its answer is read and dropped; the connection ends.
    DropAnswer,
    /// As [`Fault::DropAnswer`], and the client's connection stays open, silent.
    HoldAnswer,
    /// The answer loses its last byte, and the connection ends.
    CutAnswer,
    /// The request reaches the server twice at once. The answer is that of the first.
    Duplicate,
    /// The answer comes so late.
    Delay(Duration),
}

/// A port that is taken, and on which nobody listens: who connects is refused.
pub struct Nobody {
    pub address: SocketAddr,
    _socket: TcpSocket,
}

impl Nobody {
    pub fn bind() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        Self {
            address: socket.local_addr().unwrap(),
            _socket: socket,
        }
    }
}

/// A way to a server.
pub struct Network {
    pub address: SocketAddr,
    state: Arc<State>,
}

struct State {
    /// Where the server listens now.
    server: Mutex<SocketAddr>,
    fates: Mutex<Box<dyn FnMut() -> Fault + Send>>,
    seen: Mutex<Vec<Vec<u8>>>,
}

impl Network {
    /// The exchanges suffer these, in the order in which their connections are opened, then nothing.
    pub async fn with(server: SocketAddr, faults: impl IntoIterator<Item = Fault>) -> Self {
        let mut faults: VecDeque<_> = faults.into_iter().collect();
        Self::deciding(server, move || faults.pop_front().unwrap_or(Fault::None)).await
    }

    /// Each exchange suffers what is decided for it.
    pub async fn deciding(
        server: SocketAddr,
        decide: impl FnMut() -> Fault + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            server: Mutex::new(server),
            fates: Mutex::new(Box::new(decide)),
            seen: Mutex::default(),
        });
        let carrying = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let state = Arc::clone(&carrying);
                tokio::spawn(async move { state.carry(client).await });
            }
        });
        Self { address, state }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The server was started again, elsewhere.
    pub fn lead_to(&self, server: SocketAddr) {
        *self.state.server.lock().unwrap() = server;
    }

    /// The requests that arrived here, whole, in order.
    pub fn requests(&self) -> Vec<Vec<u8>> {
        self.state.seen.lock().unwrap().clone()
    }
}

impl State {
    async fn carry(&self, mut client: TcpStream) -> io::Result<()> {
        let request = message(&mut client).await?;
        // No connection is used again: each exchange has a fate of its own.
        let fault = {
            let mut decide = self.fates.lock().unwrap_or_else(PoisonError::into_inner);
            decide()
        };
        // Bounded: a test that sends more than this looks at none of it.
        {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.len() < 1024 {
                seen.push(request.clone());
            }
        }
        match fault {
            Fault::DropRequest => return Ok(()),
            Fault::CutRequest => {
                let mut server = self.server().await?;
                server.write_all(&request[..request.len() - 1]).await?;
                return Ok(());
            }
            _ => {}
        }
        let answer = match fault {
            Fault::Duplicate => {
                let (first, second) = tokio::join!(self.ask(&request), self.ask(&request));
                drop(second);
                first?
            }
            _ => self.ask(&request).await?,
        };
        match fault {
            Fault::DropAnswer => {}
            Fault::HoldAnswer => {
                // Until the client gives up.
                let _ = client.read(&mut [0; 16]).await;
            }
            Fault::CutAnswer => client.write_all(&answer[..answer.len() - 1]).await?,
            Fault::Delay(delay) => {
                tokio::time::sleep(delay).await;
                client.write_all(&answer).await?;
            }
            _ => client.write_all(&answer).await?,
        }
        client.shutdown().await
    }

    async fn server(&self) -> io::Result<TcpStream> {
        let server = *self.server.lock().unwrap_or_else(PoisonError::into_inner);
        TcpStream::connect(server).await
    }

    async fn ask(&self, request: &[u8]) -> io::Result<Vec<u8>> {
        let mut server = self.server().await?;
        server.write_all(request).await?;
        message(&mut server).await
    }
}

/// One message whose length is said, and which says that it is the connection's last.
async fn message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|it| it == b"\r\n\r\n") {
            break at + 4;
        }
        more(stream, &mut bytes).await?;
    };
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    let length = lines.find(|(name, _)| *name == "content-length");
    let length: usize = length.map_or(0, |(_, value)| value.trim().parse().unwrap());
    while bytes.len() < end + length {
        more(stream, &mut bytes).await?;
    }
    // Said to both sides, so that nobody keeps the connection.
    bytes.splice(end - 2..end - 2, *b"connection: close\r\n");
    Ok(bytes)
}

async fn more(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<()> {
    match stream.read_buf(bytes).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}
