//! The handler form for poem: the endpoint that poem's `#[handler]` would make, with the claim between
//! its extractors.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, format_ident, quote};
use syn::{Attribute, GenericParam, PatType, Signature};

use super::check::is_named;
use super::model::Model;
use super::span::{SpanRange, local};
use crate::item::Item;

/// ```text
/// #[handler]
/// async fn create(bank: Data<&Bank>, order: Json<Order>) -> String { BODY }
/// ```
///
/// becomes
///
/// ```text
/// struct create;
/// impl Endpoint for create {
///     type Output = Response;
///     async fn call(&self, request: Request) -> Result<Response> {
///         async fn create(request: Request) -> Result<Response> {
///             detached(async move {
///                 let (head, mut body) = split(request);
///                 let bank: Data<&Bank> = …;
///                 let admitted = match admit(head, body, plan).await { … };
///                 Admitted::run(admitted, async move {
///                     let order: Json<Order> = …;
///                     let value = (async move { BODY }).await;
///                     Reply::answered(value)
///                 }).await
///             }).await
///         }
///         create(request).await
///     }
/// }
/// ```
pub(super) fn expand(model: &Model<'_>) -> Option<TokenStream> {
    let poem = &model.adapter;
    let request = local("__idem_request");
    let signature = signature(model, &request)?;
    let call = call(model, &request);
    let Attributes {
        imports,
        docs,
        everywhere,
        rest,
    } = Attributes::of(model.item);
    let name = type_name(model.item);
    let parameters = Parameters::of(model.item);
    let definition = definition(model.item, &name, &parameters, &everywhere);
    let names = &parameters.names;
    let generics = &model.item.sig.generics;
    // Only the inner function has the lifetimes.
    let bounds = generics.params.iter();
    let bounds = bounds.filter(|parameter| !matches!(parameter, GenericParam::Lifetime(_)));
    let condition = &generics.where_clause;
    Some(quote! {
        #(#docs)*
        #(#everywhere)*
        #definition
        const _: () = { #(use #imports as _;)* };

        #(#everywhere)*
        impl<#(#bounds),*> #poem::Endpoint for #name<#(#names),*> #condition {
            type Output = #poem::Response;

            async fn call(&self, #request: #poem::Request) -> #poem::Result<#poem::Response> {
                #(#rest)*
                #signature {
                    #call
                }
                #name::<#(#names),*>(#request).await
            }
        }
    })
}

/// The endpoint's type has the function's name, in the scope in which types are looked up.
fn type_name(item: &Item) -> Ident {
    let mut name = item.sig.ident.clone();
    name.set_span(Span::call_site().located_at(name.span()));
    name
}

/// The function's attributes by where they go.
struct Attributes<'a> {
    /// The paths of `#[handler]`, so that its import stays in use.
    imports: Vec<&'a syn::Path>,
    docs: Vec<&'a Attribute>,
    /// Those that every generated item has.
    everywhere: Vec<&'a Attribute>,
    /// Those of the inner function. `everywhere` is among them.
    rest: Vec<&'a Attribute>,
}

impl<'a> Attributes<'a> {
    fn of(item: &'a Item) -> Self {
        const EVERYWHERE: [&str; 5] = ["cfg", "allow", "warn", "deny", "forbid"];
        let (handler, others): (Vec<_>, Vec<_>) = item
            .attrs
            .iter()
            .partition(|attr| is_named(attr, "handler"));
        let (docs, rest): (Vec<_>, Vec<_>) = others
            .into_iter()
            .partition(|attr| attr.path().is_ident("doc"));
        let is_everywhere = |attr: &&Attribute| {
            let mut words = EVERYWHERE.iter();
            words.any(|word| attr.path().is_ident(word))
        };
        Self {
            imports: handler.into_iter().map(Attribute::path).collect(),
            docs,
            everywhere: rest.iter().copied().filter(is_everywhere).collect(),
            rest,
        }
    }
}

/// The function's type and constant parameters.
struct Parameters<'a> {
    names: Vec<&'a Ident>,
    /// Those that are types.
    types: Vec<&'a Ident>,
    /// As a type declares them, without bounds.
    declared: Vec<TokenStream>,
}

