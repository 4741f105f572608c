//! The attribute's arguments, parsed and checked. Every mistake is found in one pass and gets
//! one message at its own place.

use std::time::Duration;

use proc_macro2::{Span, TokenStream};
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Expr, ExprLit, Ident, Lit, LitBool, LitInt, LitStr, Path, Token, parenthesized};

/// What the attribute is used on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Function,
    Axum,
}

impl Form {
    pub(crate) const fn is_handler(self) -> bool {
        !matches!(self, Self::Function)
    }

    /// What a user imports for the handler form.
    pub(crate) const HANDLER_IMPORT: &'static str = "idem::axum::idempotent";
}

/// Where an argument has a meaning.
const BOTH: [Form; 2] = [Form::Function, Form::Axum];
const FUNCTION: [Form; 1] = [Form::Function];
const HANDLER: [Form; 1] = [Form::Axum];

/// Every argument, in the order of the documentation.
const KNOWN: [(&str, &[Form]); 14] = [
    ("key", &BOTH),
    ("ttl", &BOTH),
    ("scope", &BOTH),
    ("name", &BOTH),
    ("fingerprint", &BOTH),
    ("skip", &FUNCTION),
    ("in_flight", &BOTH),
    ("lease", &BOTH),
    ("on_crash", &BOTH),
    ("release", &HANDLER),
    ("errors", &FUNCTION),
    ("required", &HANDLER),
    ("engine", &BOTH),
    ("crate", &BOTH),
];

/// The arguments of one attribute. `None` is the default.
#[derive(Default)]
pub(crate) struct Args {
    pub(crate) key: Option<KeySource>,
    pub(crate) ttl: Option<Time>,
    pub(crate) scope: Option<Expr>,
    pub(crate) name: Option<LitStr>,
    pub(crate) fingerprint: Option<Vec<Expr>>,
    pub(crate) skip: Option<Vec<Ident>>,
    pub(crate) in_flight: Option<InFlight>,
    pub(crate) lease: Option<Time>,
    pub(crate) on_crash: Option<OnCrash>,
    pub(crate) release: Option<Vec<u16>>,
    pub(crate) errors: Option<Errors>,
    pub(crate) required: Option<bool>,
    pub(crate) engine: Option<Expr>,
    pub(crate) krate: Option<Path>,
}

pub(crate) enum KeySource {
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

/// All mistakes of one attribute.
#[derive(Default)]
pub(crate) struct Mistakes(Option<syn::Error>);

impl Mistakes {
    pub(crate) fn add(&mut self, error: syn::Error) {
        match &mut self.0 {
            Some(all) => all.combine(error),
            None => self.0 = Some(error),
        }
    }

    pub(crate) fn at(&mut self, place: &impl Spanned, message: impl std::fmt::Display) {
        self.add(syn::Error::new(place.span(), message));
    }

    pub(crate) fn into_compile_error(self) -> Option<TokenStream> {
        self.0.map(syn::Error::into_compile_error)
    }
}

impl Args {
    /// Parses everything that can be, and notes every mistake.
    pub(crate) fn parse(form: Form, tokens: TokenStream, mistakes: &mut Mistakes) -> Self {
        let parse = |input: ParseStream<'_>| {
            let mut args = Self::default();
            while !input.is_empty() {
                if let Err(error) = args.parse_one(form, input, mistakes) {
                    mistakes.add(error);
                    skip_argument(input);
                }
                if !input.is_empty() && input.parse::<Token![,]>().is_err() {
                    mistakes.add(input.error("expected `,` between arguments"));
                    skip_argument(input);
                    let _ = input.parse::<Token![,]>();
                }
            }
            Ok(args)
        };
        let args = Parser::parse2(parse, tokens).unwrap_or_default();
        args.check(mistakes);
        args
    }

