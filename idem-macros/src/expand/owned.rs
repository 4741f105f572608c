//! Handlers whose arguments may borrow from the request (poem, salvo): a task of its own owns the
//! request, and every step is written out, each extractor's too. What both frameworks share.

use proc_macro2::{Ident, Span, TokenStream};
use quote::quote;
use syn::{Attribute, PatType, ReturnType, Type};

use super::handler::{needs_last_early, reads_body};
use super::{Place, poem, private, return_edge, salvo, with_transaction};
use crate::args::{Args, Form, Mistakes};
use crate::item::{Item, declared_return};

pub(super) fn expand(
    form: Form,
    args: &Args,
    item: &Item,
    mistakes: &mut Mistakes,
) -> Option<TokenStream> {
    match form {
        Form::Salvo => salvo::expand(args, item, mistakes),
        _ => poem::expand(args, item, mistakes),
    }
}

/// A local of the generated code.
pub(super) fn local(name: &str) -> Ident {
    Ident::new(name, Span::mixed_site())
}

pub(super) fn is_named(attr: &Attribute, name: &str) -> bool {
    let last = attr.path().segments.last();
    last.is_some_and(|segment| segment.ident == name)
}

/// Below the framework's attribute this one would see a function that is part of an endpoint,
/// and could not run before its extractors.
pub(super) fn check_order(item: &Item, below: &[&str], mistakes: &mut Mistakes) {
    let is_below = |attr: &Attribute| below.iter().any(|name| is_named(attr, name));
    if !item.attrs.iter().any(is_below) {
        mistakes.at(
            &item.sig.ident,
            "`#[idempotent]` stands above the framework's attribute: write `#[idempotent(…)] #[handler] async fn …`",
        );
    }
}

/// Extractors of either framework that are known to read no more than the head.
const HEAD_READERS: [&str; 14] = [
    "Accept",
    "CookieJar",
    "CookieParam",
    "Data",
    "HeaderParam",
    "Method",
    "Path",
    "PathParam",
    "Query",
    "QueryParam",
    "RealIp",
    "Session",
    "TypedHeader",
    "Version",
];

/// When an extractor runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// First of all: it reads the head.
    First,
    /// Once the body is read, before the claim.
    Early,
    /// When the handler will run.
    Late,
}

/// When the last extractor runs.
pub(super) fn when(args: &Args, last: &PatType) -> When {
    if reads_head(&last.ty) {
        When::First
    } else if !reads_body(&last.ty) || needs_last_early(args, Some(last)) {
        When::Early
    } else {
        When::Late
    }
}

fn reads_head(ty: &Type) -> bool {
    match ty {
        Type::Reference(_) => true,
        Type::Path(path) => path
            .path
            .segments
            .last()
            .is_some_and(|last| HEAD_READERS.iter().any(|known| last.ident == known)),
        _ => false,
    }
}

/// The function's body, and where an error of what it returns is to be shown.
pub(super) struct Body {
    pub(super) returned: Place,
    pub(super) future: TokenStream,
}

impl Body {
    /// In a transaction the future gives it back, beside the value.
    pub(super) fn of(args: &Args, item: &Item) -> Self {
        let returned = match &item.sig.output {
            ReturnType::Default => Place::start_of(&item.sig.ident),
            ReturnType::Type(_, ty) => Place::start_of(ty),
        };
        // A body that only diverges is of no type otherwise.
        let declared = declared_return(&item.sig.output).unwrap_or_else(|| syn::parse_quote!(()));
        let edge = return_edge(Some(&declared), &private(args));
        let inner = item.body.stream();
        let block = quote::quote_spanned!(item.body.span()=> { #edge #inner });
        let future = returned.put(quote!(async move));
        let future = if args.transaction.is_some() {
            with_transaction(&future, &block)
        } else {
            quote!(#future #block)
        };
        Self { returned, future }
    }
}
