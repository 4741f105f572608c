//! The names by which a body knows its arguments.

use proc_macro2::{Ident, TokenStream};
use quote::quote;
use syn::{Pat, PatType, PathArguments, Type};

use crate::boxed::BoxedAsync;
use crate::item::{Item, borrowing_pattern, bound_names};

pub(super) struct Bindings {
    pub(super) names: Vec<Ident>,
    /// Those that are taken out of what looks like an extractor of a web framework.
    pub(super) extracted: Vec<Ident>,
    /// The statements that bring them into scope, where the function's parameters do not.
    pub(super) statements: TokenStream,
}

impl Bindings {
    pub(super) fn of(item: &Item, boxed: Option<&BoxedAsync>) -> Self {
        let mut bindings = Self {
            names: Vec::new(),
            extracted: Vec::new(),
            statements: TokenStream::new(),
        };
        for argument in item.arguments() {
            let written = match (&*argument.pat, boxed) {
                (Pat::Ident(given), Some(boxed)) => boxed
                    .pattern_of(&given.ident)
                    .map(|written| (&given.ident, written)),
                _ => None,
            };
            match written {
                None => bindings.add(argument),
                // `_`: nobody can name it.
                Some((_, Pat::Ident(_))) => {}
                Some((given, pattern)) => {
                    bindings.names.extend(bound_names(pattern));
                    bindings.statements.extend(destructured(pattern, given));
                }
            }
        }
        bindings
    }

    fn add(&mut self, argument: &PatType) {
        let names = bound_names(&argument.pat);
        if is_extractor(argument) {
            self.extracted.extend(names.iter().cloned());
        }
        self.names.extend(names);
    }
}

/// Whether an argument is written as extractors are: `Json(order): Json<Order>`.
fn is_extractor(argument: &PatType) -> bool {
    match (&*argument.pat, &*argument.ty) {
        (Pat::TupleStruct(pattern), Type::Path(ty)) => {
            let (pattern, ty) = (pattern.path.segments.last(), ty.path.segments.last());
            pattern.zip(ty).is_some_and(|(pattern, ty)| {
                pattern.ident == ty.ident
                    && matches!(ty.arguments, PathArguments::AngleBracketed(_))
            })
        }
        _ => false,
    }
}

/// The names of a pattern, as references into `value`. A use of each follows, so that no lint warns of
/// those that the attribute does not name.
pub(super) fn destructured(pattern: &Pat, value: &Ident) -> TokenStream {
    let names = bound_names(pattern);
    let pattern = borrowing_pattern(pattern);
    let uses = (!names.is_empty()).then(|| quote!(let _ = (#(&#names,)*);));
    quote! {
        let #pattern = &#value;
        #uses
    }
}
