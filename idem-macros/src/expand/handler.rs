//! The handler form for axum, actix-web and functions of an `http::Request`: the framework runs all
//! extractors but the last one, which may read the request's body. The generated code runs that one.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Attribute, FnArg, PatType, ReturnType, Signature};

use super::check::is_named;
use super::conditional::lints;
use super::model::Model;
use super::span::{local, mixed_site_at};
use crate::form::Form;
use crate::item::Item;

/// ```text
/// async fn create(State(bank): State<Bank>, Json(order): Json<Order>) -> Result<Json<Charge>, E> {
///     BODY
/// }
/// ```
///
/// becomes
///
/// ```text
/// async fn create(State(bank): State<Bank>, captured: Captured<Json<Order>>) -> Response {
///     let plan = { let key = …; Plan { engine, name, policy, key, … } };
///     let admitted = match Captured::admit(captured, plan).await {
///         Ok(admitted) => admitted,
///         Err(refused) => return refused,
///     };
///     Admitted::run(admitted, move |Json(order): Json<Order>| async move { BODY }).await
/// }
/// ```
///
/// An early extractor runs before the plan, and the closure's parameter is `_`.
pub(super) fn expand(model: &Model<'_>) -> Option<TokenStream> {
    let Model {
        adapter,
        item,
        plan,
        ..
    } = model;
    let Item {
        vis, defaultness, ..
    } = item;
    let (debug_check, attrs) = debug_check(model);
    let declared = model.traits_in_use();
    let last = Last::of(model);
    let names = Names::new();
    let answer = Answer::of(model, &names);
    let signature = signature(model, &last, &answer, &names)?;
    let (early, parameter) = last.taken(model, &answer, &names);
    let run = run(model, &parameter, &names);

    let Answer {
        capture, refusal, ..
    } = &answer;
    let Names {
        captured,
        planned,
        admitted,
        refused,
    } = &names;
    let admit = model.transactional.admit();
    Some(quote! {
        #(#attrs)* #vis #defaultness #signature {
            #debug_check
            #declared
            #capture
            #early
            let #planned = #plan;
            let #admitted = match #adapter::Captured::#admit(#captured, #planned).await {
                ::core::result::Result::Ok(admitted) => admitted,
                ::core::result::Result::Err(#refused) => return #refusal,
            };
            #run
        }
    })
}

/// The variables of the generated code.
struct Names {
    captured: Ident,
    planned: Ident,
    admitted: Ident,
    refused: Ident,
}

impl Names {
    fn new() -> Self {
        Self {
            captured: local("__idem_captured"),
            planned: local("__idem_plan"),
            admitted: local("__idem_admitted"),
            refused: local("__idem_refused"),
        }
    }
}

/// The last argument, as its parts.
#[derive(Default)]
struct Last<'a> {
    /// Its attributes, except those about lints.
    attrs: Vec<&'a Attribute>,
    /// Those about lints: they belong to the pattern.
    lints: Vec<&'a Attribute>,
    pattern: TokenStream,
    ty: TokenStream,
}

