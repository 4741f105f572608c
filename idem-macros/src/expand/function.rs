//! The function form: the signature stays as it is written. The body becomes a future that the engine
//! runs if the call needs it.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};

use super::model::Model;
use super::span::local;
use super::transaction::Transactional;
use crate::args::Errors;
use crate::boxed::BoxedAsync;
use crate::item::Item;

/// ```text
/// async fn settle(transfer: Transfer) -> Result<Receipt, E> { BODY }
/// ```
///
/// becomes
///
/// ```text
/// async fn settle(transfer: Transfer) -> Result<Receipt, E> {
///     FunctionCall::run::<_, ReleaseErrors, _>(
///         { let key = …; FunctionCall::new(engine, name, policy, key, …) },
///         Box::pin(async move { BODY }),
///     ).await
/// }
/// ```
///
/// A method that `#[async_trait]` has rewritten prepares its call where `self` and the arguments still
/// have their names. The inner block is its body.
pub(super) fn expand(model: &Model<'_>) -> TokenStream {
    let Item {
        attrs,
        vis,
        defaultness,
        sig,
        ..
    } = model.item;
    let call = &model.plan;
    match &model.boxed {
        None => {
            let run = run(model, call);
            quote! {
                #(#attrs)* #vis #defaultness #sig {
                    #run
                }
            }
        }
        Some(BoxedAsync { before, pin, .. }) => {
            let prepared = local("__idem_call");
            let run = run(model, &prepared.to_token_stream());
            quote! {
                #(#attrs)* #vis #defaultness #sig {
                    #(#before)*
                    let #prepared = #call;
                    #pin(async move { #run })
                }
            }
        }
    }
}

/// The call of the engine. The bounds on the declared type are asked for here, and nowhere else.
fn run(model: &Model<'_>, call: &TokenStream) -> TokenStream {
    let support = &model.support;
    let returned = model.body.returned;
    let errors = match model.args.errors {
        None | Some(Errors::Release) => quote!(#support::ReleaseErrors),
        Some(Errors::Store) => quote!(#support::StoreErrors),
    };
    let future = model.body.future();
    let (path, body) = match model.transactional {
        Transactional::No => {
            let boxed = returned.locate(quote!(::std::boxed::Box::pin));
            let future = returned.parenthesize(&future);
            (
                quote!(#support::FunctionCall::run::<_, #errors, _>),
                quote!(#boxed #future),
            )
        }
        Transactional::Yes => {
            let transaction = model.transactional.parameter();
            (
                quote!(#support::FunctionCall::run_in::<_, #errors, _, _, _>),
                quote!(move |#transaction| #future),
            )
        }
    };
    let path = returned.locate(path);
    let arguments = returned.parenthesize(&quote!(#call, #body));
    let wait = returned.locate(quote!(.await));
    quote!(#path #arguments #wait)
}
