//! The HTTP contract, case by case, in every framework, over real sockets.
//!
//! The list of cases exists once, in [`cases`]; each framework brings a small server with the same
//! routes, in [`servers`]. The README's table is made of both.

#[path = "../support/mod.rs"]
mod support;

mod app;
mod cases;
mod servers;
mod table;

use std::net::SocketAddr;

use app::{App, Configure};
use idem::conformance::faults::FaultyStore;
use support::{Server, Works};

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
    async fn start(app: App) -> SocketAddr;
}

/// A server under test.
pub(crate) struct Setup {
    pub(crate) server: Server,
    pub(crate) works: Works,
    pub(crate) store: FaultyStore,
    pub(crate) engine: idem::Engine,
}

pub(crate) async fn serve<F: Framework>(configure: Configure) -> Setup {
    let (app, store) = App::new(configure);
    let (works, engine) = (app.works.clone(), app.engine.clone());
    Setup {
        server: Server(F::start(app).await),
        works,
        store,
        engine,
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
fn the_readme_has_the_table() {
    table::check(&columns());
}