    fn parse_one(
        &mut self,
        form: Form,
        input: ParseStream<'_>,
        mistakes: &mut Mistakes,
    ) -> syn::Result<()> {
        let name = input.call(Ident::parse_any)?;
        let word = name.to_string();
        let Some((_, forms)) = KNOWN.iter().find(|(known, _)| *known == word) else {
            return Err(unknown(form, &name));
        };
        if !forms.contains(&form) {
            return Err(misplaced(form, &name));
        }
        match &*word {
            "key" => set(&mut self.key, &name, value(input)?, mistakes),
            "ttl" => set(&mut self.ttl, &name, value(input)?, mistakes),
            "scope" => set(&mut self.scope, &name, value(input)?, mistakes),
            "name" => set(&mut self.name, &name, non_empty(value(input)?)?, mistakes),
            "fingerprint" => set(&mut self.fingerprint, &name, list(input)?, mistakes),
            "skip" => set(&mut self.skip, &name, list(input)?, mistakes),
            "in_flight" => set(&mut self.in_flight, &name, value(input)?, mistakes),
            "lease" => set(&mut self.lease, &name, value(input)?, mistakes),
            "on_crash" => set(&mut self.on_crash, &name, value(input)?, mistakes),
            "release" => set(&mut self.release, &name, statuses(input)?, mistakes),
            "errors" => set(&mut self.errors, &name, value(input)?, mistakes),
            "required" => set(
                &mut self.required,
                &name,
                value::<LitBool>(input)?.value,
                mistakes,
            ),
            "engine" => set(&mut self.engine, &name, value(input)?, mistakes),
            _ => set(&mut self.krate, &name, value(input)?, mistakes),
        }
        if let ("key", Form::Function, Some(KeySource::Header(header))) = (&*word, form, &self.key)
        {
            mistakes.at(
                header,
                format!(
                    "`header(…)` belongs to the handler form: use `{}`, or name an argument",
                    Form::HANDLER_IMPORT
                ),
            );
        }
        Ok(())
    }

    /// What no argument alone can know.
    fn check(&self, mistakes: &mut Mistakes) {
        let whole = Span::call_site();
        if self.key.is_none() {
            mistakes.add(syn::Error::new(
                whole,
                "`key` is missing: what names one intended operation, such as `key = order.id` or, over a handler, `key = header(\"Idempotency-Key\")`",
            ));
        }
        if self.ttl.is_none() {
            mistakes.add(syn::Error::new(
                whole,
                "`ttl` is missing: how long a retry gets the stored outcome, such as `ttl = \"24h\"`",
            ));
        }
        if let (Some(_), Some(skip)) = (&self.fingerprint, &self.skip) {
            for skipped in skip {
                mistakes.at(
                    skipped,
                    "`skip` and `fingerprint` contradict each other: `fingerprint` names all that counts",
                );
            }
        }
    }
}

/// The one place where an argument's second coming is noticed.
fn set<T>(slot: &mut Option<T>, name: &Ident, value: T, mistakes: &mut Mistakes) {
    if slot.replace(value).is_some() {
        mistakes.at(name, format!("`{name}` is given twice"));
    }
}

fn unknown(form: Form, name: &Ident) -> syn::Error {
    let known = || {
        KNOWN
            .iter()
            .filter(|(_, forms)| forms.contains(&form))
            .map(|(known, _)| *known)
    };
    let word = name.to_string();
    let likely = known()
        .map(|known| (strsim::jaro_winkler(known, &word), known))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| format!("did you mean `{known}`? "))
        .unwrap_or_default();
    let known: Vec<_> = known().map(|known| format!("`{known}`")).collect();
    syn::Error::new(
        name.span(),
        format!(
            "unknown argument `{name}`; {likely}The arguments are {}",
            known.join(", ")
        ),
    )
}

fn misplaced(form: Form, name: &Ident) -> syn::Error {
    let message = if form.is_handler() {
        format!(
            "`{name}` belongs to the function form, `idem::idempotent`: a handler's whole response is judged by its status, see `release(…)`, and its whole request counts unless `fingerprint(…)` says otherwise"
        )
    } else {
        format!(
            "`{name}` belongs to the handler form: use `{}`",
            Form::HANDLER_IMPORT
        )
    };
    syn::Error::new(name.span(), message)
}

/// Moves on to the comma before the next argument.
fn skip_argument(input: ParseStream<'_>) {
    while !input.is_empty() {
        if input.peek(Token![,]) {
            let ahead = input.fork();
            let starts_argument = ahead.parse::<Token![,]>().is_ok()
                && (ahead.is_empty()
                    || (ahead.call(Ident::parse_any).is_ok()
                        && (ahead.peek(Token![=]) || ahead.peek(syn::token::Paren))));
            if starts_argument {
                return;
            }
        }
        let _ = input.parse::<proc_macro2::TokenTree>();
    }
}

fn value<T: Parse>(input: ParseStream<'_>) -> syn::Result<T> {
    input.parse::<Token![=]>()?;
    input.parse()
}

