//! A page for operators, as a router for axum: which records there are, what is stuck, one record's life
//! with its steps, and what a person can do about it.
//!
//! [`idem::axum::dashboard`](super::dashboard()) makes one. It is plain HTML, CSS and JavaScript out of the
//! program itself: nothing is loaded from anywhere else.
//!
//! **It has no login of its own.** Mount it behind your authentication, as a part of your
//! application that only operators reach:
//!
//! ```
//! use axum::Router;
//!
//! # fn example(engine: idem::Engine, only_operators: tower::layer::util::Identity) -> Router {
//! let dashboard = idem::axum::dashboard(engine)
//!     .host("admin.example.com")
//!     .allow_changes(true)
//!     .into_router();
//!
//! Router::new().nest("/admin/idem", dashboard.layer(only_operators))
//! # }
//! ```
//!
//! # What it protects from
//!
//! | from | by |
//! |---|---|
//! | a name that somebody else's DNS points at this server | the `Host` must be `localhost`, `127.0.0.1`, `[::1]`, or one that [`host`](Dashboard::host) names |
//! | another site's page in the operator's browser | `Origin` must be the `Host` where something is sent; `Sec-Fetch-Site`, where there is one, must say the same; nothing can be framed |
//! | a request that a page of another origin has guessed | a token, random in each process, in a header of its own |
//! | text in a record that would be run | a strict `Content-Security-Policy`; text is never made markup |
//! | an operator's mistake | it is read-only unless [`allow_changes`](Dashboard::allow_changes); each change names the attempt that the operator has seen, and is refused where there is a newer one; a lease that is alive is taken away only after a second confirmation, which names the attempt |
//! | somebody who sees the screen | bodies, header values and the values of steps are shown only when asked for, and only where [`show_bodies`](Dashboard::show_bodies) allows it |
//!
//! None of these keeps out who can send requests of their own.
//!
//! # What it costs
//!
//! A store is not counted for each look. While the page is open it is read on, at most each 10 seconds and at
//! most 20,000 records at a time. The page says where it has not come to the end.
//!
//! In several processes behind a balancer each has a token of its own; the page takes the new one and asks
//! again. Let one operator's requests go to one process where that is not enough.

mod answers;
mod audit;
mod changes;
mod counts;
mod guard;
mod overview;
mod page;
mod records;
mod state;
mod tally;

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::routing::{get, post};

pub use audit::{Action, Change, Stage};

use crate::Engine;
use state::State;

/// The most that is read of what an operator sends.
const MAX_SENT: usize = 4 * 1024 * 1024;

/// The settings of the page. See [the module](self).
#[must_use]
pub struct Dashboard {
    state: State,
}

impl Dashboard {
    pub(super) fn new(engine: Engine) -> Self {
        Self {
            state: State::new(engine),
        }
    }

    /// Whether operators may resolve records and forget them, and take the lease from an attempt that holds
    /// it; `false` unless given.
    pub const fn allow_changes(mut self, allow: bool) -> Self {
        self.state.allow_changes = allow;
        self
    }

    /// Whether bodies, header values and the values of steps may be looked at; `false` unless given.
    pub const fn show_bodies(mut self, show: bool) -> Self {
        self.state.show_bodies = show;
        self
    }

    /// Answers under this name too: the host alone, such as `admin.example.com`, without a port. It is
    /// what the request's `Host` says here, behind a proxy as the proxy passes it on.
    pub fn host(mut self, name: impl Into<String>) -> Self {
        self.state.hosts.push(name.into());
        self
    }

    /// Is told of every change before it is made, and of what became of it: an audit log. Where it
    /// fails before, nothing is changed.
    ///
    /// It has 10 seconds. The change goes on when the operator's connection is gone.
    ///
    /// ```
    /// use idem::axum::dashboard::{Change, Stage};
    ///
    /// #[derive(Clone)]
    /// struct Operator(String); // put there by the layer that authenticates
    ///
    /// # fn example(engine: idem::Engine) -> axum::Router {
    /// idem::axum::dashboard(engine)
    ///     .allow_changes(true)
    ///     .audit(async |change: Change| {
    ///         let Some(Operator(name)) = change.request.extensions.get() else {
    ///             return Err("nobody is logged in".into());
    ///         };
    ///         println!("{name}: {} {}: {:?}", change.action, change.record, change.stage);
    ///         Ok(())
    ///     })
    ///     .into_router()
    /// # }
    /// ```
    pub fn audit<F, Written>(mut self, write: F) -> Self
    where
        F: Fn(Change) -> Written + Send + Sync + 'static,
        Written: Future<Output = Result<(), Box<dyn Error + Send + Sync>>> + Send + 'static,
    {
        self.state.audit = audit::Audit::new(write);
        self
    }

    /// The router, to be nested where it belongs, outside of a layer that makes requests idempotent.
    pub fn into_router<S: Clone + Send + Sync + 'static>(self) -> Router<S> {
        let state = Arc::new(self.state);
        Router::new()
            .route("/", get(page::page))
            .route("/assets/{name}", get(page::asset))
            .route("/api/session", get(page::session))
            .route("/api/overview", get(overview::overview))
            .route("/api/records", get(records::list))
            .route("/api/records/{id}", get(records::show))
            .route("/api/find", post(records::find))
            .route("/api/records/{id}/{action}", post(changes::change))
            .fallback(guard::nothing_here)
            .method_not_allowed_fallback(guard::wrong_method)
            .layer(DefaultBodyLimit::max(MAX_SENT))
            .layer(middleware::from_fn_with_state(
                Arc::clone(&state),
                guard::check,
            ))
            .with_state(state)
    }
}

impl From<Dashboard> for Router {
    fn from(dashboard: Dashboard) -> Self {
        dashboard.into_router()
    }
}

impl fmt::Debug for Dashboard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dashboard")
            .field("allow_changes", &self.state.allow_changes)
            .field("show_bodies", &self.state.show_bodies)
            .field("hosts", &self.state.hosts)
            .finish_non_exhaustive()
    }
}
