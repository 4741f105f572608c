//! The handler form: the extractors stay as they are written, but for the last one, which may
//! read the body. It is wrapped, so that it runs only when the handler will.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::visit::Visit;
use syn::{
    Attribute, Expr, FnArg, GenericArgument, PatType, PathArguments, ReturnType, Token, Type,
    TypeImplTrait,
};

use super::{
    Place, check_key, check_transaction, conditional, database, engine, key_of, mixed, name,
    named_fingerprint, owned, policy, private, return_edge, scope, with_transaction,
};
use crate::args::{Args, Form, KeySource, Mistakes, Time};
use crate::item::{Item, bound_names, declared_return, mentions, returned_traits};

pub(super) fn expand(
    form: Form,
    args: &Args,
    item: &Item,
    mistakes: &mut Mistakes,
) -> Option<TokenStream> {
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
    let arguments: Vec<_> = item.arguments().collect();
    match form {
        Form::Actix => check_readers(&arguments, mistakes),
        Form::Axum => check_known_readers(&arguments, mistakes),
        Form::Poem | Form::Salvo => return owned::expand(form, args, item, mistakes),
        Form::Http => check_request(item, &arguments, mistakes),
        _ => {}
    }
    build(form, args, item)
}

/// Only the last argument gets the request's body.
pub(super) fn check_readers(arguments: &[&PatType], mistakes: &mut Mistakes) {
    check_order(arguments, &BODY_READERS, mistakes);
}

/// The same where the types say who reads the body, but not to people: what is named as axum's own
/// extractors are.
fn check_known_readers(arguments: &[&PatType], mistakes: &mut Mistakes) {
    const KNOWN: [&str; 7] = [
        "Bytes",
        "BytesMut",
        "Form",
        "Json",
        "Multipart",
        "RawForm",
        "String",
    ];
    check_order(arguments, &KNOWN, mistakes);
}

fn check_order(arguments: &[&PatType], readers: &[&str], mistakes: &mut Mistakes) {
    let Some((_, before)) = arguments.split_last() else {
        return;
    };
    for argument in before.iter().filter(|it| is_one_of(&it.ty, readers)) {
        mistakes.at(
            argument,
            "this argument reads the request's body: put it last, so that what stands before it, such as authentication, runs first",
        );
    }
}

fn check_request(item: &Item, arguments: &[&PatType], mistakes: &mut Mistakes) {
    if arguments.is_empty() {
        mistakes.at(
            &item.sig.ident,
            "an idempotent function of a request takes it as its last argument, such as `request: http::Request<Bytes>`",
        );
    }
    let is_request = |argument: &PatType| match &*argument.ty {
        Type::Path(path) => (path.path.segments.last()).is_some_and(|last| last.ident == "Request"),
        _ => false,
    };
    if let Some((last, before)) = arguments.split_last()
        && !is_request(last)
        && let Some(request) = before.iter().find(|argument| is_request(argument))
    {
        mistakes.at(
            request,
            "the request is the last argument of an idempotent function of a request",
        );
    }
    match &item.sig.output {
        ReturnType::Type(_, ty) if !has_unnamed(ty) => {}
        ReturnType::Type(_, ty) => mistakes.at(
            ty,
            "name the type of the response's body: what is given back from the store has the same type",
        ),
        ReturnType::Default => mistakes.at(
            &item.sig.ident,
            "an idempotent function of a request returns an `http::Response<B>` or a `Result` of one",
        ),
    }
}

fn has_unnamed(ty: &Type) -> bool {
    struct Unnamed(bool);
    impl Visit<'_> for Unnamed {
        fn visit_type_impl_trait(&mut self, _: &TypeImplTrait) {
            self.0 = true;
        }
    }
    let mut unnamed = Unnamed(false);
    unnamed.visit_type(ty);
    unnamed.0
}

