//! Arguments under a condition (`#[cfg(…)]`). A macro cannot evaluate it. So the function is written with
//! the argument and without it, each under the condition, and the compiler takes one.

use proc_macro2::{Ident, TokenStream};
use quote::quote;
use syn::{Attribute, FnArg, Meta};

use crate::item::{Item, bound_names};

/// The conditions under which a function is written, and the arguments that are absent then.
#[derive(Clone, Default)]
pub(super) struct Conditions {
    /// As attributes: `#[cfg(…)]`.
    attributes: Vec<TokenStream>,
    /// The names that absent arguments would bind.
    absent: Vec<Ident>,
}

impl Conditions {
    /// The function where its first condition holds, and where it does not. `None` if it has no condition.
    pub(super) fn alternatives(&self, item: &Item) -> Option<[(Self, Item); 2]> {
        let attributes = item.sig.inputs.iter().flat_map(attributes);
        let condition = attributes.filter_map(Condition::of).next()?.predicate;
        Some([true, false].map(|holds| self.decided(item, &condition, holds)))
    }

    fn decided(&self, item: &Item, condition: &TokenStream, holds: bool) -> (Self, Item) {
        let (mut conditions, mut item) = (self.clone(), item.clone());
        let attribute = if holds {
            quote!(#[cfg(#condition)])
        } else {
            quote!(#[cfg(not(#condition))])
        };
        conditions.attributes.push(attribute);
        let is_decided = |attribute: &Attribute| {
            let condition_of_it = Condition::of(attribute);
            condition_of_it.filter(|it| it.predicate.to_string() == condition.to_string())
        };
        let arguments = std::mem::take(&mut item.sig.inputs);
        item.sig.inputs = arguments
            .into_pairs()
            .filter_map(|mut argument| {
                let mut decisions = attributes(argument.value()).iter().filter_map(is_decided);
                if decisions.any(|it| it.is_negated == holds) {
                    if let FnArg::Typed(absent) = argument.value() {
                        conditions.absent.extend(bound_names(&absent.pat));
                    }
                    return None;
                }
                if let FnArg::Typed(typed) = argument.value_mut() {
                    typed.attrs.retain(|it| is_decided(it).is_none());
                }
                Some(argument)
            })
            .collect();
        (conditions, item)
    }

    /// Adds the conditions to the function.
    pub(super) fn add_to(&self, item: &mut Item) {
        let conditions = self.attributes.iter();
        let conditions = conditions.map(|it| syn::parse_quote!(#it));
        item.attrs.splice(0..0, conditions);
    }

    /// An error under these conditions.
    pub(super) fn error(&self, error: syn::Error) -> TokenStream {
        let attributes = &self.attributes;
        error
            .into_iter()
            .map(syn::Error::into_compile_error)
            .map(|error| quote!(#(#attributes)* #error))
            .collect()
    }

    /// The names of `skip(…)` that are not absent.
    pub(super) fn present(&self, names: Option<Vec<Ident>>) -> Option<Vec<Ident>> {
        let present = |name: &Ident| !self.absent.contains(name);
        names.map(|names| names.into_iter().filter(present).collect())
    }
}

fn attributes(argument: &FnArg) -> &[Attribute] {
    match argument {
        FnArg::Typed(typed) => &typed.attrs,
        FnArg::Receiver(_) => &[],
    }
}

/// A `#[cfg(…)]`.
struct Condition {
    /// The predicate, without a `not(…)` around it.
    predicate: TokenStream,
    is_negated: bool,
}

impl Condition {
    fn of(attribute: &Attribute) -> Option<Self> {
        let Meta::List(cfg) = &attribute.meta else {
            return None;
        };
        if !cfg.path.is_ident("cfg") {
            return None;
        }
        let negated: Option<syn::MetaList> = syn::parse2(cfg.tokens.clone()).ok();
        let negated = negated.filter(|inner| inner.path.is_ident("not"));
        Some(Self {
            is_negated: negated.is_some(),
            predicate: negated.map_or_else(|| cfg.tokens.clone(), |inner| inner.tokens),
        })
    }
}

/// The attributes of an argument that set lints, and the others. Those about lints go where the
/// argument's pattern goes.
pub(super) fn lints(attributes: &[Attribute]) -> (Vec<&Attribute>, Vec<&Attribute>) {
    const LINTS: [&str; 6] = ["allow", "cfg_attr", "deny", "expect", "forbid", "warn"];
    attributes
        .iter()
        .partition(|attribute| LINTS.iter().any(|lint| attribute.path().is_ident(lint)))
}
