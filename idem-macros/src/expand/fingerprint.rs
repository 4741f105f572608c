//! The parts of a call's fingerprint that come from arguments and expressions.

use proc_macro2::{Ident, TokenStream};
use quote::quote;
use syn::Expr;

use super::bindings::Bindings;
use super::expression::borrowed;
use super::span::{SpanRange, local};

/// A named reference that is a part of the fingerprint.
struct Part {
    name: String,
    range: SpanRange,
    value: TokenStream,
    /// The function that adds it.
    adder: TokenStream,
}

/// What the expressions of `fingerprint(…)` give, each named by its position.
pub(super) fn of_expressions(exprs: &[Expr], support: &TokenStream) -> TokenStream {
    let parts = exprs.iter().enumerate().map(|(position, expr)| Part {
        name: position.to_string(),
        range: SpanRange::of(expr),
        value: borrowed(expr),
        adder: quote!(#support::fingerprint),
    });
    of_parts(parts, support)
}

/// The arguments of a function, except those that `skip(…)` names.
pub(super) fn of_arguments(
    bindings: &Bindings,
    skip: &[Ident],
    support: &TokenStream,
) -> TokenStream {
    let names = bindings.names.iter().filter(|name| !skip.contains(name));
    let parts = names.map(|name| {
        let range = SpanRange::of(name);
        let reference = range.locate(quote!(&));
        Part {
            name: name.to_string(),
            range,
            value: quote!(#reference #name),
            adder: if bindings.extracted.contains(name) {
                quote!(#support::fingerprint_of_extracted)
            } else {
                quote!(#support::fingerprint)
            },
        }
    });
    of_parts(parts, support)
}

/// One call for each part, so that an error is shown at its own value.
fn of_parts(parts: impl Iterator<Item = Part>, support: &TokenStream) -> TokenStream {
    let nothing = quote!(::core::result::Result::Ok(#support::Fingerprinter::new()));
    parts.fold(nothing, |before, part| {
        let Part {
            name, range, value, ..
        } = part;
        let parts = local("__idem_parts");
        let adder = range.locate(part.adder);
        let arguments = range.parenthesize(&quote!(#parts, #name, #value));
        let and = range.locate(quote!(#support::added_by_reference));
        let closure = range.locate(quote!(|#parts|));
        let both = range.parenthesize(&quote!(#before, #closure #adder #arguments));
        quote!(#and #both)
    })
}
