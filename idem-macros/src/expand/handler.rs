//! The handler form: the extractors stay as they are written, but for the last one, which may
//! read the body. It is wrapped, so that it runs only when the handler will.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Attribute, Expr, FnArg, PatType, ReturnType, Token};

use super::{
    Place, check_key, check_transaction, database, engine, key_of, mixed, name, named_fingerprint,
    policy, private, return_edge, scope, with_transaction,
};
use crate::args::{Args, KeySource, Mistakes};
use crate::item::{Item, bound_names, declared_return, mentions, returned_traits};

pub(super) fn expand(args: &Args, item: &Item, mistakes: &mut Mistakes) -> Option<TokenStream> {
    if item.sig.asyncness.is_none() {
        mistakes.at(
            &item.sig.fn_token,
            "an idempotent handler waits for its store: write `async fn`",
        );
        return None;
    }
    if let Some(receiver) = item.sig.receiver() {
        mistakes.at(
            receiver,
            "a handler has no `self`: take what it needs as an extractor, such as `State`, or use `idem::idempotent` on a method",
        );
        return None;
    }
    let names: Vec<Ident> = item
        .arguments()
        .flat_map(|argument| bound_names(&argument.pat))
        .collect();
    check_key(args, &names, mistakes);
    check_transaction(args, &names, mistakes);
    build(args, item)
}

