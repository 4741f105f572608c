//! The attribute's expressions in the generated code. They only borrow the arguments: the body needs
//! them afterwards.

use proc_macro2::{TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::Expr;

use super::span::SpanRange;
use crate::args::{Args, without_parentheses};

/// The value of `key = …` or `scope = …`.
pub(super) fn key(expr: &Expr, support: &TokenStream) -> TokenStream {
    passed_to(quote!(#support::Key::of), expr, support)
}

pub(super) fn scope(args: &Args, support: &TokenStream) -> TokenStream {
    match &args.scope {
        None => quote!(::core::option::Option::None),
        Some(scope) => {
            let scope = key(scope, support);
            quote!(::core::option::Option::Some(#scope))
        }
    }
}

pub(super) fn engine(args: &Args, support: &TokenStream) -> TokenStream {
    match &args.engine {
        None => quote!(::core::option::Option::None),
        Some(engine) => passed_to(quote!(#support::given_engine), engine, support),
    }
}

/// The value of `transaction = …`.
pub(super) fn database(expr: &Expr, support: &TokenStream) -> TokenStream {
    passed_to(quote!(#support::database), expr, support)
}

/// A call of `function` with a reference to what the expression names.
fn passed_to(function: TokenStream, expr: &Expr, support: &TokenStream) -> TokenStream {
    let range = SpanRange::of(expr);
    let function = range.locate(function);
    let reference = range.parenthesize(&borrowed(expr));
    let call = quote!(#function #reference);
    // These cannot be in a closure.
    if leaves_or_waits(&expr.to_token_stream()) {
        return call;
    }
    // Within a closure that may be called twice, an expression that moves an argument is an error at
    // the expression. Without the closure the error would be at the body's use of the argument.
    let path = range.locate(quote!(#support::evaluated_by_reference));
    let closure = range.locate(quote!(||));
    let closure = range.parenthesize(&quote!(#closure #call));
    quote!(#path #closure)
}

/// Whether an expression leaves the function, or waits.
fn leaves_or_waits(tokens: &TokenStream) -> bool {
    tokens.clone().into_iter().any(|token| match token {
        TokenTree::Ident(word) => word == "await" || word == "return",
        TokenTree::Punct(punct) => punct.as_char() == '?',
        TokenTree::Group(group) => leaves_or_waits(&group.stream()),
        TokenTree::Literal(_) => false,
    })
}

/// A reference to what an expression names. A tuple would move its elements, so it becomes a tuple of
/// references.
pub(super) fn borrowed(expr: &Expr) -> TokenStream {
    let range = SpanRange::of(expr);
    let value = match without_parentheses(expr) {
        Expr::Tuple(tuple) if !tuple.elems.is_empty() => {
            let elements = tuple.elems.iter().map(borrowed);
            range.parenthesize(&quote!(#(#elements,)*))
        }
        _ => range.parenthesize(expr),
    };
    let reference = range.locate(quote!(&));
    quote!(#reference #value)
}