impl<'a> Last<'a> {
    fn of(model: &Model<'a>) -> Self {
        let adapter = &model.adapter;
        match model.extractors.last() {
            Some(PatType { attrs, pat, ty, .. }) => {
                let (lints, attrs) = lints(attrs);
                Self {
                    attrs,
                    lints,
                    pattern: pat.to_token_stream(),
                    ty: ty.to_token_stream(),
                }
            }
            None => Self {
                pattern: quote!(_),
                ty: match model.form {
                    // The compiler's message names this path where the argument does not fit.
                    Form::Axum => {
                        quote!(#adapter::debug_handler_goes_below_idempotent::NoArgument)
                    }
                    _ => quote!(#adapter::NoArgument),
                },
                ..Self::default()
            },
        }
    }

    /// What extracts it early, and the parameter of the body's closure.
    fn taken(
        &self,
        model: &Model<'_>,
        answer: &Answer,
        names: &Names,
    ) -> (Option<TokenStream>, TokenStream) {
        let Self {
            lints, pattern, ty, ..
        } = self;
        if model.extractors.early.is_none() {
            return (None, quote!(#(#lints)* #pattern: #ty));
        }
        let adapter = &model.adapter;
        let engine = &model.extractors.early_engine;
        let Names {
            captured, refused, ..
        } = names;
        let refusal = &answer.refusal;
        let value = local("__idem_last");
        let early = quote! {
            let (#captured, #value) = match #adapter::Captured::extract(#captured, #engine).await {
                ::core::result::Result::Ok(extracted) => extracted,
                ::core::result::Result::Err(#refused) => return #refusal,
            };
            #(#lints)* let #pattern: #ty = #value;
        };
        (Some(early), quote!(_))
    }
}

/// What the generated function returns.
struct Answer {
    ty: TokenStream,
    /// The answer that a refusal becomes.
    refusal: TokenStream,
    /// The statement that captures the request, where no extractor does.
    capture: Option<TokenStream>,
}

impl Answer {
    fn of(model: &Model<'_>, names: &Names) -> Self {
        let adapter = &model.adapter;
        let Names {
            captured, refused, ..
        } = names;
        match (&model.item.sig.output, model.form) {
            (ReturnType::Type(_, declared), Form::Http) => {
                let span = mixed_site_at(declared.span());
                let respond = quote_spanned!(span=> <#declared as #adapter::Respond>);
                Self {
                    ty: quote!(#respond::Answer),
                    refusal: quote!(#respond::refused(#refused)),
                    capture: Some(quote!(let #captured = #adapter::Captured::of(#captured);)),
                }
            }
            _ => Self {
                ty: quote!(#adapter::Response),
                refusal: refused.to_token_stream(),
                capture: None,
            },
        }
    }
}

/// The user's signature, with the last argument wrapped and another return type.
fn signature(
    model: &Model<'_>,
    last: &Last<'_>,
    answer: &Answer,
    names: &Names,
) -> Option<Signature> {
    let adapter = &model.adapter;
    let sig = &model.item.sig;
    let span = model.extractors.last();
    let span = mixed_site_at(span.map_or_else(|| sig.ident.span(), Spanned::span));
    let (captured, Last { attrs, ty, .. }) = (&names.captured, last);
    let wrapped = match model.form {
        Form::Http => quote_spanned! {span=>
            #(#attrs)* #captured: #adapter::Request<impl #adapter::Incoming>
        },
        _ => quote_spanned! {span=>
            #(#attrs)* #captured: #adapter::Captured<#ty>
        },
    };
    let first = model.extractors.first.iter();
    let first = first.map(|argument| FnArg::Typed(PatType::clone(argument)));
    let mut signature = sig.clone();
    signature.inputs = first.collect();
    signature.inputs.push(syn::parse2(wrapped).ok()?);
    let answer = &answer.ty;
    signature.output = syn::parse2(quote!(-> #answer)).ok()?;
    Some(signature)
}

fn run(model: &Model<'_>, parameter: &TokenStream, names: &Names) -> TokenStream {
    let (adapter, admitted) = (&model.adapter, &names.admitted);
    let returned = model.body.returned;
    let ty = model.transactional.admitted();
    let path = returned.locate(quote!(#adapter::#ty::run));
    let (owned, future) = (model.transactional.parameter(), model.body.future());
    let transaction = owned.map(|owned| quote!(, #owned));
    let keyword = returned.locate(quote!(move));
    let handler = quote!(#keyword |#parameter #transaction| #future);
    let arguments = returned.parenthesize(&quote!(#admitted, #handler));
    returned.locate(quote!(#path #arguments.await))
}

/// `#[debug_handler]` checks a handler by its own signature, which this attribute changes. It is moved
/// to a copy that nothing calls; its messages then name the user's types.
fn debug_check<'a>(model: &Model<'a>) -> (Option<TokenStream>, Vec<&'a Attribute>) {
    let Item {
        attrs, sig, body, ..
    } = model.item;
    if model.form != Form::Axum {
        return (None, attrs.iter().collect());
    }
    let (debug, others): (Vec<_>, Vec<_>) = attrs
        .iter()
        .partition(|attr| is_named(attr, "debug_handler"));
    // A body that names its transaction would not compile there.
    let body = match model.args.transaction {
        None => body.to_token_stream(),
        Some(_) => quote!({ loop {} }),
    };
    let check = (!debug.is_empty()).then(|| {
        quote! {
            #[allow(warnings, clippy::all)]
            const _: () = {
                #(#debug)*
                #sig #body
            };
        }
    });
    (check, others)
}
