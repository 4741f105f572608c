//! What every server of the suite does, whatever its framework: the engine, what bodies do, and
//! what they answer.

use std::pin::Pin;
use std::sync::Arc;
use std::{io, iter};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use idem::conformance::faults::FaultyStore;
use idem::stores::memory::MemoryStore;
use idem::{Engine, EngineBuilder};

use crate::works::Works;

pub(crate) type Configure = fn(EngineBuilder) -> EngineBuilder;

/// The state of a server.
#[derive(Clone, Debug)]
pub(crate) struct App {
    pub(crate) engine: Engine,
    pub(crate) works: Works,
}

impl App {
    pub(crate) fn new(configure: Configure) -> (Self, FaultyStore) {
        let store = FaultyStore::new(Arc::new(MemoryStore::new()));
        let engine = configure(Engine::builder(store.clone())).build();
        let works = Works::default();
        (Self { engine, works }, store)
    }
}

/// What `/charges` takes, as JSON.
#[derive(Clone, Copy, Debug, serde::Deserialize, serde::Serialize)]
pub(crate) struct Order {
    pub(crate) amount: u32,
}

/// A response without a framework.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, Vec<u8>)>,
    pub(crate) body: Content,
}

pub(crate) enum Content {
    Whole(Bytes),
    /// Of unknown length.
    Streamed(Chunks),
}

/// The chunks of a streamed response.
pub(crate) type Chunks = Pin<Box<dyn Stream<Item = Result<Bytes, io::Error>> + Send + Sync>>;