fn list<T: Parse>(input: ParseStream<'_>) -> syn::Result<Vec<T>> {
    let content;
    let parens = parenthesized!(content in input);
    let items = Punctuated::<T, Token![,]>::parse_terminated(&content)?;
    if items.is_empty() {
        return Err(syn::Error::new(parens.span.join(), "name at least one"));
    }
    Ok(items.into_iter().collect())
}

fn non_empty(text: LitStr) -> syn::Result<LitStr> {
    if text.value().is_empty() {
        return Err(syn::Error::new(text.span(), "the name is empty"));
    }
    Ok(text)
}

fn statuses(input: ParseStream<'_>) -> syn::Result<Vec<u16>> {
    let content;
    parenthesized!(content in input);
    let literals = Punctuated::<LitInt, Token![,]>::parse_terminated(&content)?;
    literals
        .iter()
        .map(|literal| match literal.base10_parse() {
            Ok(status @ 300..=599) => Ok(status),
            Ok(200..=299) => Err(syn::Error::new(
                literal.span(),
                "a 2xx status says that the request was processed: its key cannot be freed",
            )),
            _ => Err(syn::Error::new(
                literal.span(),
                "this is no HTTP status of a final refusal; `release` takes 300 to 599",
            )),
        })
        .collect()
}

impl Parse for KeySource {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        // `header` followed by one string; anything else is an expression of the user's.
        let ahead = input.fork();
        let is_header = ahead.parse::<Ident>().is_ok_and(|word| word == "header")
            && ahead.peek(syn::token::Paren);
        if !is_header {
            return input.parse().map(Self::Expr);
        }
        input.parse::<Ident>()?;
        let content;
        parenthesized!(content in input);
        let name: LitStr = content.parse().map_err(|error| {
            syn::Error::new(
                error.span(),
                "`header` takes one header name, such as `header(\"Idempotency-Key\")`",
            )
        })?;
        let is_token =
            |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.value().is_empty() || !name.value().bytes().all(is_token) {
            return Err(syn::Error::new(name.span(), "this is no header name"));
        }
        if content.is_empty() {
            Ok(Self::Header(name))
        } else {
            Err(content.error("`header` takes one header name"))
        }
    }
}

impl Parse for Time {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        match input.parse()? {
            Expr::Lit(ExprLit {
                lit: Lit::Str(text),
                ..
            }) => duration(&text, &text.value()).map(Self::Literal),
            Expr::Lit(literal) => Err(syn::Error::new(
                literal.span(),
                "a duration is written in quotes, with its unit: \"90s\", \"24h\", \"7d\" or \"1h 30m\"",
            )),
            expr => Ok(Self::Expr(expr)),
        }
    }
}

/// A duration in a literal; the error stands at the literal.
fn duration(literal: &LitStr, text: &str) -> syn::Result<Duration> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => {
            Err(syn::Error::new(literal.span(), "the duration is zero"))
        }
        Ok(duration) => Ok(duration),
        Err(_) => Err(syn::Error::new(
            literal.span(),
            format!("\"{text}\" is not a duration; write \"90s\", \"24h\", \"7d\" or \"1h 30m\""),
        )),
    }
}

impl Parse for InFlight {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let literal: LitStr = input.parse()?;
        let text = literal.value();
        match text.split_once(' ') {
            None if text == "reject" => Ok(Self::Reject),
            None if text == "wait" => Ok(Self::Wait(Duration::MAX)),
            Some(("wait", time)) => duration(&literal, time).map(Self::Wait),
            _ => Err(syn::Error::new(
                literal.span(),
                "`in_flight` is \"reject\", \"wait\" or \"wait 5s\"",
            )),
        }
    }
}

/// An argument whose value is one of two words.
macro_rules! words {
    ($type:ident, $message:literal, $($word:literal => $variant:ident),*) => {
        impl Parse for $type {
            fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
                let literal: LitStr = input.parse()?;
                match &*literal.value() {
                    $($word => Ok(Self::$variant),)*
                    _ => Err(syn::Error::new(literal.span(), $message)),
                }
            }
        }
    };
}

words!(OnCrash, "`on_crash` is \"rerun\" or \"refuse\"", "rerun" => Rerun, "refuse" => Refuse);
words!(Errors, "`errors` is \"release\" or \"store\"", "release" => Release, "store" => Store);
