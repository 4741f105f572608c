//! The handler form for salvo: `#[handler]` gets a function of request, depot and response, which
//! makes the user's arguments, with the claim between the extractors.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, quote};
use syn::ext::IdentExt;
use syn::visit_mut::VisitMut;
use syn::{Lifetime, Pat, PatType, ReturnType, Signature, Type};

use super::model::Model;
use super::parts::{PartArgument, Parts};
use super::span::{SpanRange, local};
use crate::item::{Item, bound_names};

/// ```text
/// #[handler]
/// async fn create(order: JsonBody<Order>, depot: &mut Depot) -> String { BODY }
/// ```
///
/// becomes
///
/// ```text
/// #[handler]
/// async fn create(request: &mut Request, depot: &mut Depot, response: &mut Response) {
///     detached(request, depot, response, |mut owned| async move {
///         let mut captured = match Captured::of(request, depot).await { … };
///         let admitted = match captured.admit(plan).await { … };
///         let before = response.headers.clone();
///         let value = Admitted::run(admitted, async move {
///             let order: JsonBody<Order> = …;
///             let value = { let depot: &mut Depot = …; (async move { BODY }).await };
///             Writer::write(value, request, depot, response).await;
///             answered(response)
///         }).await;
///         value.put(response, before).await;
///         owned
///     }).await
/// }
/// ```
pub(super) fn expand(model: &Model<'_>) -> Option<TokenStream> {
    let Item { attrs, vis, .. } = model.item;
    let salvo = &model.adapter;
    let parts = Parts::new();
    let signature = signature(model, &parts)?;
    let declared = model.traits_in_use();
    let call = call(model, &parts);
    let owned = local("__idem_owned");
    let Parts {
        request,
        depot,
        response,
    } = parts;
    Some(quote! {
        #(#attrs)*
        #vis #signature {
            #declared
            #salvo::detached(#request, #depot, #response, |mut #owned| async move {
                {
                    let #salvo::Parts { request: #request, depot: #depot, response: #response } = &mut #owned;
                    async { #call }.await;
                }
                #owned
            })
            .await
        }
    })
}

fn signature(model: &Model<'_>, parts: &Parts) -> Option<Signature> {
    let salvo = &model.adapter;
    let Parts {
        request,
        depot,
        response,
    } = parts;
    let plain: Signature = syn::parse2(quote! {
        fn f(
            #request: &mut #salvo::Request,
            #depot: &mut #salvo::Depot,
            #response: &mut #salvo::Response,
        )
    })
    .ok()?;
    let mut signature = model.item.sig.clone();
    signature.inputs = plain.inputs;
    signature.output = ReturnType::Default;
    signature.generics = plain.generics;
    Some(signature)
}

/// The variables of the generated code.
struct Names<'a> {
    parts: &'a Parts,
    captured: Ident,
    admitted: Ident,
    refused: Ident,
}

/// The whole call: from request, depot and response to the answer in the response.
fn call(model: &Model<'_>, parts: &Parts) -> TokenStream {
    let Model {
        adapter: salvo,
        plan,
        ..
    } = model;
    let names = Names {
        parts,
        captured: local("__idem_captured"),
        admitted: local("__idem_admitted"),
        refused: local("__idem_refused"),
    };
    let (captured, admitted, refused) = (&names.captured, &names.admitted, &names.refused);
    let Parts {
        request,
        depot,
        response,
    } = parts;
    let refuse = refuse(model, &names);
    let first = model.extractors.first.iter();
    let first = first.map(|argument| extract(model, argument, parts, None));
    let early = early(model, &names, &refuse);
    // Only those that are named: an extracted value may borrow the others.
    let named = model.parts.iter().filter(|argument| argument.is_named);
    let named = named.map(declare_part);
    let admit = model.transactional.admit();
    let respond = respond(model, &names);
    let (planned, before, value) = (
        local("__idem_plan"),
        local("__idem_before"),
        local("__idem_value"),
    );
    quote! {
        #(#first)*
        let mut #captured = match #salvo::Captured::of(#request, #depot).await {
            ::core::result::Result::Ok(captured) => captured,
            ::core::result::Result::Err(#refused) => #refuse
        };
        #early
        let #planned = {
            #(#named)*
            #plan
        };
        let #admitted = match #captured.#admit(#planned).await {
            ::core::result::Result::Ok(admitted) => admitted,
            ::core::result::Result::Err(#refused) => #refuse
        };
        let #before = #response.headers.clone();
        let #value = {
            let (#request, #depot, #response) = (&mut *#request, &mut *#depot, &mut *#response);
            #respond.await
        };
        #value.put(#response, #before).await;
    }
}

