//! The arguments of a salvo handler that are lent parts of the call, told as salvo's macro tells them.

use proc_macro2::Ident;
use quote::ToTokens;
use syn::{PatType, Type};

use super::extractors::expressions;
use super::span::local;
use crate::args::Args;
use crate::item::{Item, bound_names, mentions};
use crate::mistakes::Mistakes;

/// An argument that is lent one of the call's parts.
pub(super) struct Lent<'a> {
    pub(super) argument: &'a PatType,
    pub(super) part: Ident,
    /// Whether the attribute's expressions name it.
    pub(super) is_named: bool,
}

/// The generated names of request, depot and response.
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
}

/// The arguments by where they come from: those that are extracted, and those that are lent.
pub(super) fn split<'a>(
    args: &Args,
    item: &'a Item,
    mistakes: &mut Mistakes,
) -> Option<(Vec<&'a PatType>, Vec<Lent<'a>>)> {
    let (mut extracted, mut lent) = (Vec::new(), Vec::new());
    for argument in item.arguments() {
        if !matches!(&*argument.ty, Type::Reference(_)) {
            extracted.push(argument);
            continue;
        }
        let names = bound_names(&argument.pat);
        lent.push(Lent {
            argument,
            part: part(argument, mistakes)?,
            is_named: expressions(args).any(|expr| mentions(&expr.to_token_stream(), &names)),
        });
    }
    Some((extracted, lent))
}

fn part(argument: &PatType, mistakes: &mut Mistakes) -> Option<Ident> {
    let name = match &*argument.ty {
        Type::Reference(reference) => match &*reference.elem {
            Type::Path(path) => path.path.segments.last().map(|last| last.ident.to_string()),
            _ => None,
        },
        _ => None,
    };
    let parts = Parts::new();
    match name.as_deref() {
        Some("Request") => return Some(parts.request),
        Some("Depot") => return Some(parts.depot),
        Some("Response") => return Some(parts.response),
        Some(control @ ("FlowCtrl" | "ConnCtrl")) => mistakes.at(
            argument,
            format!(
                "an idempotent handler has no `{control}`: what it would make others do cannot be given back from the store; use it in a hoop"
            ),
        ),
        _ => mistakes.at(
            argument,
            "the arguments of a salvo handler are `&mut Request`, `&mut Depot`, `&mut Response`, and extractors by value",
        ),
    }
    None
}
