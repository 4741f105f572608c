//! The attributes of `idem-rs`: parse (`args`, `item`), then `expand`, one file per form.
//!
//! Applications use them through `idem::idempotent` and `idem::<framework>::idempotent`.

#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod args;
mod expand;
mod item;

use proc_macro::TokenStream;

use crate::args::Form;

/// Makes an async function safe to retry: it runs once per key, and retries get its stored
/// value. See `idem::idempotent`, where it is documented.
#[proc_macro_attribute]
pub fn idempotent(args: TokenStream, item: TokenStream) -> TokenStream {
    expand::expand(Form::Function, args.into(), item.into()).into()
}

/// Makes an axum handler safe to retry: it runs once per key, and retries get its stored
/// response. See `idem::axum::idempotent`, where it is documented.
#[proc_macro_attribute]
pub fn idempotent_axum(args: TokenStream, item: TokenStream) -> TokenStream {
    expand::expand(Form::Axum, args.into(), item.into()).into()
}

/// The same for actix-web. See `idem::actix::idempotent`, where it is documented.
#[proc_macro_attribute]
pub fn idempotent_actix(args: TokenStream, item: TokenStream) -> TokenStream {
    expand::expand(Form::Actix, args.into(), item.into()).into()
}

/// The same for functions of `http::Request`. See `idem::http::idempotent`, where it is
/// documented.
#[proc_macro_attribute]
pub fn idempotent_http(args: TokenStream, item: TokenStream) -> TokenStream {
    expand::expand(Form::Http, args.into(), item.into()).into()
}

/// The same for poem. See `idem::poem::idempotent`, where it is documented.
#[proc_macro_attribute]
pub fn idempotent_poem(args: TokenStream, item: TokenStream) -> TokenStream {
    expand::expand(Form::Poem, args.into(), item.into()).into()
}

/// The same for salvo. See `idem::salvo::idempotent`, where it is documented.
#[proc_macro_attribute]
pub fn idempotent_salvo(args: TokenStream, item: TokenStream) -> TokenStream {
    expand::expand(Form::Salvo, args.into(), item.into()).into()
}

/// The same for methods of a gRPC service. See `idem::tonic::idempotent`, where it is documented.
#[proc_macro_attribute]
pub fn idempotent_tonic(args: TokenStream, item: TokenStream) -> TokenStream {
    expand::expand(Form::Tonic, args.into(), item.into()).into()
}
