//! Functions that other macros declare, with captured fragments and `$crate`.
#![deny(warnings)]

use idem::Error;

#[doc(hidden)]
pub use idem as reexported;

macro_rules! operation {
    ($(#[$attr:meta])* $name:ident($key:ident: $ty:ty) by $by:expr, $ttl:literal => $body:block) => {
        $(#[$attr])*
        #[$crate::reexported::idempotent(crate = $crate::reexported, key = $by, ttl = $ttl)]
        async fn $name($key: $ty) -> Result<u64, Error> $body
    };
}

operation!(settle(id: u64) by id, "1h" => { Ok(id) });
operation!(#[must_use = "a refund may be due"] cancel(id: Option<u64>) by (id, "cancel"), "7d" => { Ok(id.unwrap_or(0)) });

macro_rules! captured {
    ($vis:vis $name:ident($pattern:pat => $ty:ty) -> $ret:ty, key = $key:expr, ttl = $ttl:expr, scope = $scope:expr, $value:expr) => {
        #[idem::idempotent(key = $key, ttl = $ttl, scope = $scope, fingerprint($scope))]
        $vis async fn $name($pattern: $ty) -> $ret {
            $value
        }
    };
}

captured!(pub(crate) taken_apart((id, tenant) => (String, String)) -> Result<String, Error>, key = (id, tenant), ttl = "1h", scope = (tenant), Ok(id + &tenant));

macro_rules! keyed {
    ($name:ident, $key:expr) => {
        #[idem::axum::idempotent(key = $key, ttl = "1h")]
        async fn $name(text: String) -> String {
            text
        }
    };
}

keyed!(by_header, header("Idempotency-Key"));

macro_rules! handlers {
    ($($name:ident),*) => {$(
        #[idem::axum::idempotent(key = header("Idempotency-Key"), ttl = "1h")]
        async fn $name(text: String) -> String {
            text
        }
    )*};
}

handlers!(create, remove);

fn main() {
    drop((settle(1), cancel(None)));
    drop(taken_apart((String::new(), String::new())));
    let _: axum::Router = axum::Router::new()
        .route("/by_header", axum::routing::post(by_header))
        .route("/create", axum::routing::post(create))
        .route("/remove", axum::routing::post(remove));
}