/// The extractors of any framework that are known to read the body.
const BODY_READERS: [&str; 20] = [
    "Body",
    "Bytes",
    "BytesMut",
    "Either",
    "Form",
    "FormBody",
    "FormFile",
    "FormFiles",
    "Json",
    "JsonBody",
    "Multipart",
    "MultipartForm",
    "Payload",
    "Protobuf",
    "String",
    "TempFile",
    "TypedMultipart",
    "Vec",
    "Xml",
    "Yaml",
];

/// Whether a type is known to read the body.
pub(super) fn reads_body(ty: &Type) -> bool {
    is_one_of(ty, &BODY_READERS)
}

/// By name. `Option<Json<T>>` and `Result<Json<T>, E>` read as `Json<T>` does.
fn is_one_of(ty: &Type, readers: &[&str]) -> bool {
    let Type::Path(path) = ty else {
        return false;
    };
    let Some(last) = path.path.segments.last() else {
        return false;
    };
    if last.ident != "Option" && last.ident != "Result" {
        return readers.iter().any(|known| last.ident == known);
    }
    match &last.arguments {
        PathArguments::AngleBracketed(arguments) => match arguments.args.first() {
            Some(GenericArgument::Type(inner)) => is_one_of(inner, readers),
            _ => false,
        },
        _ => false,
    }
}

