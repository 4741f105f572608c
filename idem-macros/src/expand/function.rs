//! The function form: the signature stays as it is written; the body becomes a future that the
//! engine runs, or does not.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::{GenericArgument, Pat, PatType, PathArguments, ReturnType, Type};

use super::{
    Part, Place, check_key, check_transaction, database, engine, fingerprinter, key_of, name,
    named_fingerprint, policy, private, return_edge, scope, with_transaction,
};
use crate::args::{Args, Errors, KeySource, Mistakes};
use crate::item::{BoxedAsync, Item, bound_names, by_reference, declared_return, mentions};

pub(super) fn expand(args: &Args, item: &Item, mistakes: &mut Mistakes) -> Option<TokenStream> {
    let boxed = match item.sig.asyncness {
        Some(_) => None,
        None => {
            let boxed = BoxedAsync::of(item);
            if boxed.is_none() {
                mistakes.at(
                    &item.sig.fn_token,
                    "an idempotent function waits for its store: write `async fn`",
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
    if let Some(reference) = borrowed_value(&item.sig.output) {
        mistakes.at(
            reference,
            "a borrowed value cannot be given back from the store: return one that owns its data, such as `String`",
        );
    }
    let bindings = bindings(item, boxed.as_ref());
    check_skip(args, &bindings.names, mistakes);
    check_transaction(args, &bindings.names, mistakes);
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

/// The `&T` of a `Result<&T, E>`. The trait solver knows it too, but speaks of lifetimes that
/// the user never wrote.
fn borrowed_value(output: &ReturnType) -> Option<&Type> {
    let ReturnType::Type(_, ty) = output else {
        return None;
    };
    let Type::Path(path) = &**ty else {
        return None;
    };
    let result = path.path.segments.last()?;
    let PathArguments::AngleBracketed(arguments) = &result.arguments else {
        return None;
    };
    match arguments.args.first()? {
        GenericArgument::Type(value @ Type::Reference(_)) if result.ident == "Result" => {
            Some(value)
        }
        _ => None,
    }
}

/// The names that the body sees, and what brings them into scope where they are not yet.
pub(super) struct Bindings {
    pub(super) names: Vec<Ident>,
    /// Those that are taken out of what looks like an extractor of a web framework.
    pub(super) extracted: Vec<Ident>,
    pub(super) statements: TokenStream,
}

pub(super) fn bindings(item: &Item, boxed: Option<&BoxedAsync>) -> Bindings {
    let mut bindings = Bindings {
        names: Vec::new(),
        extracted: Vec::new(),
        statements: TokenStream::new(),
    };
    for argument in item.arguments() {
        let written = match (&*argument.pat, boxed) {
            (Pat::Ident(given), Some(boxed)) => boxed
                .pattern_of(&given.ident)
                .map(|written| (&given.ident, written)),
            _ => None,
        };
        match written {
            None => {
                let names = bound_names(&argument.pat);
                if is_extractor(argument) {
                    bindings.extracted.extend(names.iter().cloned());
                }
                bindings.names.extend(names);
            }
            // `_`: nobody can name it.
            Some((_, Pat::Ident(_))) => {}
            Some((given, pattern)) => {
                bindings.names.extend(bound_names(pattern));
                bindings.statements.extend(taken_apart(pattern, given));
            }
        }
    }
    bindings
}

/// Whether an argument is taken apart as extractors are: `Json(order): Json<Order>`.
fn is_extractor(argument: &PatType) -> bool {
    match (&*argument.pat, &*argument.ty) {
        (Pat::TupleStruct(pattern), Type::Path(ty)) => {
            let (pattern, ty) = (pattern.path.segments.last(), ty.path.segments.last());
            pattern.zip(ty).is_some_and(|(pattern, ty)| {
                pattern.ident == ty.ident
                    && matches!(ty.arguments, PathArguments::AngleBracketed(_))
            })
        }
        _ => false,
    }
}

/// What a pattern binds, as references. Whether the body uses it is seen there.
pub(super) fn taken_apart(pattern: &Pat, whole: &Ident) -> TokenStream {
    let names = bound_names(pattern);
    let pattern = by_reference(pattern);
    let uses = (!names.is_empty()).then(|| quote!(let _ = (#(&#names,)*);));
    quote! {
        let #pattern = &#whole;
        #uses
    }
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
    let written = key.to_token_stream();
    let key = key_of(key, &private);
    let (declaration, name) = name::declare(args, item, &private);
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
                counted.map(|name| {
                    let place = Place::of(name);
                    let reference = place.put(quote!(&));
                    Part {
                        name: name.to_string(),
                        place,
                        value: quote!(#reference #name),
                        adder: if bindings.extracted.contains(name) {
                            quote!(#private::fingerprint_of_extracted)
                        } else {
                            quote!(#private::fingerprint)
                        },
                    }
                }),
                &private,
            )
        }
    };
    let leaves_out_the_key = args.fingerprint.is_some()
        || (args.skip.as_deref()).is_some_and(|skip| mentions(&written, skip));
    let key_argument = if leaves_out_the_key {
        quote!(#private::KeyArgument::IsLeftOut)
    } else {
        quote!(#private::KeyArgument::Counts)
    };
    let statements = &bindings.statements;
    let new = quote_spanned! {Span::mixed_site()=>
        #private::FunctionCall::new(
            __idem_engine, #name, __idem_policy, __idem_key, __idem_scope, __idem_fingerprint,
            #key_argument,
        )
    };
    let prepared = match &args.transaction {
        None => new,
        Some(source) => {
            let database = database(source, &private);
            quote!((#new, #database))
        }
    };
    // One statement each: what an expression locks or borrows is free before the next one.
    Some(quote_spanned! {Span::mixed_site()=> {
        #declaration
        #statements
        let __idem_engine = #engine;
        let __idem_policy = #policy;
        let __idem_key = #key;
        let __idem_scope = #scope;
        let __idem_fingerprint = #fingerprint;
        #prepared
    }})
}

/// The call of the engine. The bounds on the declared type are asked for here, and nowhere else.
fn run(args: &Args, place: Place, call: &TokenStream, block: &TokenStream) -> TokenStream {
    let private = private(args);
    let errors = match args.errors {
        None | Some(Errors::Release) => quote!(#private::ReleaseErrors),
        Some(Errors::Store) => quote!(#private::StoreErrors),
    };
    let future = place.put(quote!(async move));
    let (path, body) = if args.transaction.is_some() {
        let path = quote!(#private::FunctionCall::run_in::<_, #errors, _, _, _>);
        let owned = Ident::new("__idem_transaction", Span::mixed_site());
        let body = with_transaction(&future, block);
        (place.put(path), quote!(move |mut #owned| #body))
    } else {
        let path = quote!(#private::FunctionCall::run::<_, #errors, _>);
        let boxed = place.put(quote!(::std::boxed::Box::pin));
        let body = place.parenthesize(&quote!(#future #block));
        (place.put(path), quote!(#boxed #body))
    };
    let arguments = place.parenthesize(&quote!(#call, #body));
    let wait = place.put(quote!(.await));
    quote!(#path #arguments #wait)
}

fn plain(args: &Args, item: &Item, call: &TokenStream) -> TokenStream {
    let Item {
        attrs,
        vis,
        defaultness,
        sig,
        body,
    } = item;
    let edge = return_edge(declared_return(&sig.output).as_ref(), &private(args));
    let inner = body.stream();
    let block = quote_spanned!(body.span()=> { #edge #inner });
    let place = returned(&sig.output);
    let run = run(args, place, call, &block);
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
        .map_or_else(|| returned(&sig.output), Place::start_of);
    let prepared = Ident::new("__idem_call", Span::mixed_site());
    let run = run(
        args,
        place,
        &prepared.to_token_stream(),
        &block.to_token_stream(),
    );
    quote! {
        #(#attrs)* #vis #defaultness #sig {
            #(#before)*
            let #prepared = #call;
            #pin(async move { #run })
        }
    }
}

fn returned(output: &ReturnType) -> Place {
    match output {
        ReturnType::Default => Place::start_of(&quote!()),
        ReturnType::Type(_, ty) => Place::start_of(ty),
    }
}
