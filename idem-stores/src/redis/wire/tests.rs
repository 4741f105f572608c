use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio::time::{Duration, advance};

use super::*;
use crate::redis::command::Word;

const LONG: Duration = Duration::from_secs(60);

/// A wire, and the server's end.
fn wire() -> (Wire, DuplexStream) {
    let (ours, server) = duplex(64 * 1024);
    (Wire::over(ours), server)
}

fn send<'w>(wire: &'w Wire, word: &str, after: Duration) -> Call<'w> {
    let words: [Word<'_>; 1] = [word.into()];
    wire.send(&words[..], Instant::now() + after)
}

fn written(word: &str) -> Vec<u8> {
    format!("*1\r\n${}\r\n{word}\r\n", word.len()).into_bytes()
}

/// Takes this command at the server's end.
async fn takes(server: &mut DuplexStream, word: &str) {
    let expected = written(word);
    let mut read = vec![0; expected.len()];
    server.read_exact(&mut read).await.unwrap();
    assert_eq!(read, expected);
}

fn bulk(bytes: &[u8]) -> Value {
    Value::BulkString(bytes.to_vec())
}

/// Lets everything that is ready go as far as it can.
async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn replies_are_given_out_in_order() {
    let (wire, mut server) = wire();
    let calls = ["a", "b", "c"].map(|word| send(&wire, word, LONG));
    for word in ["a", "b", "c"] {
        takes(&mut server, word).await;
    }
    server
        .write_all(b"$1\r\nA\r\n-ERR no\r\n:3\r\n")
        .await
        .unwrap();
    let [a, b, c] = <[_; 3]>::try_from(join_all(calls).await).unwrap();
    assert_eq!(a.unwrap(), bulk(b"A"));
    assert!(matches!(b.unwrap(), Value::ServerError(_)));
    assert_eq!(c.unwrap(), Value::Int(3));
}

/// Counts writes.
struct Counted(DuplexStream, Arc<AtomicUsize>);

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.1.fetch_add(1, Ordering::SeqCst);
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn commands_of_tasks_that_are_ready_together_leave_in_one_write() {
    let (ours, mut server) = duplex(64 * 1024);
    let writes = Arc::new(AtomicUsize::new(0));
    let wire = Arc::new(Wire::over(Counted(ours, Arc::clone(&writes))));
    settle().await;
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let wire = Arc::clone(&wire);
            tokio::spawn(async move { send(&wire, "GET", LONG).await.unwrap() })
        })
        .collect();
    for _ in 0..64 {
        takes(&mut server, "GET").await;
    }
    assert_eq!(writes.load(Ordering::SeqCst), 1);
    server.write_all(&b"+OK\r\n".repeat(64)).await.unwrap();
    for answer in join_all(tasks).await {
        assert_eq!(answer.unwrap(), Value::Okay);
    }
}

#[tokio::test]
async fn a_call_that_is_dropped_before_it_was_sent_is_not_sent() {
    let (wire, mut server) = wire();
    // One thread: nothing is sent before this task waits.
    let dropped = send(&wire, "dropped", LONG);
    let kept = send(&wire, "kept", LONG);
    drop(dropped);
    takes(&mut server, "kept").await;
    server.write_all(b":1\r\n").await.unwrap();
    assert_eq!(kept.await.unwrap(), Value::Int(1));
}

#[tokio::test]
async fn where_every_call_is_dropped_unsent_the_connection_goes_on() {
    let (wire, mut server) = wire();
    for _ in 0..3 {
        drop(send(&wire, "dropped", LONG));
        settle().await;
    }
    let kept = send(&wire, "kept", LONG);
    takes(&mut server, "kept").await;
    server.write_all(b":1\r\n").await.unwrap();
    assert_eq!(kept.await.unwrap(), Value::Int(1));
}

#[tokio::test]
async fn many_that_are_dropped_unsent_hold_no_memory() {
    let (ours, mut server) = duplex(16);
    let wire = Wire::over(ours);
    let long = "x".repeat(1000);
    let _stuck = send(&wire, &long, LONG);
    settle().await;
    let kept: Vec<_> = (0..10).map(|_| send(&wire, "kept", LONG)).collect();
    for _ in 0..10_000 {
        drop(send(&wire, &long, LONG));
    }
    let (unsent, slots) = {
        let calls = lock(&wire.calls);
        (calls.unsent.len(), calls.slots.len())
    };
    assert!(unsent < 4 * KEPT_BUFFER, "{unsent}");
    assert!(slots < 500, "{slots}");
    takes(&mut server, &long).await;
    for _ in 0..10 {
        takes(&mut server, "kept").await;
    }
    drop(kept);
}

