//! The handler form for salvo: `#[handler]` gets a function of request, depot and response, which
//! brings the arguments of the user's own, with the claim between its extractors.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, quote};
use syn::ext::IdentExt;
use syn::visit::Visit;
use syn::visit_mut::VisitMut;
use syn::{GenericParam, Lifetime, Pat, PatType, ReturnType, Type};

use super::handler::{
    check_readers, expressions, names_last, needs_last_early, plan, traits_in_use,
};
use super::owned::{Body, When, check_order, local, when};
use super::{Place, engine, private};
use crate::args::{Args, Mistakes};
use crate::item::{Item, bound_names, mentions};

pub(super) fn expand(args: &Args, item: &Item, mistakes: &mut Mistakes) -> Option<TokenStream> {
    check_order(item, &["handler", "endpoint"], mistakes);
    let mut extracted = Vec::new();
    let mut lent = Vec::new();
    for argument in item.arguments() {
        match Kind::of(argument, mistakes)? {
            Kind::Extracted => extracted.push(argument),
            Kind::Lent(part) => lent.push((argument, part)),
        }
    }
    check_readers(&extracted, mistakes);
    for parameter in &item.sig.generics.params {
        if !matches!(parameter, GenericParam::Lifetime(_)) {
            mistakes.at(
                parameter,
                "a salvo handler has no type parameters: its router could not name them",
            );
        }
    }
    let support = private(args);
    let salvo = quote!(#support::salvo);
    let call = call(args, item, &extracted, &lent)?;
    let Item {
        attrs, vis, sig, ..
    } = item;
    let (request, depot, response) = parts();
    let mut signature = sig.clone();
    let plain: syn::Signature = syn::parse2(quote! {
        fn f(
            #request: &mut #salvo::Request,
            #depot: &mut #salvo::Depot,
            #response: &mut #salvo::Response,
        )
    })
    .ok()?;
    signature.inputs = plain.inputs;
    signature.output = ReturnType::Default;
    signature.generics = plain.generics;
    let declared = traits_in_use(&sig.output);
    let owned = local("__idem_owned");
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

fn parts() -> (Ident, Ident, Ident) {
    (
        local("__idem_request"),
        local("__idem_depot"),
        local("__idem_response"),
    )
}

/// What an argument is, told as salvo's macro tells it.
enum Kind {
    Extracted,
    /// One of the three parts.
    Lent(Ident),
}

impl Kind {
    fn of(argument: &PatType, mistakes: &mut Mistakes) -> Option<Self> {
        let Type::Reference(reference) = &*argument.ty else {
            return Some(Self::Extracted);
        };
        let name = match &*reference.elem {
            Type::Path(path) => path.path.segments.last().map(|last| last.ident.to_string()),
            _ => None,
        };
        let (request, depot, response) = parts();
        match name.as_deref() {
            Some("Request") => Some(Self::Lent(request)),
            Some("Depot") => Some(Self::Lent(depot)),
            Some("Response") => Some(Self::Lent(response)),
            Some(control @ ("FlowCtrl" | "ConnCtrl")) => {
                mistakes.at(
                    argument,
                    format!(
                        "an idempotent handler has no `{control}`: what it would make others do cannot be given back from the store; use it in a hoop"
                    ),
                );
                None
            }
            _ => {
                mistakes.at(
                    argument,
                    "the arguments of a salvo handler are `&mut Request`, `&mut Depot`, `&mut Response`, and extractors by value",
                );
                None
            }
        }
    }
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

/// Whether a type says that it borrows, as `Order<'_>` does.
fn borrows(ty: &Type) -> bool {
    struct Borrows(bool);
    impl Visit<'_> for Borrows {
        fn visit_lifetime(&mut self, lifetime: &Lifetime) {
            self.0 |= lifetime.ident != "static";
        }
    }
    let mut borrows = Borrows(false);
    borrows.visit_type(ty);
    borrows.0
}

/// The name under which salvo looks for a parameter.
fn parameter(pattern: &Pat) -> String {
    let names = bound_names(pattern);
    let name = names.first().map(|name| name.unraw().to_string());
    let name = name.unwrap_or_default();
    name.trim_start_matches('_').to_owned()
}

/// An extractor's run, as salvo's macro writes it.
fn extract(salvo: &TokenStream, argument: &PatType, refusal: &TokenStream) -> TokenStream {
    let PatType { attrs, pat, ty, .. } = argument;
    let (request, depot, response) = parts();
    let (ty, name) = (elided(ty), parameter(pat));
    let place = Place::start_of(&ty);
    let path = place.put(quote!(<#ty as #salvo::Extractible<'_>>::extract_with_arg));
    let given = place.put(quote!(&mut *#request, &mut *#depot, #name));
    let given = place.parenthesize(&given);
    let wait = place.put(quote!(.await));
    let error = local("__idem_error");
    quote! {
        #(#attrs)*
        let #pat: #ty = match #path #given #wait {
            ::core::result::Result::Ok(extracted) => extracted,
            ::core::result::Result::Err(#error) => {
                #salvo::reject(#error, #request, #depot, #response).await;
                return #refusal;
            }
        };
    }
}

/// From the three parts to the answer in one of them.
fn call(
    args: &Args,
    item: &Item,
    extracted: &[&PatType],
    lent: &[(&PatType, Ident)],
) -> Option<TokenStream> {
    let support = private(args);
    let salvo = quote!(#support::salvo);
    let plan = plan(args, item, &support)?;
    let (request, depot, response) = parts();
    let (captured, admitted, refused, planned, before, value) = (
        local("__idem_captured"),
        local("__idem_admitted"),
        local("__idem_refused"),
        local("__idem_plan"),
        local("__idem_before"),
        local("__idem_value"),
    );
    let lend = |(argument, part): &(&PatType, Ident)| {
        let PatType { attrs, pat, ty, .. } = argument;
        let ty = elided(ty);
        quote!(#(#attrs)* let #pat: #ty = &mut *#part;)
    };
    // Only what is named: an extracted value may hold the rest.
    let named = lent.iter().filter(|(argument, _)| {
        let names = bound_names(&argument.pat);
        expressions(args).any(|expr| mentions(&expr.to_token_stream(), &names))
    });
    let named = named.map(lend);
    let lent = lent.iter().map(lend);

    let refuse = quote! {
        {
            #salvo::answer(#response, #refused).await;
            return;
        }
    };
    let (mut first, mut early, mut late) = (TokenStream::new(), TokenStream::new(), None);
    if let Some((last, rest)) = extracted.split_last() {
        let nothing = TokenStream::new();
        first.extend(
            rest.iter()
                .map(|argument| extract(&salvo, argument, &nothing)),
        );
        let when = match when(args, last) {
            // Nothing else can have the request before the handler is done with it.
            When::Early if borrows(&last.ty) && !needs_last_early(args, Some(last)) => When::Late,
            when => when,
        };
        match when {
            When::First => first.extend(extract(&salvo, last, &nothing)),
            When::Early => {
                // Its settings apply to the body as well, where it can be known before.
                let engine = match &args.engine {
                    Some(given) if !names_last(given, Some(last)) => engine(args, &support),
                    _ => quote!(::core::option::Option::None),
                };
                early.extend(quote! {
                    if let ::core::result::Result::Err(#refused) = #captured.read_early(#request, #engine).await #refuse
                });
                early.extend(extract(&salvo, last, &nothing));
            }
            When::Late => late = Some(*last),
        }
    }

    let Body { returned, future } = Body::of(args, item);
    let path = returned.put(quote!(#salvo::Writer::write));
    let written = returned.put(quote!(#value, #request, #depot, #response));
    let written = returned.parenthesize(&written);
    let (admit, respond) = if args.transaction.is_some() {
        let owned = local("__idem_transaction");
        let refusal = quote!((#owned, #salvo::rejected(#response)));
        let late = late.map(|last| extract(&salvo, last, &refusal));
        let respond = quote! {
            #salvo::AdmittedIn::run(#admitted, move |mut #owned| async move {
                #captured.lend(#request);
                #late
                let (#owned, #value) = {
                    #(#lent)*
                    (#future).await
                };
                #path #written.await;
                (#owned, #salvo::answered(#response))
            })
        };
        (quote!(admit_in), respond)
    } else {
        let refusal = quote!(#salvo::rejected(#response));
        let late = late.map(|last| extract(&salvo, last, &refusal));
        let respond = quote! {
            #salvo::Admitted::run(#admitted, async move {
                #captured.lend(#request);
                #late
                let #value = {
                    #(#lent)*
                    (#future).await
                };
                #path #written.await;
                #salvo::answered(#response)
            })
        };
        (quote!(admit), respond)
    };
    Some(quote! {
        #first
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
    })
}
