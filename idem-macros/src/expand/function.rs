//! The function form: the signature stays as it is written; the body becomes a future that the
//! engine runs, or does not.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Pat, ReturnType, Type};

use super::{
    check_key, engine, fingerprinter, key_of, mixed, name, named_fingerprint, policy, private,
    return_edge, scope,
};
use crate::args::{Args, Errors, KeySource, Mistakes};
use crate::item::{BoxedAsync, Item, bound_names, nameable_return};

pub(super) fn expand(args: &Args, item: &Item, mistakes: &mut Mistakes) -> Option<TokenStream> {
    let boxed = match item.sig.asyncness {
        Some(_) => None,
        None => {
            let boxed = BoxedAsync::of(item);
            if boxed.is_none() {
                mistakes.at(
                    &item.sig.fn_token,
                    "an idempotent function is `async`: its record is kept by calls that wait",
                );
                return None;
            }
            boxed
        }
    };
    if boxed.is_none() && matches!(item.sig.output, ReturnType::Default) {
        mistakes.at(
            &item.sig.ident,
            "an idempotent function returns a `Result<T, E>` with `E: From<idem::Error>`: a call may be refused",
        );
    }
    let bindings = bindings(item, boxed.as_ref());
    check_skip(args, &bindings.names, mistakes);
    let mut key_names = bindings.names.clone();
    if item.sig.receiver().is_some() {
        key_names.push(Ident::new("self", Span::call_site()));
    }
    check_key(args, &key_names, mistakes);

    let call = call(args, item, &bindings)?;
    Some(match &boxed {
        None => plain(args, item, &call),
        Some(boxed) => rewritten(args, item, boxed, &call),
    })
}

/// The names that the body sees, and what brings them into scope where they are not yet.
struct Bindings {
    names: Vec<Ident>,
    statements: TokenStream,
}

fn bindings(item: &Item, boxed: Option<&BoxedAsync>) -> Bindings {
    let mut bindings = Bindings {
        names: Vec::new(),
        statements: TokenStream::new(),
    };
    for argument in item.arguments() {
        let apart = match (&*argument.pat, boxed) {
            (Pat::Ident(pattern), Some(boxed)) => boxed
                .pattern_of(&pattern.ident)
                .filter(|pattern| !matches!(pattern, Pat::Ident(_)))
                .map(|inner| (&pattern.ident, inner)),
            _ => None,
        };
        match apart {
            None => bindings.names.extend(bound_names(&argument.pat)),
            Some((argument, pattern)) => {
                bindings.names.extend(bound_names(pattern));
                bindings
                    .statements
                    .extend(quote!(let #pattern = &#argument;));
            }
        }
    }
    bindings
}

fn check_skip(args: &Args, names: &[Ident], mistakes: &mut Mistakes) {
    for skipped in args.skip.iter().flatten() {
        if skipped == "self" {
            mistakes.at(
                skipped,
                "`self` is never part of the fingerprint: there is nothing to skip",
            );
        } else if !names.contains(skipped) {
            mistakes.at(
                skipped,
                format!("`skip` names `{skipped}`, which is no argument of the function"),
            );
        }
    }
}

/// The expression that reduces the arguments to a call.
fn call(args: &Args, item: &Item, bindings: &Bindings) -> Option<TokenStream> {
    let private = private(args);
    let Some(KeySource::Expr(key)) = &args.key else {
        return None;
    };
    let key = key_of(key, &private);
    let (site, name) = name(args, item, &private);
    let (policy, scope, engine) = (
        policy(args, &private),
        scope(args, &private),
        engine(args, &private),
    );
    let fingerprint = match &args.fingerprint {
        Some(exprs) => named_fingerprint(exprs, &private),
        None => {
            let skip = args.skip.as_deref().unwrap_or_default();
            let counted = bindings.names.iter().filter(|name| !skip.contains(name));
            fingerprinter(
                counted.map(|name| (name.to_string(), name.span(), name.to_token_stream())),
                &private,
            )
        }
    };
    let statements = &bindings.statements;
    Some(quote_spanned! {Span::mixed_site()=> {
        #site
        #statements
        #private::FunctionCall::new(#engine, #name, #policy, #key, #scope, #fingerprint)
    }})
}

/// The call of the engine. The bounds on the declared type are asked for here, and nowhere else.
fn run(args: &Args, place: Span, call: &TokenStream, body: &TokenStream) -> TokenStream {
    let private = private(args);
    let errors = match args.errors {
        None | Some(Errors::Release) => quote!(#private::ReleaseErrors),
        Some(Errors::Store) => quote!(#private::StoreErrors),
    };
    quote_spanned! {mixed(place)=>
        #private::FunctionCall::run::<_, #errors, _>(#call, ::std::boxed::Box::pin(#body)).await
    }
}

fn plain(args: &Args, item: &Item, call: &TokenStream) -> TokenStream {
    let Item {
        attrs,
        vis,
        defaultness,
        sig,
        body,
    } = item;
    let edge = return_edge(nameable_return(&sig.output));
    let inner = body.stream();
    let block = quote_spanned!(body.span()=> { #edge #inner });
    let run = run(
        args,
        return_span(&sig.output),
        call,
        &quote!(async move #block),
    );
    quote! {
        #(#attrs)* #vis #defaultness #sig {
            #run
        }
    }
}

/// A method that `#[async_trait]` has rewritten: the call is prepared where `self` and the
/// arguments still have their names, and the inner block becomes the body.
fn rewritten(args: &Args, item: &Item, boxed: &BoxedAsync, call: &TokenStream) -> TokenStream {
    let Item {
        attrs,
        vis,
        defaultness,
        sig,
        ..
    } = item;
    let BoxedAsync { before, pin, block } = boxed;
    let place = boxed
        .value_type()
        .map_or_else(|| return_span(&sig.output), Type::span);
    let prepared = Ident::new("__idem_call", Span::mixed_site());
    let run = run(
        args,
        place,
        &prepared.to_token_stream(),
        &quote!(async move #block),
    );
    quote! {
        #(#attrs)* #vis #defaultness #sig {
            #(#before)*
            let #prepared = #call;
            #pin(async move { #run })
        }
    }
}

fn return_span(output: &ReturnType) -> Span {
    match output {
        ReturnType::Default => Span::mixed_site(),
        ReturnType::Type(_, ty) => ty.span(),
    }
}
