//! The parts of a call that a salvo handler can take by reference: request, depot and response.

use proc_macro2::Ident;
use quote::ToTokens;
use syn::{PatType, Type};

use super::extractors::expressions;
use super::span::local;
use crate::args::Args;
use crate::item::{Item, bound_names, mentions};
use crate::mistakes::Mistakes;

/// The variables of the generated code that hold them.
pub(super) struct Parts {
    pub(super) request: Ident,
    pub(super) depot: Ident,
    pub(super) response: Ident,
}

impl Parts {
    pub(super) fn new() -> Self {
        Self {
            request: local("__idem_request"),
            depot: local("__idem_depot"),
            response: local("__idem_response"),
        }
    }

    /// The part that an argument's type names, by the rules of salvo's macro.
    fn of(self, argument: &PatType, mistakes: &mut Mistakes) -> Option<Ident> {
        let name = match &*argument.ty {
            Type::Reference(reference) => match &*reference.elem {
                Type::Path(path) => path.path.segments.last().map(|last| last.ident.to_string()),
                _ => None,
            },
            _ => None,
        };
        match name.as_deref() {
            Some("Request") => return Some(self.request),
            Some("Depot") => return Some(self.depot),
            Some("Response") => return Some(self.response),
            Some(control @ ("FlowCtrl" | "ConnCtrl")) => mistakes.at(
                argument,
                format!(
                    "an idempotent handler takes no `{control}`: the store cannot give back what other handlers did because of it; use it in a hoop"
                ),
            ),
            _ => mistakes.at(
                argument,
                "the arguments of a salvo handler are `&mut Request`, `&mut Depot`, `&mut Response`, and extractors by value",
            ),
        }
        None
    }
}

/// An argument that is one of the parts.
pub(super) struct PartArgument<'a> {
    pub(super) argument: &'a PatType,
    pub(super) part: Ident,
    /// Whether the attribute's expressions name it.
    pub(super) is_named: bool,
}

/// Splits a handler's arguments into extractors and parts.
pub(super) fn split<'a>(
    args: &Args,
    item: &'a Item,
    mistakes: &mut Mistakes,
) -> Option<(Vec<&'a PatType>, Vec<PartArgument<'a>>)> {
    let (mut extractors, mut parts) = (Vec::new(), Vec::new());
    for argument in item.arguments() {
        if !matches!(&*argument.ty, Type::Reference(_)) {
            extractors.push(argument);
            continue;
        }
        let names = bound_names(&argument.pat);
        parts.push(PartArgument {
            argument,
            part: Parts::new().of(argument, mistakes)?,
            is_named: expressions(args).any(|expr| mentions(&expr.to_token_stream(), &names)),
        });
    }
    Some((extractors, parts))
}
