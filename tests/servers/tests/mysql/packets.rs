//! Between a store and its server: counts the commands that clients send, each of which is a round trip.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

const LIMIT: Duration = Duration::from_secs(20);

pub(crate) struct Packets {
    port: u16,
    commands: Arc<AtomicU64>,
}

impl Packets {
    pub(crate) async fn to(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let commands = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&commands);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                tokio::spawn(pass(client, server, Arc::clone(&counted)));
            }
        });
        Self { port, commands }
    }

    pub(crate) fn url(&self) -> String {
        format!("mysql://root@127.0.0.1:{}/shop", self.port)
    }

    /// How many commands came since the last look.
    pub(crate) fn count(&self) -> u64 {
        self.commands.swap(0, Ordering::SeqCst)
    }

    /// Returns when nothing has come for a while.
    pub(crate) async fn quiet(&self) {
        let began = Instant::now();
        loop {
            sleep(Duration::from_millis(500)).await;
            if self.count() == 0 {
                return;
            }
            assert!(began.elapsed() < LIMIT);
        }
    }

    /// The same as [`count`](Self::count), of so many or more, which may still be on their way. One too many is seen at the latest
    /// by the next look.
    pub(crate) async fn count_to(&self, expected: u64) -> u64 {
        let began = Instant::now();
        while self.commands.load(Ordering::SeqCst) < expected && began.elapsed() < LIMIT {
            sleep(Duration::from_millis(5)).await;
        }
        self.count()
    }
}

async fn pass(client: TcpStream, server: TcpStream, commands: Arc<AtomicU64>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::spawn(async move {
        let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
    });
    // Three bytes of length, and a number, with which each command begins anew.
    let mut head = [0; 4];
    while from_client.read_exact(&mut head).await.is_ok() {
        let length = u32::from_le_bytes([head[0], head[1], head[2], 0]);
        let mut body = vec![0; usize::try_from(length).unwrap()];
        if from_client.read_exact(&mut body).await.is_err() {
            return;
        }
        if head[3] == 0 {
            commands.fetch_add(1, Ordering::SeqCst);
        }
        if to_server.write_all(&head).await.is_err() || to_server.write_all(&body).await.is_err() {
            return;
        }
    }
}