impl Reply {
    pub(crate) fn text(status: u16, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Content::Whole(body.into()),
        }
    }

    fn streamed(
        chunks: impl Stream<Item = Result<Bytes, io::Error>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            body: Content::Streamed(Box::pin(chunks)),
            ..Self::text(200, Bytes::new())
        }
    }

    fn with(mut self, headers: &[(&'static str, &[u8])]) -> Self {
        let headers = headers.iter().map(|(name, value)| (*name, value.to_vec()));
        self.headers.extend(headers);
        self
    }
}

pub(crate) const MIB: usize = 1024 * 1024;

pub(crate) fn binary(length: usize) -> Bytes {
    (0..length).map(|at| (at % 251) as u8 ^ 0x80).collect()
}

impl Works {
    /// A layer's function: notes when the server lets go of a request, answered or not.
    pub(crate) async fn note_who_leaves(
        axum::extract::State(works): axum::extract::State<Self>,
        request: axum::extract::Request,
        next: axum::middleware::Next,
    ) -> axum::response::Response {
        let _leaving = works.leaving();
        next.run(request).await
    }

    /// `POST /charges`, which takes an [`Order`]. 201.
    pub(crate) fn charge(&self, order: Order) -> Reply {
        let number = self.execute();
        let location = format!("/charges/{number}");
        Reply::text(201, format!("{number}: {}", order.amount))
            .with(&[("location", location.as_bytes())])
    }

    /// `/echo`, `/echo/other`, `/refunds`, `/optional`, `/guarded`, `/v1/echo` and `/v2/echo`, which
    /// take text.
    pub(crate) fn echo(&self, body: &str) -> Reply {
        Reply::text(200, format!("{}: {body}", self.execute()))
    }

    /// `/slow` and `/slow/other` (`in_flight = "reject"`), `/waiting` (`"wait 5s"`). 201. The text
    /// "release" frees the key.
    pub(crate) async fn slow(&self, body: &str) -> Reply {
        self.stop_here().await;
        if body == "release" {
            idem::attempt().release();
        }
        Reply::text(201, format!("{}: {body}", self.execute()))
    }

    /// `/hanging`, `deadline = "100ms"`. It never ends the first time; "stream" begins an answer before,
    /// and "steps" finishes a step.
    pub(crate) async fn hang(&self, body: &str) -> Reply {
        if body == "steps" {
            return self.stop_between_steps().await;
        }
        let number = self.execute();
        if number > 1 {
            return Reply::text(200, format!("attempt {}", idem::attempt().number()));
        }
        match body {
            "stream" => Reply::streamed(chunks(["first "]).chain(stream::pending())),
            _ => std::future::pending().await,
        }
    }

    /// It never ends the first time, frees its key the second time, and comes to its end the third time.
    async fn stop_between_steps(&self) -> Reply {
        let step = |name| idem::step(name, async { Ok::<_, idem::Error>(self.execute()) });
        let held = step("hold").await.unwrap();
        let attempt = idem::attempt().number();
        if attempt == 1 {
            std::future::pending::<()>().await;
        }
        let charged = step("charge").await.unwrap();
        match attempt {
            2 => Reply::text(503, "not yet"),
            _ => Reply::text(201, format!("held {held}, charged {charged}")),
        }
    }

    /// `/panics-once`, `in_flight = "wait 5s"`.
    pub(crate) async fn panic_once(&self) -> Reply {
        self.stop_here().await;
        let number = self.execute();
        assert_ne!(number, 1, "the first attempt fails half-way");
        Reply::text(200, format!("attempt {}", idem::attempt().number()))
    }

    /// `/panics-and-refuses`, `name` [`crate::Framework::REFUSING`], `on_crash = "refuse"`.
    pub(crate) fn panic_always(&self) -> Reply {
        self.execute();
        panic!("half-way");
    }

    /// `/status`, and `/releases-500` with `release(500)`: answers the status that the text says.
    pub(crate) fn status(&self, status: &str) -> Reply {
        self.execute();
        Reply::text(status.parse().unwrap_or(404), Bytes::new())
    }

    /// `/nothing-happened`.
    pub(crate) fn release(&self) -> Reply {
        self.execute();
        idem::attempt().release();
        Reply::text(200, "nothing to do yet")
    }

    /// `/scoped`, with `scope` the header `x-tenant`.
    pub(crate) fn tenant(&self, tenant: &str, body: &str) -> Reply {
        Reply::text(200, format!("{}: {tenant} {body}", self.execute()))
    }

    /// `/respond`: a response of the kind that the text names.
    pub(crate) fn respond(&self, kind: &str) -> Reply {
        let number = self.execute();
        match kind {
            "created" => {
                let location = format!("/charges/{number}");
                Reply::text(201, "made").with(&[("location", location.as_bytes())])
            }
            "no-content" => Reply::text(204, Bytes::new()),
            "empty" => Reply::text(200, Bytes::new()),
            "binary" => Reply::text(200, binary(1000)),
            "mib" => Reply::text(200, binary(MIB)),
            "error" => Reply::text(500, "after the charge"),
            "headers" => Reply::text(200, "body").with(&[
                ("x-latin", b"caf\xe9 \xff\x80"),
                ("x-empty", b""),
                ("link", b"</a>; rel=\"a\""),
                ("x-between", b"1"),
                ("link", b"</b>; rel=\"b\""),
                ("link", b"</c>; rel=\"c\""),
            ]),
            "unkept" => Reply::text(200, "body").with(&[
                ("set-cookie", b"session=secret"),
                ("date", b"Thu, 01 Jan 1970 00:00:00 GMT"),
                ("x-hop", b"1"),
                ("keep-alive", b"timeout=5"),
                ("connection", b"x-hop"),
                ("idempotent-replayed", b"forged"),
                ("x-kept", b"1"),
            ]),
            "large" => Reply::text(200, binary(3 * MIB)),
            "streamed" => Reply::streamed(chunks(["one ", "two ", "three"])),
            "endless" => {
                let tick = Bytes::from("tick\n".repeat(100));
                Reply::streamed(stream::iter(iter::repeat(tick).map(Ok)))
            }
            "long stream" => {
                let parts = (0..48).map(|_| Ok(binary(MIB / 16)));
                Reply::streamed(stream::iter(parts))
            }
            // The second half of these waits to be let go.
            "slow stream" => {
                let works = self.clone();
                let second = async move {
                    works.stop_here().await;
                    let number = idem::attempt().number();
                    Ok(Bytes::from(format!("second of attempt {number}")))
                };
                Reply::streamed(chunks(["first "]).chain(stream::once(second)))
            }
            "broken stream" => {
                let works = self.clone();
                let second = async move {
                    works.stop_here().await;
                    Err(io::Error::other("the upstream has gone"))
                };
                Reply::streamed(chunks(["first "]).chain(stream::once(second)))
            }
            "slow long stream" => {
                let works = self.clone();
                let second = async move {
                    works.stop_here().await;
                    Ok(binary(MIB / 16))
                };
                let parts = (1..48).map(|_| Ok(binary(MIB / 16)));
                let rest = stream::once(second).chain(stream::iter(parts));
                Reply::streamed(chunks(["first "]).chain(rest))
            }
            _ => Reply::text(404, Bytes::new()),
        }
    }
}

fn chunks<const N: usize>(
    chunks: [&'static str; N],
) -> impl Stream<Item = Result<Bytes, io::Error>> + Send + Sync {
    stream::iter(chunks.map(|chunk| Ok(Bytes::from_static(chunk.as_bytes()))))
}