/// Answers with the refusal.
fn refuse(model: &Model<'_>, names: &Names<'_>) -> TokenStream {
    let (salvo, refused) = (&model.adapter, &names.refused);
    let response = &names.parts.response;
    quote! {
        {
            #salvo::answer(#response, #refused).await;
            return;
        }
    }
}

/// Declares an argument that is one of the parts.
fn declare_part(argument: &PartArgument<'_>) -> TokenStream {
    let part = &argument.part;
    let PatType { attrs, pat, ty, .. } = argument.argument;
    let ty = elided(ty);
    quote!(#(#attrs)* let #pat: #ty = &mut *#part;)
}

fn early(model: &Model<'_>, names: &Names<'_>, refuse: &TokenStream) -> Option<TokenStream> {
    let last = extract(model, model.extractors.early?, names.parts, None);
    let engine = &model.extractors.early_engine;
    let (captured, refused) = (&names.captured, &names.refused);
    let request = &names.parts.request;
    Some(quote! {
        if let ::core::result::Result::Err(#refused) = #captured.read_early(#request, #engine).await #refuse
        #last
    })
}

/// An extractor's run, as salvo's macro writes it. On a rejection the function returns `rejection`.
fn extract(
    model: &Model<'_>,
    argument: &PatType,
    parts: &Parts,
    rejection: Option<&TokenStream>,
) -> TokenStream {
    let salvo = &model.adapter;
    let Parts {
        request,
        depot,
        response,
    } = parts;
    let PatType { attrs, pat, ty, .. } = argument;
    let (ty, name) = (elided(ty), parameter_name(pat));
    let range = SpanRange::start_of(&ty);
    let path = range.locate(quote!(<#ty as #salvo::Extractible<'_>>::extract_with_arg));
    let given = range.locate(quote!(&mut *#request, &mut *#depot, #name));
    let given = range.parenthesize(&given);
    let wait = range.locate(quote!(.await));
    let error = local("__idem_error");
    quote! {
        #(#attrs)*
        let #pat: #ty = match #path #given #wait {
            ::core::result::Result::Ok(extracted) => extracted,
            ::core::result::Result::Err(#error) => {
                #salvo::reject(#error, #request, #depot, #response).await;
                return #rejection;
            }
        };
    }
}

/// From the claim to the answer.
fn respond(model: &Model<'_>, names: &Names<'_>) -> TokenStream {
    let Model {
        adapter: salvo,
        body,
        transactional,
        ..
    } = model;
    let Parts {
        request,
        depot,
        response,
    } = names.parts;
    let rejection = transactional.pair(quote!(#salvo::rejected(#response)));
    let late = model.extractors.late;
    let late = late.map(|last| extract(model, last, names.parts, Some(&rejection)));
    let (value, future) = (local("__idem_value"), body.future());
    let path = body.returned.locate(quote!(#salvo::Writer::write));
    let written = quote!(#value, #request, #depot, #response);
    let written = body.returned.locate(written);
    let written = body.returned.parenthesize(&written);
    let ended = transactional.pair(value.to_token_stream());
    let answered = transactional.pair(quote!(#salvo::answered(#response)));
    let captured = &names.captured;
    let declared = model.parts.iter().map(declare_part);
    let statements = quote! {
        #captured.lend(#request);
        #late
        let #ended = {
            #(#declared)*
            (#future).await
        };
        #path #written.await;
        #answered
    };
    transactional.run(salvo, &names.admitted, &statements)
}

/// The type of an argument, with no lifetime that the generated function does not know.
fn elided(ty: &Type) -> Type {
    struct Elide;
    impl VisitMut for Elide {
        fn visit_lifetime_mut(&mut self, lifetime: &mut Lifetime) {
            if lifetime.ident != "static" {
                *lifetime = Lifetime::new("'_", lifetime.span());
            }
        }
    }
    let mut ty = ty.clone();
    Elide.visit_type_mut(&mut ty);
    ty
}

/// The name by which salvo looks for a parameter.
fn parameter_name(pattern: &Pat) -> String {
    let names = bound_names(pattern);
    let name = names.first().map(|name| name.unraw().to_string());
    let name = name.unwrap_or_default();
    name.trim_start_matches('_').to_owned()
}
