//! Opens the TCP connection of a [`Wire`]. The driver logs in over it, and gives it back.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
#[cfg(target_os = "linux")]
use std::time::Duration;

use futures_util::future::select_ok;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisConnectionInfo, RedisError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, lookup_host};

use super::wire::Wire;

/// How long sent bytes may stay unacknowledged. Then the kernel gives the connection up, and nothing
/// of it arrives any more.
#[cfg(target_os = "linux")]
pub(super) const TCP_USER_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects and logs in.
///
/// # Errors
/// When no address of the host answers, or the server refuses the login.
pub(super) async fn open(
    address: (&str, u16),
    login: &RedisConnectionInfo,
) -> Result<Wire, RedisError> {
    let addresses = lookup_host(address).await?;
    // A name may have an address that leads nowhere.
    let connecting = addresses.map(|address| Box::pin(TcpStream::connect(address)));
    let connecting: Vec<_> = connecting.collect();
    if connecting.is_empty() {
        return Err(io::Error::from(io::ErrorKind::NotFound).into());
    }
    let (stream, _) = select_ok(connecting).await?;
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(TCP_USER_TIMEOUT))?;
    logged_in(stream, login).await.map(Wire::over)
}

async fn logged_in(
    stream: TcpStream,
    login: &RedisConnectionInfo,
) -> Result<TcpStream, RedisError> {
    let returned = Arc::new(Mutex::new(None));
    let lent = Lent {
        stream: Some(stream),
        returned: Arc::clone(&returned),
    };
    let config = AsyncConnectionConfig::new();
    let opened = MultiplexedConnection::new_with_config(login, lent, config).await?;
    // It has nothing under way.
    drop(opened);
    let stream = returned
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected).into())
}

/// A connection that comes back when it is dropped.
struct Lent {
    stream: Option<TcpStream>,
    returned: Arc<Mutex<Option<TcpStream>>>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut returned = self.returned.lock().unwrap_or_else(PoisonError::into_inner);
        *returned = self.stream.take();
    }
}

impl Lent {
    fn stream(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        let stream = self.stream.as_mut().map(Pin::new);
        stream.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl AsyncRead for Lent {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream()?.poll_read(cx, buffer)
    }
}

impl AsyncWrite for Lent {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }
}