impl<'a> Parameters<'a> {
    fn of(item: &'a Item) -> Self {
        let mut parameters = Self {
            names: Vec::new(),
            types: Vec::new(),
            declared: Vec::new(),
        };
        for parameter in &item.sig.generics.params {
            match parameter {
                GenericParam::Type(ty) => {
                    let name = &ty.ident;
                    parameters.names.push(name);
                    parameters.types.push(name);
                    parameters.declared.push(quote!(#name));
                }
                GenericParam::Const(constant) => {
                    let (name, ty) = (&constant.ident, &constant.ty);
                    parameters.names.push(name);
                    parameters.declared.push(quote!(const #name: #ty));
                }
                GenericParam::Lifetime(_) => {}
            }
        }
        parameters
    }
}

/// The endpoint's type. A generic one has a field for each type, and a `Default` that makes it.
fn definition(
    item: &Item,
    name: &Ident,
    parameters: &Parameters<'_>,
    everywhere: &[&Attribute],
) -> TokenStream {
    let vis = &item.vis;
    let Parameters {
        names,
        types,
        declared,
    } = parameters;
    if names.is_empty() {
        return quote!(#vis struct #name;);
    }
    let marks = (0..types.len()).map(|position| format_ident!("_mark{position}"));
    let marks: Vec<_> = marks.collect();
    quote! {
        #vis struct #name<#(#declared),*> {
            #(#marks: ::core::marker::PhantomData<#types>),*
        }
        #(#everywhere)*
        impl<#(#declared),*> ::core::default::Default for #name<#(#names),*> {
            fn default() -> Self {
                Self { #(#marks: ::core::marker::PhantomData),* }
            }
        }
    }
}

/// The signature of the inner function. It takes the request and returns a response.
fn signature(model: &Model<'_>, request: &Ident) -> Option<Signature> {
    let poem = &model.adapter;
    let plain: Signature = syn::parse2(quote! {
        fn f(#request: #poem::Request) -> #poem::Result<#poem::Response>
    })
    .ok()?;
    let mut signature = model.item.sig.clone();
    signature.inputs = plain.inputs;
    signature.output = plain.output;
    Some(signature)
}

/// The variables of the generated code.
struct Names {
    head: Ident,
    body: Ident,
    admitted: Ident,
    refused: Ident,
}

/// The whole call: from the request to the answer.
fn call(model: &Model<'_>, request: &Ident) -> TokenStream {
    let Model {
        adapter: poem,
        plan,
        ..
    } = model;
    let names = Names {
        head: local("__idem_head"),
        body: local("__idem_body"),
        admitted: local("__idem_admitted"),
        refused: local("__idem_refused"),
    };
    let before = extract_before_the_claim(model, &names);
    let respond = respond(model, &names);
    let Names {
        head,
        body,
        admitted,
        refused,
    } = &names;
    let declared = model.traits_in_use();
    let planned = local("__idem_plan");
    let admit = model.transactional.admit();
    quote! {
        #declared
        #poem::detached(async move {
            let (#head, mut #body) = #poem::split(#request);
            let (#head, #body) = (&#head, &mut #body);
            #before
            let #planned = #plan;
            let #admitted = match #poem::#admit(#head, #body, #planned).await {
                ::core::result::Result::Ok(admitted) => admitted,
                ::core::result::Result::Err(#refused) => return ::core::result::Result::Ok(#refused),
            };
            #respond.await
        })
        .await
    }
}

fn extract_before_the_claim(model: &Model<'_>, names: &Names) -> TokenStream {
    let Names {
        head,
        body,
        refused,
        ..
    } = names;
    let rejection = quote!(::core::result::Result::Err(#refused));
    let first = model.extractors.first.iter();
    let first = first.map(|argument| extract(model, argument, names, &rejection));
    let early = model.extractors.early.map(|last| {
        let engine = &model.extractors.early_engine;
        let last = extract(model, last, names, &rejection);
        quote! {
            if let ::core::result::Result::Err(#refused) = #body.read_early(#head, #engine).await {
                return ::core::result::Result::Ok(#refused);
            }
            #last
        }
    });
    quote!(#(#first)* #early)
}

fn extract(
    model: &Model<'_>,
    argument: &PatType,
    names: &Names,
    rejection: &TokenStream,
) -> TokenStream {
    let poem = &model.adapter;
    let Names {
        head,
        body,
        refused,
        ..
    } = names;
    let PatType { attrs, pat, ty, .. } = argument;
    let range = SpanRange::start_of(ty);
    let path = range.locate(quote!(<#ty as #poem::FromRequest<'_>>::from_request));
    let given = range.parenthesize(&range.locate(quote!(#head, #body.lend().body())));
    let wait = range.locate(quote!(.await));
    quote! {
        #(#attrs)*
        let #pat: #ty = match #path #given #wait {
            ::core::result::Result::Ok(extracted) => extracted,
            ::core::result::Result::Err(#refused) => return #rejection,
        };
    }
}

/// From the claim to the answer.
fn respond(model: &Model<'_>, names: &Names) -> TokenStream {
    let Model {
        adapter: poem,
        body,
        transactional,
        ..
    } = model;
    let refused = &names.refused;
    let rejection = transactional.pair(quote!(#poem::Reply::rejected(#refused)));
    let late = model.extractors.late;
    let late = late.map(|last| extract(model, last, names, &rejection));
    let (value, future) = (local("__idem_value"), body.future());
    let path = body.returned.locate(quote!(#poem::Reply::answered));
    let answered = body.returned.locate(quote!(#value));
    let answered = body.returned.parenthesize(&answered);
    let answered = transactional.pair(quote!(#path #answered));
    let ended = transactional.pair(value.to_token_stream());
    let statements = quote! {
        #late
        let #ended = (#future).await;
        #answered
    };
    transactional.run(poem, &names.admitted, &statements)
}