#[tokio::test]
async fn the_reply_to_a_call_that_was_dropped_is_nobodys() {
    let (wire, mut server) = wire();
    let mut dropped = send(&wire, "dropped", LONG);
    assert!((&mut dropped).now_or_never().is_none());
    takes(&mut server, "dropped").await;
    drop(dropped);
    let kept = send(&wire, "kept", LONG);
    takes(&mut server, "kept").await;
    server.write_all(b":1\r\n:2\r\n").await.unwrap();
    assert_eq!(kept.await.unwrap(), Value::Int(2));
    assert_eq!(lock(&wire.calls).free.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_call_ends_at_its_deadline_and_its_late_reply_is_nobodys() {
    let (wire, mut server) = wire();
    let started = Instant::now();
    let (long, short) = (
        send(&wire, "long", LONG),
        send(&wire, "short", Duration::from_secs(1)),
    );
    for word in ["long", "short"] {
        takes(&mut server, word).await;
    }
    let error = short.await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert_eq!(started.elapsed().as_secs(), 1);
    let next = send(&wire, "next", LONG);
    takes(&mut server, "next").await;
    server.write_all(b":1\r\n:2\r\n:3\r\n").await.unwrap();
    assert_eq!(long.await.unwrap(), Value::Int(1));
    assert_eq!(next.await.unwrap(), Value::Int(3));
}

#[tokio::test(start_paused = true)]
async fn deadlines_need_no_task_while_there_are_no_calls() {
    let (wire, mut server) = wire();
    for _ in 0..3 {
        let call = send(&wire, "call", LONG);
        takes(&mut server, "call").await;
        assert_eq!(lock(&wire.calls).watches.len(), 1);
        server.write_all(b":1\r\n").await.unwrap();
        call.await.unwrap();
        advance(LONG).await;
        settle().await;
        advance(LONG + LONG).await;
        settle().await;
        assert!(lock(&wire.calls).watches.is_empty());
    }
}

#[test]
fn a_call_within_a_runtime_that_ends_does_not_hang() {
    let (own, other) = (
        tokio::runtime::Runtime::new(),
        tokio::runtime::Runtime::new(),
    );
    let (own, other) = (own.unwrap(), other.unwrap());
    let (wire, _server) = own.block_on(async { wire() });
    let ends = other.handle().clone();
    drop(other);
    // Nothing is spawned there any more.
    let _entered = ends.enter();
    drop(send(&wire, "call", LONG));
    assert!(lock(&wire.calls).watches.is_empty());
}

#[test]
fn a_call_of_one_runtime_ends_while_the_connections_own_is_blocked() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    };
    // It runs nothing unless it is told to.
    let blocked = runtime();
    let (wire, _server) = blocked.block_on(async { wire() });
    let error = runtime().block_on(send_at_once(&wire)).unwrap_err();
    assert!(error.is_timeout(), "{error}");
    // Its runtime has ended, and with it the watch; another one begins its own.
    let error = runtime().block_on(send_at_once(&wire)).unwrap_err();
    assert!(error.is_timeout(), "{error}");
    drop(blocked);
    let error = runtime().block_on(send_at_once(&wire)).unwrap_err();
    assert!(error.is_io_error() && !error.is_timeout(), "{error}");
}

async fn send_at_once(wire: &Wire) -> Result<Value, RedisError> {
    send(wire, "call", Duration::from_millis(20)).await
}

#[tokio::test]
async fn when_the_connection_ends_every_call_ends() {
    for says in [&b""[..], b"HTTP/1.1 400 Bad Request\r\n"] {
        let (wire, mut server) = wire();
        let calls = ["a", "b"].map(|word| send(&wire, word, LONG));
        takes(&mut server, "a").await;
        server.write_all(says).await.unwrap();
        drop(server);
        for answer in join_all(calls).await {
            let error = answer.unwrap_err();
            assert!(error.is_io_error() && !error.is_timeout(), "{error}");
        }
        let after = send(&wire, "after", LONG).now_or_never().unwrap();
        assert!(after.unwrap_err().is_io_error());
    }
}

#[tokio::test]
async fn the_connection_ends_with_the_wire() {
    let (wire, mut server) = wire();
    drop(wire);
    let mut rest = Vec::new();
    server.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
}

#[tokio::test]
async fn large_commands_and_replies_pass_through_small_pieces() {
    let (ours, server) = duplex(100);
    let wire = Wire::over(ours);
    let large: String = (0..300_000_u32)
        .map(|place| char::from(b'a' + (place % 23) as u8))
        .collect();
    let (mut from, mut to) = tokio::io::split(server);
    let reply = format!("${}\r\n{large}\r\n:7\r\n", large.len());
    let length = written(&large).len() + written("next").len();
    let server = async {
        let mut read = vec![0; length];
        // It answers while it still reads.
        let answers = to.write_all(reply.as_bytes());
        let (read_all, answered) = tokio::join!(from.read_exact(&mut read), answers);
        read_all.unwrap();
        answered.unwrap();
        assert_eq!(read, [written(&large), written("next")].concat());
    };
    let (one, next) = (send(&wire, &large, LONG), send(&wire, "next", LONG));
    let (one, next, ()) = tokio::join!(one, next, server);
    assert_eq!(one.unwrap(), bulk(large.as_bytes()));
    assert_eq!(next.unwrap(), Value::Int(7));
    assert!(lock(&wire.calls).unsent.capacity() <= large.len() + 100);
}