fn build(args: &Args, item: &Item) -> Option<TokenStream> {
    let support = private(args);
    let private = quote!(#support::axum);
    let plan = plan(args, item, &support)?;
    let Item {
        attrs,
        vis,
        defaultness,
        sig,
        body,
    } = item;
    let (debug_check, attrs) = debug_check(args, attrs, item);

    let mut arguments: Vec<&PatType> = item.arguments().collect();
    let last = arguments.pop();
    let (last_attrs, last_pattern, last_type) = match last {
        Some(last) => {
            let PatType { attrs, pat, ty, .. } = last;
            (
                attrs.as_slice(),
                pat.to_token_stream(),
                ty.to_token_stream(),
            )
        }
        None => (
            &[][..],
            quote!(_),
            quote!(#private::debug_handler_goes_below_idempotent::NoArgument),
        ),
    };
    let captured = Ident::new("__idem_captured", Span::mixed_site());
    let mut signature = sig.clone();
    let place = last.map_or_else(|| sig.ident.span(), Spanned::span);
    let mut inputs: Punctuated<FnArg, Token![,]> = arguments
        .into_iter()
        .map(|argument| FnArg::Typed(argument.clone()))
        .collect();
    let wrapped = quote_spanned! {mixed(place)=>
        #(#last_attrs)* #captured: #private::Captured<#last_type>
    };
    inputs.push(syn::parse2(wrapped).ok()?);
    signature.inputs = inputs;
    signature.output = syn::parse2(quote!(-> #private::Response)).ok()?;

    let returned = match &sig.output {
        ReturnType::Default => Place::start_of(&sig.ident),
        ReturnType::Type(_, ty) => Place::start_of(ty),
    };
    let edge = return_edge(declared_return(&sig.output).as_ref());
    let inner = body.stream();
    let block = quote_spanned!(body.span()=> { #edge #inner });
    let declared = traits_in_use(&sig.output);
    let planned = Ident::new("__idem_plan", Span::mixed_site());
    let refused = Ident::new("__idem_refused", Span::mixed_site());
    let admitted = Ident::new("__idem_admitted", Span::mixed_site());

    let (early, parameter) = if needs_last_early(args, last) {
        let value = Ident::new("__idem_last", Span::mixed_site());
        // Its settings apply to the body as well, where it can be known before the body is read.
        let engine = match &args.engine {
            Some(engine) if !names_last(engine, last) => super::engine(args, &support),
            _ => quote!(::core::option::Option::None),
        };
        let early = quote! {
            let (#captured, #value) = match #private::Captured::extract(#captured, #engine).await {
                ::core::result::Result::Ok(extracted) => extracted,
                ::core::result::Result::Err(#refused) => return #refused,
            };
            let #last_pattern: #last_type = #value;
        };
        (early, quote!(_: ()))
    } else {
        (TokenStream::new(), quote!(#last_pattern: #last_type))
    };
    let future = returned.put(quote!(async move));
    let handler = returned.put(quote!(move));
    let (admit, path, handler) = if args.transaction.is_some() {
        let owned = Ident::new("__idem_transaction", Span::mixed_site());
        let body = with_transaction(&future, &block);
        (
            quote!(admit_in),
            quote!(#private::AdmittedIn::run),
            quote!(#handler |#parameter, mut #owned| #body),
        )
    } else {
        (
            quote!(admit),
            quote!(#private::Admitted::run),
            quote!(#handler |#parameter| #future #block),
        )
    };
    let path = returned.put(path);
    let arguments = returned.parenthesize(&quote!(#admitted, #handler));
    let run = returned.put(quote!(#path #arguments.await));
    Some(quote! {
        #(#attrs)* #vis #defaultness #signature {
            #debug_check
            #declared
            #early
            let #planned = #plan;
            let #admitted = match #private::Captured::#admit(#captured, #planned).await {
                ::core::result::Result::Ok(admitted) => admitted,
                ::core::result::Result::Err(#refused) => return #refused,
            };
            #run
        }
    })
}

/// Everything the adapter must know of the call, as one expression.
fn plan(args: &Args, item: &Item, support: &TokenStream) -> Option<TokenStream> {
    let (site, name) = name(args, item, support);
    let key = match args.key.as_ref()? {
        KeySource::Header(header) => quote!(#support::KeySource::Header(#header)),
        KeySource::Expr(key) => {
            let key = key_of(key, support);
            quote!(#support::KeySource::Value(#key))
        }
    };
    let (policy, scope, engine) = (
        policy(args, support),
        scope(args, support),
        engine(args, support),
    );
    let fingerprint = match &args.fingerprint {
        None => quote!(::core::option::Option::None),
        Some(exprs) => {
            let parts = named_fingerprint(exprs, support);
            quote!(::core::option::Option::Some(#parts))
        }
    };
    let release = match &args.release {
        None => quote!(#support::DEFAULT_RELEASE),
        Some(statuses) => quote!(&[#(#statuses),*]),
    };
    let required = args.required.unwrap_or(true);
    let plan = quote_spanned! {Span::mixed_site()=>
        #support::Plan {
            engine: __idem_engine,
            name: #name,
            policy: __idem_policy,
            key: __idem_key,
            scope: __idem_scope,
            fingerprint: __idem_fingerprint,
            release: #release,
            required: #required,
        }
    };
    let planned = match &args.transaction {
        None => plan,
        Some(source) => {
            let database = database(source, support);
            quote!((#plan, #database))
        }
    };
    // One statement each: what an expression locks or borrows is free before the next one.
    Some(quote_spanned! {Span::mixed_site()=> {
        #site
        let __idem_engine = #engine;
        let __idem_policy = #policy;
        let __idem_key = #key;
        let __idem_scope = #scope;
        let __idem_fingerprint = #fingerprint;
        #planned
    }})
}

/// Whether an expression names something that only the last argument binds. It then runs
/// before the claim.
fn needs_last_early(args: &Args, last: Option<&PatType>) -> bool {
    let key = match &args.key {
        Some(KeySource::Expr(key)) => Some(key),
        _ => None,
    };
    key.into_iter()
        .chain(&args.scope)
        .chain(&args.engine)
        .chain(&args.transaction)
        .chain(args.fingerprint.iter().flatten())
        .any(|expr| names_last(expr, last))
}

fn names_last(expr: &Expr, last: Option<&PatType>) -> bool {
    let names = last.map(|last| bound_names(&last.pat)).unwrap_or_default();
    mentions(&expr.to_token_stream(), &names)
}

/// The generated function returns another type. The traits of the user's own (`impl
/// IntoResponse`) are named here, so that their imports stay in use.
fn traits_in_use(output: &ReturnType) -> Option<TokenStream> {
    let traits = returned_traits(output);
    (!traits.is_empty()).then(|| {
        quote! {
            #[allow(dead_code, clippy::all, clippy::pedantic)]
            fn __idem_declared(#(_: impl #traits),*) {}
        }
    })
}

/// `#[debug_handler]` checks a handler by its own signature, which this attribute changes. It
/// is moved to a copy that nothing calls; its messages then speak of the user's types.
fn debug_check<'a>(
    args: &Args,
    attrs: &'a [Attribute],
    item: &Item,
) -> (Option<TokenStream>, Vec<&'a Attribute>) {
    let (debug, others): (Vec<_>, Vec<_>) = attrs.iter().partition(|attr| {
        attr.path()
            .segments
            .last()
            .is_some_and(|segment| segment.ident == "debug_handler")
    });
    let Item { sig, body, .. } = item;
    // Nothing but the signature, where the body speaks of a transaction.
    let body = match args.transaction {
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
