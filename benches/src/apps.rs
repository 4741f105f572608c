//! The applications that the benchmarks over a socket compare, by name.

use axum::Router;
use idem::EngineBuilder;
use tokio::runtime::Runtime;

use crate::by_hand::Sharded;
use crate::http::{by_hand_app, layered_app, plain_app, protected_app};

/// A memory store that is large enough for every run.
pub const MEMORY: &str = "memory://?max_bytes=8589934592";

/// The application that is named first, over the store whose URL follows, or in memory.
///
/// # Panics
/// When its store cannot be reached.
pub fn named(runtime: &Runtime, what: &[String]) -> Router {
    let (app, url) = match what {
        [app] => (app.as_str(), MEMORY),
        [app, url] => (app.as_str(), url.as_str()),
        _ => panic!("--serve APP [URL]"),
    };
    match app {
        "plain" => plain_app(),
        "by-hand" => by_hand_app(Sharded::<false>::default()),
        #[cfg(feature = "peers")]
        "idempotent" if url == MEMORY => crate::peers::idempotent_app(runtime),
        #[cfg(all(feature = "peers", feature = "servers"))]
        "idempotent" => crate::peers::idempotent_redis_app(runtime, url),
        #[cfg(feature = "peers")]
        "axum-idempotent" => crate::peers::axum_idempotent_app(),
        #[cfg(feature = "servers")]
        "cached" => {
            let cache = runtime.block_on(crate::redis::Cached::connect(url));
            crate::redis::cached_app(cache)
        }
        #[cfg(feature = "servers")]
        "local" => {
            install(engine(runtime, url).cache(64 << 20));
            protected_app()
        }
        "layer" => {
            install(engine(runtime, url));
            layered_app()
        }
        "idem" => {
            install(engine(runtime, url));
            protected_app()
        }
        other => panic!("no application {other}"),
    }
}

fn engine(runtime: &Runtime, url: &str) -> EngineBuilder {
    let connected = runtime.block_on(idem::connect(url));
    connected.expect("a store")
}

fn install(engine: EngineBuilder) {
    engine.install().expect("the first");
}
