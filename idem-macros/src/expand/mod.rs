//! From the parsed attribute to code: what both forms share. Every path is absolute, every
//! local has a span of its own, and all behaviour is behind calls to `__private`.

mod conditional;
mod function;
mod handler;
mod name;
mod owned;
mod poem;
mod salvo;
mod tonic;

use std::time::Duration;

use proc_macro2::{Delimiter, Group, Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Expr, Type};

use conditional::Conditions;

use crate::args::{Args, Form, InFlight, KeySource, Mistakes, OnCrash, Time, bare};
use crate::item::{Item, mentions};

/// The expansion; on a mistake, the function as it was beside one compile error.
pub(crate) fn expand(form: Form, args: TokenStream, item: TokenStream) -> TokenStream {
    match syn::parse2::<Item>(item.clone()) {
        Ok(parsed) => expand_under(&Conditions::default(), form, args, &parsed, item),
        Err(error) => {
            let mut mistakes = Mistakes::default();
            Args::parse(form, args, &mut mistakes);
            mistakes.add(error);
            let error = mistakes.into_error().map(syn::Error::into_compile_error);
            quote!(#error #item)
        }
    }
}

/// The expansion of a function as it is under these conditions.
fn expand_under(
    conditions: &Conditions,
    form: Form,
    written: TokenStream,
    item: &Item,
    tokens: TokenStream,
) -> TokenStream {
    if let Some(variants) = conditions.split(item) {
        return variants
            .into_iter()
            .map(|(conditions, item)| {
                let mut shown = item.clone();
                conditions.put_on(&mut shown);
                let shown = shown.to_token_stream();
                expand_under(&conditions, form, written.clone(), &item, shown)
            })
            .collect();
    }
    let mut mistakes = Mistakes::default();
    let mut args = Args::parse(form, written.clone(), &mut mistakes);
    args.skip = conditions.present(args.skip.take());
    let mut item = item.clone();
    conditions.put_on(&mut item);
    name::check(form, &args, &written, &item, &mut mistakes);
    let expanded = match form {
        Form::Function => function::expand(&args, &item, &mut mistakes),
        Form::Tonic => tonic::expand(&args, &item, &mut mistakes),
        _ => handler::expand(form, &args, &item, &mut mistakes),
    };
    match mistakes.into_error() {
        None => expanded.unwrap_or(tokens),
        Some(error) => {
            let error = conditions.error(error);
            let item = match args.transaction {
                Some(_) => without_body(&item),
                None => tokens,
            };
            quote!(#error #item)
        }
    }
}

/// The function without what speaks of its transaction, which nothing brings into scope.
fn without_body(item: &Item) -> TokenStream {
    let Item {
        attrs,
        vis,
        defaultness,
        sig,
        ..
    } = item;
    quote! {
        #(#attrs)*
        #[allow(unused_variables, clippy::all)]
        #vis #defaultness #sig { loop {} }
    }
}

/// A key that names no argument would be the same for every call.
fn check_key(args: &Args, names: &[Ident], mistakes: &mut Mistakes) {
    let Some(KeySource::Expr(key)) = &args.key else {
        return;
    };
    if mentions(&key.to_token_stream(), names) {
        return;
    }
    let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    let arguments = if names.is_empty() {
        "it has none".to_owned()
    } else {
        format!("its arguments are {}", names.join(", "))
    };
    let meant = match key {
        Expr::Lit(literal) => format!(
            "; for a header of a handler's request write `header({})`",
            literal.to_token_stream()
        ),
        _ => String::new(),
    };
    mistakes.at(
        key,
        format!(
            "`key` names no argument of the function, so all calls would share one key; {arguments}{meant}"
        ),
    );
}

/// The name under which a body finds its transaction.
const TRANSACTION: &str = "tx";

/// The transaction's name belongs to the transaction.
fn check_transaction(args: &Args, names: &[Ident], mistakes: &mut Mistakes) {
    if args.transaction.is_none() {
        return;
    }
    for taken in names.iter().filter(|name| *name == TRANSACTION) {
        mistakes.at(
            taken,
            "the body gets its transaction as `tx`: give this argument another name",
        );
    }
}

/// The database of `transaction = …`, evaluated by reference.
fn database(source: &Expr, private: &TokenStream) -> TokenStream {
    let place = Place::of(source);
    let path = place.put(quote!(#private::database));
    let borrowed = place.parenthesize(&borrowed(source));
    by_reference(source, &quote!(#path #borrowed), private)
}

/// A call for what an expression of the user's gives: within a closure that cannot move what the
/// expression names, so that the error stands where it would. An expression that leaves the
/// function, or waits, is not in a closure.
fn by_reference(written: &Expr, call: &TokenStream, private: &TokenStream) -> TokenStream {
    if leaves_or_waits(&written.to_token_stream()) {
        return call.clone();
    }
    let place = Place::of(written);
    let path = place.put(quote!(#private::evaluated_by_reference));
    let closure = place.put(quote!(||));
    let closure = place.parenthesize(&quote!(#closure #call));
    quote!(#path #closure)
}

fn leaves_or_waits(tokens: &TokenStream) -> bool {
    tokens.clone().into_iter().any(|token| match token {
        TokenTree::Ident(word) => word == "await" || word == "return",
        TokenTree::Punct(punct) => punct.as_char() == '?',
        TokenTree::Group(group) => leaves_or_waits(&group.stream()),
        TokenTree::Literal(_) => false,
    })
}

/// A block that sees `tx`, and gives the transaction back with its value.
fn with_transaction(future: &TokenStream, block: &TokenStream) -> TokenStream {
    // The user's name, where the user's code can see it.
    let tx = Ident::new(TRANSACTION, Span::call_site());
    let owned = Ident::new("__idem_transaction", Span::mixed_site());
    let value = Ident::new("__idem_value", Span::mixed_site());
    quote! {
        async move {
            let #value = {
                let #tx = &mut #owned;
                (#future #block).await
            };
            (#owned, #value)
        }
    }
}

/// `::idem::__private`, or where `crate = …` says.
fn private(args: &Args) -> TokenStream {
    match &args.krate {
        Some(path) => quote!(#path::__private),
        None => quote!(::idem::__private),
    }
}

/// Where an error is to be shown, in what the user wrote.
#[derive(Clone, Copy)]
struct Place {
    start: Span,
    end: Span,
}

impl Place {
    /// From the first to the last token.
    fn of(written: &impl ToTokens) -> Self {
        let mut tokens = written.to_token_stream().into_iter();
        let first = tokens.next().map_or_else(Span::call_site, |it| it.span());
        let last = tokens.last().map_or(first, |it| it.span());
        Self {
            start: first,
            end: last,
        }
    }

    /// The first token only. The bounds of a call that is awaited are checked at the call and
    /// at the `await`: in one spot they are one message.
    fn start_of(written: &impl ToTokens) -> Self {
        let Self { start, .. } = Self::of(written);
        Self { start, end: start }
    }

    /// Moves generated code to this place. Names keep the scope they were made in.
    fn put(self, tokens: TokenStream) -> TokenStream {
        let mut place = self.start;
        tokens
            .into_iter()
            .map(|mut token| {
                token.set_span(token.span().located_at(place));
                place = self.end;
                token
            })
            .collect()
    }

    /// What the user wrote, in parentheses of its own place.
    fn parenthesize(self, written: &impl ToTokens) -> TokenStream {
        let mut group = Group::new(Delimiter::Parenthesis, written.to_token_stream());
        // One context with the generated tokens before it, so that rustc can join the spans.
        group.set_span(Span::call_site().located_at(self.end));
        group.to_token_stream()
    }
}

fn policy(args: &Args, private: &TokenStream) -> TokenStream {
    let ttl = match &args.ttl {
        Some(ttl) => time(ttl),
        None => return TokenStream::new(),
    };
    let mut policy = quote!(#private::Policy::new(#ttl));
    if let Some(lease) = &args.lease {
        let lease = time(lease);
        policy.extend(quote!(.lease(#lease)));
    }
    match args.in_flight {
        None | Some(InFlight::Reject) => {}
        Some(InFlight::Wait(limit)) => {
            let limit = literal(limit);
            policy.extend(quote!(.in_flight(#private::InFlight::Wait(#limit))));
        }
        Some(InFlight::Attach(limit)) => {
            let limit = literal(limit);
            policy.extend(quote!(.in_flight(#private::InFlight::Attach(#limit))));
        }
    }
    match args.on_crash {
        None | Some(OnCrash::Rerun) => {}
        Some(OnCrash::Refuse) => policy.extend(quote!(.on_crash(#private::OnCrash::Refuse))),
    }
    policy
}

fn time(time: &Time) -> TokenStream {
    match time {
        Time::Literal(duration) => literal(*duration),
        Time::Expr(expr) => expr.to_token_stream(),
    }
}

fn literal(duration: Duration) -> TokenStream {
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
    quote!(::core::time::Duration::new(#seconds, #nanos))
}

/// A key or a scope, evaluated by reference.
fn key_of(expr: &Expr, private: &TokenStream) -> TokenStream {
    let place = Place::of(expr);
    let path = place.put(quote!(#private::Key::of));
    let value = place.parenthesize(&borrowed(expr));
    by_reference(expr, &quote!(#path #value), private)
}

/// A reference to what an expression names. Of a tuple, which would move what it is made of,
/// a tuple of references.
fn borrowed(expr: &Expr) -> TokenStream {
    let place = Place::of(expr);
    let value = match bare(expr) {
        Expr::Tuple(tuple) if !tuple.elems.is_empty() => {
            let elements = tuple.elems.iter().map(borrowed);
            place.parenthesize(&quote!(#(#elements,)*))
        }
        _ => place.parenthesize(expr),
    };
    let reference = place.put(quote!(&));
    quote!(#reference #value)
}

fn scope(args: &Args, private: &TokenStream) -> TokenStream {
    match &args.scope {
        None => quote!(::core::option::Option::None),
        Some(scope) => {
            let scope = key_of(scope, private);
            quote!(::core::option::Option::Some(#scope))
        }
    }
}

fn engine(args: &Args, private: &TokenStream) -> TokenStream {
    match &args.engine {
        None => quote!(::core::option::Option::None),
        Some(engine) => {
            let place = Place::of(engine);
            let path = place.put(quote!(#private::given_engine));
            let borrowed = place.parenthesize(&borrowed(engine));
            by_reference(engine, &quote!(#path #borrowed), private)
        }
    }
}

/// A named reference that is a part of the fingerprint.
struct Part {
    name: String,
    place: Place,
    value: TokenStream,
    /// What adds it.
    adder: TokenStream,
}

/// Fingerprints named references, one call each, so that an error stands at its own value.
fn fingerprinter(parts: impl Iterator<Item = Part>, private: &TokenStream) -> TokenStream {
    let nothing = quote!(::core::result::Result::Ok(#private::Fingerprinter::new()));
    parts.fold(nothing, |before, part| {
        let Part {
            name, place, value, ..
        } = part;
        let parts = Ident::new("__idem_parts", Span::mixed_site());
        let adder = place.put(part.adder);
        let arguments = place.parenthesize(&quote!(#parts, #name, #value));
        let and = place.put(quote!(#private::evaluated_by_reference_and_counted));
        let closure = place.put(quote!(|#parts|));
        let both = place.parenthesize(&quote!(#before, #closure #adder #arguments));
        quote!(#and #both)
    })
}

/// Names parts by their position: what counts is what the expressions give.
fn named_fingerprint(exprs: &[Expr], private: &TokenStream) -> TokenStream {
    let parts = exprs.iter().enumerate().map(|(position, expr)| Part {
        name: position.to_string(),
        place: Place::of(expr),
        value: borrowed(expr),
        adder: quote!(#private::fingerprint),
    });
    fingerprinter(parts, private)
}

/// Pins the body's type where the declaration names one: `?` and mismatches then speak of it.
///
/// No lint has anything to say of it, so that none has to be allowed: where the user's crate forbids
/// them, that would be a warning of its own.
fn return_edge(declared: Option<&Type>, private: &TokenStream) -> TokenStream {
    declared.map_or_else(TokenStream::new, |declared| {
        quote_spanned! {mixed(declared.span())=>
            if false {
                let __idem_returned: #declared = #private::no_value();
                return __idem_returned;
            }
        }
    })
}

/// The place of `span` for errors, with names that the user's code cannot see.
fn mixed(span: Span) -> Span {
    Span::mixed_site().located_at(span)
}
