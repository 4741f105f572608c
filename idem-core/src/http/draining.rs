//! What a client still writes when its request is refused before its body was read.
//!
//! A server that answers and closes while the client writes resets the connection, and many clients
//! then report a broken connection in place of the answer. So the rest is read and dropped beside the
//! answer, within bounds, as proxies do when they close a connection that lingers.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::EXPECT;
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::timeout;

/// The most that is read of one request.
const MOST_BYTES: u64 = 64 * 1024 * 1024;

/// How long one request is read.
const LONGEST: Duration = Duration::from_secs(10);

/// Reads what is left of a refused request's body on a task of its own, and drops it: up to 64 MiB, for
/// up to 10 seconds. The answer does not wait for that.
///
/// One that announces more is left alone, and so is one whose client waits to be told to send it
/// (`Expect: 100-continue`).
pub fn drain<B>(body: B, headers: &HeaderMap)
where
    B: Body<Data = Bytes> + Send + 'static,
{
    let is_awaited = headers
        .get_all(EXPECT)
        .iter()
        .any(|expected| expected.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if is_awaited || body.is_end_stream() || body.size_hint().lower() > MOST_BYTES {
        return;
    }
    // Without a runtime there is no server either.
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(async move {
            // It was refused whatever it ends with.
            let _ = timeout(LONGEST, read_out(body)).await;
        });
    }
}

async fn read_out<B: Body<Data = Bytes>>(body: B) {
    let mut body = pin!(body);
    let mut left = MOST_BYTES;
    while let Some(Ok(frame)) = body.frame().await {
        let read = frame.data_ref().map_or(0, |data| data.len() as u64);
        match left.checked_sub(read) {
            Some(still) => left = still,
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{StreamExt, stream};
    use http::HeaderValue;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;

    /// A body without an end, and what is told of each MiB that is read of it.
    fn endless() -> (impl Body<Data = Bytes> + Send, UnboundedReceiver<()>) {
        let (told, reads) = unbounded_channel();
        let mib = Bytes::from(vec![0; 1024 * 1024]);
        let frames = stream::repeat(mib).map(move |mib| {
            let _ = told.send(());
            Ok::<_, Infallible>(Frame::data(mib))
        });
        (StreamBody::new(frames), reads)
    }

    async fn count(mut reads: UnboundedReceiver<()>) -> usize {
        let mut count = 0;
        while reads.recv().await.is_some() {
            count += 1;
        }
        count
    }

    #[tokio::test]
    async fn an_endless_body_is_read_up_to_the_bound() {
        let (body, reads) = endless();
        drain(body, &HeaderMap::new());
        assert_eq!(count(reads).await, 65);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_is_left_in_time() {
        let begun = tokio::time::Instant::now();
        let (told, reads) = unbounded_channel::<()>();
        let never = stream::once(async move {
            let () = std::future::pending().await;
            drop(told);
            Ok::<_, Infallible>(Frame::data(Bytes::new()))
        });
        drain(StreamBody::new(never), &HeaderMap::new());
        assert_eq!(count(reads).await, 0);
        assert_eq!(begun.elapsed().as_secs(), LONGEST.as_secs());
    }

    #[tokio::test]
    async fn a_body_that_its_client_holds_back_is_not_asked_for() {
        let (body, reads) = endless();
        let mut headers = HeaderMap::new();
        headers.insert(EXPECT, HeaderValue::from_static("100-Continue"));
        drain(body, &headers);
        assert_eq!(count(reads).await, 0);
    }
}
