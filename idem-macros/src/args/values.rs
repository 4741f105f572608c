//! The values of single arguments. An error is shown at the value, and says what the argument takes.

use std::time::Duration;

use proc_macro2::Ident;
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::spanned::Spanned;
use syn::{Expr, ExprLit, Lit, LitBool, LitInt, LitStr, Token, parenthesized};

use crate::form::Form;

pub(crate) enum KeySource {
    /// The name of a header, or of a gRPC call's metadata.
    Header(LitStr),
    Expr(Expr),
}

pub(crate) enum Time {
    Literal(Duration),
    Expr(Expr),
}

#[derive(Clone, Copy)]
pub(crate) enum InFlight {
    Reject,
    Wait(Duration),
    Attach(Duration),
}

#[derive(Clone, Copy)]
pub(crate) enum OnCrash {
    Rerun,
    Refuse,
}

#[derive(Clone, Copy)]
pub(crate) enum Errors {
    Release,
    Store,
}

pub(super) fn value<T: Parse>(name: &Ident, input: ParseStream<'_>) -> syn::Result<T> {
    equals(name, input)?;
    input.parse()
}

/// A literal. The error says what is expected, where `syn` would name a kind of token.
fn literal<T: Parse>(input: ParseStream<'_>, expected: &str) -> syn::Result<T> {
    input
        .parse()
        .map_err(|error| syn::Error::new(error.span(), expected))
}

/// The `=` before a value. It is an error if no value follows.
fn equals(name: &Ident, input: ParseStream<'_>) -> syn::Result<()> {
    if input.parse::<Token![=]>().is_err() {
        return Err(syn::Error::new(
            name.span(),
            format!("`{name}` takes a value: `{name} = …`"),
        ));
    }
    if input.is_empty() || input.peek(Token![,]) {
        return Err(syn::Error::new(
            name.span(),
            format!("the value of `{name}` is missing"),
        ));
    }
    Ok(())
}

pub(super) fn list<T>(
    name: &Ident,
    input: ParseStream<'_>,
    mut item: impl FnMut(ParseStream<'_>) -> syn::Result<T>,
) -> syn::Result<Vec<T>> {
    if !input.peek(syn::token::Paren) {
        return Err(syn::Error::new(
            name.span(),
            format!("`{name}` takes a list: `{name}(…)`"),
        ));
    }
    let content;
    parenthesized!(content in input);
    if content.is_empty() {
        return Err(syn::Error::new(
            name.span(),
            format!("the list of `{name}` is empty"),
        ));
    }
    let mut items = Vec::new();
    while !content.is_empty() {
        items.push(item(&content)?);
        if !content.is_empty() {
            content.parse::<Token![,]>()?;
        }
    }
    Ok(items)
}

pub(super) fn operation_name(name: &Ident, input: ParseStream<'_>) -> syn::Result<LitStr> {
    equals(name, input)?;
    let text: LitStr = literal(
        input,
        "the name is a string literal, such as \"charges.create\", because stored records depend on it",
    )?;
    if text.value().is_empty() {
        return Err(syn::Error::new(
            text.span(),
            "the name is empty; write one such as \"charges.create\"",
        ));
    }
    Ok(text)
}

pub(super) fn boolean(name: &Ident, input: ParseStream<'_>) -> syn::Result<bool> {
    equals(name, input)?;
    let value: LitBool = literal(input, &format!("`{name}` is `true` or `false`"))?;
    Ok(value.value)
}

pub(super) fn argument_name(input: ParseStream<'_>) -> syn::Result<Ident> {
    let name = input.call(Ident::parse_any);
    match name {
        Ok(name) if input.is_empty() || input.peek(Token![,]) => Ok(name),
        _ => Err(input.error(
            "`skip` takes names of arguments; to compare parts of an argument, name them with `fingerprint(…)`",
        )),
    }
}

pub(super) fn http_status(input: ParseStream<'_>) -> syn::Result<u16> {
    let literal: LitInt = literal(
        input,
        "`release` takes statuses as numbers, such as `release(409, 429)`",
    )?;
    match literal.base10_parse() {
        Ok(status @ 300..=599) => Ok(status),
        Ok(200..=299) => Err(syn::Error::new(
            literal.span(),
            "a 2xx status says that the request was processed: its key cannot be freed",
        )),
        _ => Err(syn::Error::new(
            literal.span(),
            "`release` takes statuses from 300 to 599",
        )),
    }
}

/// The gRPC codes of failed calls, in the order of their numbers, from 1.
const GRPC_CODES: [&str; 16] = [
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// A gRPC code by the name that the specification gives it.
pub(super) fn grpc_code(input: ParseStream<'_>) -> syn::Result<u16> {
    const EXPECTED: &str =
        "`release` takes gRPC codes by name, such as `release(UNAVAILABLE, ABORTED)`";
    let name = input
        .call(Ident::parse_any)
        .map_err(|error| syn::Error::new(error.span(), EXPECTED))?;
    (1..)
        .zip(GRPC_CODES)
        .find(|(_, code)| name == code)
        .map(|(number, _)| number)
        .ok_or_else(|| syn::Error::new(name.span(), EXPECTED))
}

pub(super) fn key(form: Form, name: &Ident, input: ParseStream<'_>) -> syn::Result<KeySource> {
    let is_call_to = |source: &str| {
        let ahead = input.fork();
        ahead.parse::<Token![=]>().is_ok()
            && ahead.parse::<Ident>().is_ok_and(|word| word == source)
            && ahead.peek(syn::token::Paren)
    };
    let is_metadata = form == Form::Tonic && is_call_to("metadata");
    if !is_metadata && !is_call_to("header") {
        return value(name, input).map(KeySource::Expr);
    }
    let header: Expr = value(name, input)?;
    let name = match without_parentheses(&header) {
        Expr::Call(call) => match call.args.first() {
            Some(name) if call.args.len() == 1 => string_literal(name),
            _ => None,
        },
        _ => None,
    };
    match (form, name) {
        (Form::Function, Some(_)) => Err(syn::Error::new_spanned(
            &header,
            format!(
                "`header(…)` belongs to the handler form: use `{}`, or make the key from the arguments",
                Form::HANDLER_IMPORT
            ),
        )),
        // A call of the user's own function.
        (Form::Function, None) => Ok(KeySource::Expr(header)),
        (Form::Tonic, Some(name)) if is_metadata => metadata_name(name).map(KeySource::Header),
        (Form::Tonic, None) if is_metadata => Err(syn::Error::new_spanned(
            &header,
            "`metadata` takes one name in quotes: `metadata(\"idempotency-key\")`",
        )),
        (Form::Tonic, _) => Err(syn::Error::new_spanned(
            &header,
            "a gRPC call has metadata: write `metadata(\"idempotency-key\")`",
        )),
        (_, Some(name)) => header_name(name).map(KeySource::Header),
        (_, None) => Err(syn::Error::new_spanned(
            &header,
            "`header` takes one name in quotes: `header(\"Idempotency-Key\")`",
        )),
    }
}

/// An expression without parentheses, and without the group in which `macro_rules!` captures one.
pub(crate) fn without_parentheses(expr: &Expr) -> &Expr {
    match expr {
        Expr::Group(group) => without_parentheses(&group.expr),
        Expr::Paren(paren) => without_parentheses(&paren.expr),
        _ => expr,
    }
}

/// The text of a string literal.
fn string_literal(expr: &Expr) -> Option<&LitStr> {
    match without_parentheses(expr) {
        Expr::Lit(ExprLit {
            lit: Lit::Str(text),
            ..
        }) => Some(text),
        _ => None,
    }
}

fn header_name(text: &LitStr) -> syn::Result<LitStr> {
    let name = text.value();
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(syn::Error::new(
            text.span(),
            format!("\"{name}\" is not a header name; write one such as \"Idempotency-Key\""),
        ));
    }
    Ok(text.clone())
}

fn metadata_name(text: &LitStr) -> syn::Result<LitStr> {
    let name = text.value();
    let is_allowed = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'_' | b'-' | b'.');
    if name.is_empty() || !name.bytes().all(is_allowed) {
        return Err(syn::Error::new(
            text.span(),
            format!(
                "\"{name}\" is not a metadata key; write one in lower case, such as \"idempotency-key\""
            ),
        ));
    }
    if name.ends_with("-bin") {
        return Err(syn::Error::new(
            text.span(),
            "an idempotency key is text: name metadata that does not end in \"-bin\"",
        ));
    }
    Ok(text.clone())
}