fn build(form: Form, args: &Args, item: &Item) -> Option<TokenStream> {
    let support = private(args);
    let private = match form {
        Form::Actix => quote!(#support::actix),
        Form::Http => quote!(#support::http),
        _ => quote!(#support::axum),
    };
    let plan = plan(args, item, &support)?;
    let Item {
        attrs,
        vis,
        defaultness,
        sig,
        body,
    } = item;
    let (debug_check, attrs) = match form {
        Form::Axum => debug_check(args, attrs, item),
        _ => (None, attrs.iter().collect()),
    };

    let mut arguments: Vec<&PatType> = item.arguments().collect();
    let last = arguments.pop();
    let (last_attrs, last_lints, last_pattern, last_type) = match last {
        Some(last) => {
            let PatType { attrs, pat, ty, .. } = last;
            let (lints, others) = conditional::lints(attrs);
            (others, lints, pat.to_token_stream(), ty.to_token_stream())
        }
        None if form == Form::Axum => (
            Vec::new(),
            Vec::new(),
            quote!(_),
            quote!(#private::debug_handler_goes_below_idempotent::NoArgument),
        ),
        None => (
            Vec::new(),
            Vec::new(),
            quote!(_),
            quote!(#private::NoArgument),
        ),
    };
    let captured = Ident::new("__idem_captured", Span::mixed_site());
    let mut signature = sig.clone();
    let place = last.map_or_else(|| sig.ident.span(), Spanned::span);
    let mut inputs: Punctuated<FnArg, Token![,]> = arguments
        .into_iter()
        .map(|argument| FnArg::Typed(argument.clone()))
        .collect();
    let wrapped = match form {
        Form::Http => quote_spanned! {mixed(place)=>
            #(#last_attrs)* #captured: #private::Request<impl #private::Incoming>
        },
        _ => quote_spanned! {mixed(place)=>
            #(#last_attrs)* #captured: #private::Captured<#last_type>
        },
    };
    inputs.push(syn::parse2(wrapped).ok()?);
    signature.inputs = inputs;
    let refused = Ident::new("__idem_refused", Span::mixed_site());
    let (capture, answer, refusal) = match (&sig.output, form) {
        (ReturnType::Type(_, declared), Form::Http) => {
            let place = mixed(declared.span());
            let respond = quote_spanned!(place=> <#declared as #private::Respond>);
            (
                quote!(let #captured = #private::Captured::of(#captured);),
                quote!(#respond::Answer),
                quote!(#respond::refused(#refused)),
            )
        }
        _ => (
            TokenStream::new(),
            quote!(#private::Response),
            refused.to_token_stream(),
        ),
    };
    signature.output = syn::parse2(quote!(-> #answer)).ok()?;

    let returned = match &sig.output {
        ReturnType::Default => Place::start_of(&sig.ident),
        ReturnType::Type(_, ty) => Place::start_of(ty),
    };
    let edge = return_edge(declared_return(&sig.output).as_ref(), &support);
    let inner = body.stream();
    let block = quote_spanned!(body.span()=> { #edge #inner });
    let declared = traits_in_use(&sig.output);
    let planned = Ident::new("__idem_plan", Span::mixed_site());
    let admitted = Ident::new("__idem_admitted", Span::mixed_site());

    // One that may read no more than the head, as authentication does, is not put off.
    let is_unknown = form == Form::Actix && last.is_some_and(|last| !reads_body(&last.ty));
    let (early, parameter) = if is_unknown || needs_last_early(args, last) {
        let value = Ident::new("__idem_last", Span::mixed_site());
        // Its settings apply to the body as well, where it can be known before the body is read.
        let engine = match &args.engine {
            Some(engine) if !names_last(engine, last) => super::engine(args, &support),
            _ => quote!(::core::option::Option::None),
        };
        let early = quote! {
            let (#captured, #value) = match #private::Captured::extract(#captured, #engine).await {
                ::core::result::Result::Ok(extracted) => extracted,
                ::core::result::Result::Err(#refused) => return #refusal,
            };
            #(#last_lints)* let #last_pattern: #last_type = #value;
        };
        (early, quote!(_))
    } else {
        (
            TokenStream::new(),
            quote!(#(#last_lints)* #last_pattern: #last_type),
        )
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
            #capture
            #early
            let #planned = #plan;
            let #admitted = match #private::Captured::#admit(#captured, #planned).await {
                ::core::result::Result::Ok(admitted) => admitted,
                ::core::result::Result::Err(#refused) => return #refusal,
            };
            #run
        }
    })
}

/// Everything the adapter must know of the call, as one expression.
pub(super) fn plan(args: &Args, item: &Item, support: &TokenStream) -> Option<TokenStream> {
    plan_with(args, item, support, &quote!(#support::DEFAULT_RELEASE))
}

/// The same where other answers free a key.
pub(super) fn plan_with(
    args: &Args,
    item: &Item,
    support: &TokenStream,
    default_release: &TokenStream,
) -> Option<TokenStream> {
    let (declaration, name) = name::declare(args, item, support);
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
        None => default_release.clone(),
        Some(statuses) => quote!(&[#(#statuses),*]),
    };
    let borrowed = quote!(::std::borrow::Cow::Borrowed);
    let required = args.required.unwrap_or(true);
    let plan = quote_spanned! {Span::mixed_site()=>
        #support::Plan {
            engine: __idem_engine,
            name: #name.map(#borrowed),
            policy: __idem_policy,
            key: __idem_key,
            scope: __idem_scope,
            fingerprint: __idem_fingerprint,
            release: #borrowed(#release),
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
        #declaration
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
pub(super) fn needs_last_early(args: &Args, last: Option<&PatType>) -> bool {
    expressions(args).any(|expr| names_last(expr, last))
}

/// The expressions that are evaluated before the claim.
pub(super) fn expressions(args: &Args) -> impl Iterator<Item = &Expr> {
    let key = match &args.key {
        Some(KeySource::Expr(key)) => Some(key),
        _ => None,
    };
    let times = [&args.ttl, &args.lease].into_iter().flatten();
    let times = times.filter_map(|time| match time {
        Time::Expr(time) => Some(time),
        Time::Literal(_) => None,
    });
    key.into_iter()
        .chain(times)
        .chain(&args.scope)
        .chain(&args.engine)
        .chain(&args.transaction)
        .chain(args.fingerprint.iter().flatten())
}

pub(super) fn names_last(expr: &Expr, last: Option<&PatType>) -> bool {
    let names = last.map(|last| bound_names(&last.pat)).unwrap_or_default();
    mentions(&expr.to_token_stream(), &names)
}

/// The generated function returns another type. The traits of the user's own (`impl
/// IntoResponse`) are named here, so that their imports stay in use.
pub(super) fn traits_in_use(output: &ReturnType) -> Option<TokenStream> {
    let traits = returned_traits(output);
    (!traits.is_empty()).then(|| {
        quote! {
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
