//! The HTTP contract, case by case, in every framework, over real sockets.
//!
//! The list of cases exists once, in [`cases`]; each framework brings a small server with the same
//! routes, in [`servers`]. The table in `docs/frameworks.md` is made of both.

#[path = "../../../support/works.rs"]
mod works;

mod app;
mod cases;
mod servers;
mod table;

use std::net::SocketAddr;
use std::sync::Arc;

use app::{App, Configure};
use futures_util::future::BoxFuture;
use idem::Engine;
use idem::conformance::faults::FaultyStore;
use idem_frameworks::Server;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use works::Works;

/// A framework's server with the suite's routes, and what cannot hold there.
pub(crate) trait Framework {
    /// Its name and version.
    const NAME: &'static str;

    /// The operation name of `/panics-and-refuses`: names are unique in a process.
    const REFUSING: &'static str;

    /// Cases that cannot hold, each with the reason.
    const LACKS: &'static [(&'static str, &'static str)] = &[];

    /// Whether a request whose client has gone away is dropped, and [`Works::left`] hears of it.
    const DROPS_REQUESTS: bool = true;

    /// Starts it on a free port of the loopback interface, for as long as the test lives.
    async fn start(app: App) -> Running;
}

/// A server that runs.
pub(crate) struct Running {
    address: SocketAddr,
    /// What a program does that ends: the server takes no more requests, and nothing is cut off.
    stop: BoxFuture<'static, ()>,
}

impl Running {
    /// One that takes no more requests once `told`, and then `ended`.
    fn until(
        told: Arc<Notify>,
        address: SocketAddr,
        ended: JoinHandle<()>,
        engine: Engine,
    ) -> Self {
        let stop = async move {
            told.notify_one();
            ended.await.unwrap();
            engine.idle().await;
        };
        Self {
            address,
            stop: Box::pin(stop),
        }
    }
}

/// A server under test.
pub(crate) struct Setup {
    pub(crate) server: Server,
    pub(crate) works: Works,
    pub(crate) store: FaultyStore,
    pub(crate) engine: Engine,
    pub(crate) stop: BoxFuture<'static, ()>,
    pub(crate) app: App,
}

pub(crate) async fn serve<F: Framework>(configure: Configure) -> Setup {
    let (app, store) = App::new(configure);
    let Running { address, stop } = F::start(app.clone()).await;
    Setup {
        server: Server(address),
        works: app.works.clone(),
        store,
        engine: app.engine.clone(),
        stop,
        app,
    }
}

/// One test for each case, of one framework.
macro_rules! tests {
    ($framework:ty; $($group:ident { $($case:ident: $title:literal,)* })*) => {
        $($(
            #[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                if crate::table::holds::<$framework>(stringify!($case)) {
                    crate::cases::$group::$case::<$framework>().await;
                }
            }
        )*)*
    };
}

/// One module of tests for each framework.
macro_rules! suite {
    ($($name:ident: $framework:ty),* $(,)?) => {
        $(mod $name { crate::cases::all_cases!(tests, $framework); })*

        /// The table's columns.
        fn columns() -> Vec<table::Column> {
            vec![$(table::Column::of::<$framework>()),*]
        }
    };
}

suite! {
    axum: crate::servers::axum::Axum,
    actix: crate::servers::actix::Actix,
    poem: crate::servers::poem::Poem,
    salvo: crate::servers::salvo::Salvo,
    hyper: crate::servers::hyper::Hyper,
    tower: crate::servers::tower::Tower,
    rocket: crate::servers::rocket::Rocket,
    warp: crate::servers::warp::Warp,
}

#[test]
fn the_frameworks_table_is_up_to_date() {
    table::check(&columns());
}