impl Parse for Time {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let expr: Expr = input.parse()?;
        if let Some(text) = string_literal(&expr) {
            return duration(text, &text.value()).map(Self::Literal);
        }
        match without_parentheses(&expr) {
            Expr::Lit(literal) => Err(syn::Error::new(
                literal.span(),
                "a duration is written in quotes, with its unit: \"90s\", \"24h\", \"7d\" or \"1h 30m\"",
            )),
            _ => Ok(Self::Expr(expr)),
        }
    }
}

/// A duration in a literal. An error is shown at the literal.
fn duration(literal: &LitStr, text: &str) -> syn::Result<Duration> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err(syn::Error::new(
            literal.span(),
            "the duration is zero; write one such as \"24h\"",
        )),
        Ok(duration) => Ok(duration),
        Err(_) => Err(syn::Error::new(
            literal.span(),
            format!("\"{text}\" is not a duration; write \"90s\", \"24h\", \"7d\" or \"1h 30m\""),
        )),
    }
}

impl Parse for InFlight {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        const WORDS: &str =
            "`in_flight` is \"reject\", \"wait\", \"wait 5s\", \"attach\" or \"attach 5s\"";
        let literal: LitStr = literal(input, WORDS)?;
        let text = literal.value();
        match text.split_once(' ') {
            None if text == "reject" => Ok(Self::Reject),
            None if text == "wait" => Ok(Self::Wait(Duration::MAX)),
            None if text == "attach" => Ok(Self::Attach(Duration::MAX)),
            Some(("wait", time)) => duration(&literal, time).map(Self::Wait),
            Some(("attach", time)) => duration(&literal, time).map(Self::Attach),
            _ => Err(syn::Error::new(literal.span(), WORDS)),
        }
    }
}

/// Parses an argument whose value is one of some words.
macro_rules! one_of {
    ($type:ident, $message:literal, $($word:literal => $variant:ident),*) => {
        impl Parse for $type {
            fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
                let literal: LitStr = literal(input, $message)?;
                match &*literal.value() {
                    $($word => Ok(Self::$variant),)*
                    _ => Err(syn::Error::new(literal.span(), $message)),
                }
            }
        }
    };
}

one_of!(OnCrash, "`on_crash` is \"rerun\" or \"refuse\"", "rerun" => Rerun, "refuse" => Refuse);
one_of!(Errors, "`errors` is \"release\" or \"store\"", "release" => Release, "store" => Store);
