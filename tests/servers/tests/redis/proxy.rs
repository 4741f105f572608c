//! A way to a server that fails as networks do: without a word. Knows nothing of Redis.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use idem_tests::Redis;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::sleep;

/// A proxy on a port of 127.0.0.1. Lives as long as the test's runtime.
pub(crate) struct Proxy {
    port: u16,
    way: Arc<Way>,
}

struct Way {
    server: Mutex<SocketAddr>,
    next: Mutex<Option<SocketAddr>>,
    /// What befalls the connections that are opened next. One fate for all that are opened until
    /// it is decided.
    fate: Mutex<Arc<OnceLock<Fate>>>,
    decided: Notify,
    opening_delay: Mutex<Duration>,
    refuses: AtomicBool,
    accepted: AtomicUsize,
    refused: AtomicUsize,
}

fn address(server: &Redis) -> SocketAddr {
    ([127, 0, 0, 1], server.port()).into()
}

#[derive(Clone, Copy)]
enum Fate {
    /// Both sides are hung up on.
    Ended,
    /// Nothing gets through any more, and neither side learns of it.
    Lost,
    /// What is sent reaches the server so late, and answers never come back.
    Late(Duration),
}

impl Proxy {
    pub(crate) async fn to(server: &Redis) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let way = Arc::new(Way {
            server: Mutex::new(address(server)),
            next: Mutex::default(),
            fate: Mutex::default(),
            decided: Notify::new(),
            opening_delay: Mutex::default(),
            refuses: AtomicBool::new(false),
            accepted: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
        });
        tokio::spawn({
            let way = Arc::clone(&way);
            async move {
                loop {
                    let (client, _) = listener.accept().await.unwrap();
                    way.accepted.fetch_add(1, Ordering::SeqCst);
                    tokio::spawn(Arc::clone(&way).carry(client));
                }
            }
        });
        Self { port, way }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The connections opened so far carry nothing any more; new ones do.
    pub(crate) fn lose(&self) {
        self.decide(Fate::Lost);
    }

    /// What is sent from now on over the connections opened so far reaches the server so late, even
    /// if the client closes them. Their answers are lost.
    pub(crate) fn hold_up(&self, delay: Duration) {
        self.decide(Fate::Late(delay));
    }

    /// The connections opened so far end, and new ones lead to this server: what a client sees of
    /// a name that was given to another server, or of a server that was restarted as another.
    pub(crate) fn lead_to(&self, server: &Redis) {
        *self.way.server.lock().unwrap() = address(server);
        self.decide(Fate::Ended);
    }

    /// The next connection that is opened leads to this server, and those after it where they did.
    pub(crate) fn lead_next_to(&self, server: &Redis) {
        *self.way.next.lock().unwrap() = Some(address(server));
    }

    /// From now on a connection carries its first bytes so long after it was opened.
    pub(crate) fn delay_openings(&self, delay: Duration) {
        *self.way.opening_delay.lock().unwrap() = delay;
    }

    /// Hangs up on whoever connects, or no longer.
    pub(crate) fn refuse(&self, refuse: bool) {
        self.way.refuses.store(refuse, Ordering::SeqCst);
    }

    /// How many connections were opened, those it hung up on included.
    pub(crate) fn accepted(&self) -> usize {
        self.way.accepted.load(Ordering::SeqCst)
    }

    /// How many clients have noticed that it hung up on them.
    pub(crate) fn refused(&self) -> usize {
        self.way.refused.load(Ordering::SeqCst)
    }

    fn decide(&self, fate: Fate) {
        let mut next = self.way.fate.lock().unwrap();
        let _ = std::mem::take(&mut *next).set(fate);
        self.way.decided.notify_waiters();
    }
}

impl Way {
    async fn carry(self: Arc<Self>, mut client: TcpStream) {
        if self.refuses.load(Ordering::SeqCst) {
            let _ = client.shutdown().await;
            while !matches!(client.read(&mut [0; 1024]).await, Ok(0) | Err(_)) {}
            self.refused.fetch_add(1, Ordering::SeqCst);
            return;
        }
        let fate = Arc::clone(&self.fate.lock().unwrap());
        let opening_delay = *self.opening_delay.lock().unwrap();
        sleep(opening_delay).await;
        let next = self.next.lock().unwrap().take();
        let server = next.unwrap_or(*self.server.lock().unwrap());
        let Ok(server) = TcpStream::connect(server).await else {
            return;
        };
        for end in [&client, &server] {
            end.set_nodelay(true).unwrap();
        }
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::select! {
            _ = async {
                tokio::join!(
                    pass(from_client, to_server, &fate, Direction::ToServer),
                    pass(from_server, to_client, &fate, Direction::ToClient),
                )
            } => {}
            () = self.ended(&fate) => {}
        }
    }

    async fn ended(&self, fate: &OnceLock<Fate>) {
        loop {
            let decided = self.decided.notified();
            tokio::pin!(decided);
            // Registered before the look.
            decided.as_mut().enable();
            if let Some(Fate::Ended) = fate.get() {
                return;
            }
            decided.await;
        }
    }
}

#[derive(Clone, Copy)]
enum Direction {
    ToServer,
    ToClient,
}

/// Passes on what is read, its end included.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    fate: &OnceLock<Fate>,
    direction: Direction,
) {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut bytes).await.unwrap_or(0);
        match (fate.get(), direction) {
            (None, _) => {}
            (Some(Fate::Late(delay)), Direction::ToServer) => sleep(*delay).await,
            _ => pending().await,
        }
        if read == 0 || to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}
