//! The handler form for poem: the endpoint that poem's `#[handler]` would make, with the claim
//! between its extractors.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote};
use syn::{Attribute, GenericParam, PatType};

use super::handler::{check_readers, names_last, plan, traits_in_use};
use super::owned::{Body, When, check_order, is_named, local, when};
use super::{Place, engine, private};
use crate::args::{Args, Mistakes};
use crate::item::Item;

pub(super) fn expand(args: &Args, item: &Item, mistakes: &mut Mistakes) -> Option<TokenStream> {
    let arguments: Vec<_> = item.arguments().collect();
    check_order(item, &["handler"], mistakes);
    check_readers(&arguments, mistakes);
    let support = private(args);
    let poem = quote!(#support::poem);
    let call = call(args, item, &arguments)?;
    let Item { vis, sig, .. } = item;
    // A function's name, where a type has one.
    let mut name = sig.ident.clone();
    name.set_span(Span::call_site().located_at(name.span()));
    let name = &name;
    // The user's import stays in use.
    let imports = item.attrs.iter().filter(|attr| is_named(attr, "handler"));
    let imports = imports.map(|attr| attr.path());
    let (docs, rest): (Vec<_>, Vec<_>) = item
        .attrs
        .iter()
        .filter(|attr| !is_named(attr, "handler"))
        .partition(|attr| attr.path().is_ident("doc"));
    let everywhere: Vec<&Attribute> = rest
        .iter()
        .copied()
        .filter(|attr| {
            ["cfg", "allow", "warn", "deny", "forbid"]
                .iter()
                .any(|word| attr.path().is_ident(word))
        })
        .collect();

    let (types, declared) = parameters(item);
    let marked = types.iter().filter(|(_, is_type)| *is_type);
    let marked: Vec<_> = marked.map(|(name, _)| name).collect();
    let marks = (0..marked.len()).map(|position| format_ident!("_mark{position}"));
    let marks: Vec<_> = marks.collect();
    let names: Vec<_> = types.iter().map(|(name, _)| name).collect();
    let (definition, default) = if names.is_empty() {
        (quote!(#vis struct #name;), None)
    } else {
        let default = quote! {
            #(#everywhere)*
            impl<#(#declared),*> ::core::default::Default for #name<#(#names),*> {
                fn default() -> Self {
                    Self { #(#marks: ::core::marker::PhantomData),* }
                }
            }
        };
        let definition = quote! {
            #vis struct #name<#(#declared),*> {
                #(#marks: ::core::marker::PhantomData<#marked>),*
            }
        };
        (definition, Some(default))
    };
    let bounds = sig.generics.params.iter().filter(|parameter| {
        // The function keeps its lifetimes to itself.
        !matches!(parameter, GenericParam::Lifetime(_))
    });
    let condition = &sig.generics.where_clause;
    let mut signature = sig.clone();
    let request = local("__idem_request");
    signature.inputs = syn::parse2::<syn::Signature>(quote!(fn f(#request: #poem::Request)))
        .ok()?
        .inputs;
    signature.output = syn::parse2(quote!(-> #poem::Result<#poem::Response>)).ok()?;
    Some(quote! {
        #(#docs)*
        #(#everywhere)*
        #definition
        #default
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

/// The names of type and constant parameters, with whether they are types; and the same as they
/// are declared on a type, without bounds.
fn parameters(item: &Item) -> (Vec<(&Ident, bool)>, Vec<TokenStream>) {
    let parameters = item.sig.generics.params.iter();
    parameters
        .filter_map(|parameter| match parameter {
            GenericParam::Type(ty) => {
                let name = &ty.ident;
                Some(((name, true), quote!(#name)))
            }
            GenericParam::Const(constant) => {
                let (name, ty) = (&constant.ident, &constant.ty);
                Some(((name, false), quote!(const #name: #ty)))
            }
            GenericParam::Lifetime(_) => None,
        })
        .unzip()
}

/// From the request to the answer.
fn call(args: &Args, item: &Item, arguments: &[&PatType]) -> Option<TokenStream> {
    let support = private(args);
    let poem = quote!(#support::poem);
    let plan = plan(args, item, &support)?;
    let declared = traits_in_use(&item.sig.output);
    let (head, body, admitted, refused) = (
        local("__idem_head"),
        local("__idem_body"),
        local("__idem_admitted"),
        local("__idem_refused"),
    );
    let (request, planned, value) = (
        local("__idem_request"),
        local("__idem_plan"),
        local("__idem_value"),
    );
    let extract = |argument: &PatType, refusal: &TokenStream| {
        let PatType { attrs, pat, ty, .. } = argument;
        let place = Place::start_of(ty);
        let path = place.put(quote!(<#ty as #poem::FromRequest<'_>>::from_request));
        let given = place.parenthesize(&place.put(quote!(#head, #body.lend().body())));
        let wait = place.put(quote!(.await));
        quote! {
            #(#attrs)*
            let #pat: #ty = match #path #given #wait {
                ::core::result::Result::Ok(extracted) => extracted,
                ::core::result::Result::Err(#refused) => return #refusal,
            };
        }
    };
    let refusal = quote!(::core::result::Result::Err(#refused));
    let timed = arguments
        .split_last()
        .map(|(last, before)| (*last, before, when(args, last)));
    let (mut first, mut late) = (TokenStream::new(), None);
    if let Some((last, before, when)) = timed {
        first.extend(before.iter().map(|argument| extract(argument, &refusal)));
        match when {
            When::First => first.extend(extract(last, &refusal)),
            When::Early => {
                // Its settings apply to the body as well, where it can be known before.
                let engine = match &args.engine {
                    Some(given) if !names_last(given, Some(last)) => engine(args, &support),
                    _ => quote!(::core::option::Option::None),
                };
                first.extend(quote! {
                    if let ::core::result::Result::Err(#refused) = #body.read_early(#head, #engine).await {
                        return ::core::result::Result::Ok(#refused);
                    }
                });
                first.extend(extract(last, &refusal));
            }
            When::Late => late = Some(last),
        }
    }
    let Body { returned, future } = Body::of(args, item);
    let path = returned.put(quote!(#poem::Reply::answered));
    let answered = returned.parenthesize(&returned.put(quote!(#value)));
    let (admit, respond) = if args.transaction.is_some() {
        let owned = local("__idem_transaction");
        let refusal = quote!((#owned, #poem::Reply::rejected(#refused)));
        let late = late.map(|last| extract(last, &refusal));
        let respond = quote! {
            #poem::AdmittedIn::run(#admitted, move |mut #owned| async move {
                #late
                let (#owned, #value) = (#future).await;
                (#owned, #path #answered)
            })
        };
        (quote!(admit_in), respond)
    } else {
        let refusal = quote!(#poem::Reply::rejected(#refused));
        let late = late.map(|last| extract(last, &refusal));
        let respond = quote! {
            #poem::Admitted::run(#admitted, async move {
                #late
                let #value = (#future).await;
                #path #answered
            })
        };
        (quote!(admit), respond)
    };
    Some(quote! {
        #declared
        #poem::detached(async move {
            let (#head, mut #body) = #poem::split(#request);
            let (#head, #body) = (&#head, &mut #body);
            #first
            let #planned = #plan;
            let #admitted = match #poem::#admit(#head, #body, #planned).await {
                ::core::result::Result::Ok(admitted) => admitted,
                ::core::result::Result::Err(#refused) => return ::core::result::Result::Ok(#refused),
            };
            #respond.await
        })
        .await
    })
}
