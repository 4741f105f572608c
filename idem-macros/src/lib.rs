//! The attributes of `idem-rs`: parse (`args`, `item`), then `expand`, one file per form.
//!
//! Applications use them through `idem::idempotent` and `idem::<framework>::idempotent`.
//!
//! Their documentation is in `docs/`. Its samples need `idem-rs`, which depends on this crate. So
//! `idem-rs` compiles them, and the doctests of this crate leave them out.

#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// At most 60: see `clippy.toml`.
#![warn(clippy::too_many_lines)]

mod args;
mod boxed;
mod expand;
mod form;
mod item;
mod mistakes;

use proc_macro::TokenStream;

use crate::form::Form;

#[cfg_attr(not(doctest), doc = include_str!("docs/function.md"))]
#[cfg_attr(not(doctest), doc = include_str!("docs/arguments.md"))]
#[cfg_attr(not(doctest), doc = include_str!("docs/forms.md"))]
#[proc_macro_attribute]
pub fn idempotent(args: TokenStream, item: TokenStream) -> TokenStream {
    expand::expand(Form::Function, args.into(), item.into()).into()
}

#[cfg_attr(not(doctest), doc = include_str!("docs/axum.md"))]
#[cfg_attr(not(doctest), doc = include_str!("docs/arguments.md"))]
#[proc_macro_attribute]
pub fn idempotent_axum(args: TokenStream, item: TokenStream) -> TokenStream {
    expand::expand(Form::Axum, args.into(), item.into()).into()
}

#[cfg_attr(not(doctest), doc = include_str!("docs/actix.md"))]
#[cfg_attr(not(doctest), doc = include_str!("docs/arguments.md"))]
#[proc_macro_attribute]
pub fn idempotent_actix(args: TokenStream, item: TokenStream) -> TokenStream {
    expand::expand(Form::Actix, args.into(), item.into()).into()
}

#[cfg_attr(not(doctest), doc = include_str!("docs/http.md"))]
#[cfg_attr(not(doctest), doc = include_str!("docs/arguments.md"))]
#[proc_macro_attribute]
pub fn idempotent_http(args: TokenStream, item: TokenStream) -> TokenStream {
    expand::expand(Form::Http, args.into(), item.into()).into()
}

#[cfg_attr(not(doctest), doc = include_str!("docs/poem.md"))]
#[cfg_attr(not(doctest), doc = include_str!("docs/arguments.md"))]
#[proc_macro_attribute]
pub fn idempotent_poem(args: TokenStream, item: TokenStream) -> TokenStream {
    expand::expand(Form::Poem, args.into(), item.into()).into()
}

#[cfg_attr(not(doctest), doc = include_str!("docs/salvo.md"))]
#[cfg_attr(not(doctest), doc = include_str!("docs/arguments.md"))]
#[proc_macro_attribute]
pub fn idempotent_salvo(args: TokenStream, item: TokenStream) -> TokenStream {
    expand::expand(Form::Salvo, args.into(), item.into()).into()
}

#[cfg_attr(not(doctest), doc = include_str!("docs/tonic.md"))]
#[cfg_attr(not(doctest), doc = include_str!("docs/arguments.md"))]
#[proc_macro_attribute]
pub fn idempotent_tonic(args: TokenStream, item: TokenStream) -> TokenStream {
    expand::expand(Form::Tonic, args.into(), item.into()).into()
}
