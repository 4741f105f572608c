//! The attribute's arguments, parsed and checked. One pass finds every mistake. Each has one message, at
//! the tokens that cause it.

mod values;

use proc_macro2::{Span, TokenStream};
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream, Parser};
use syn::{Expr, Ident, LitStr, Path, Token};

pub(crate) use self::values::{Errors, InFlight, KeySource, OnCrash, Time, without_parentheses};
use self::values::{
    argument_name, boolean, grpc_code, http_status, key, list, operation_name, value,
};
use crate::form::Form;
use crate::mistakes::Mistakes;

/// The forms that have an argument.
#[derive(Clone, Copy)]
enum Forms {
    All,
    Function,
    Handlers,
}

impl Forms {
    const fn include(self, form: Form) -> bool {
        match self {
            Self::All => true,
            Self::Function => !form.is_handler(),
            Self::Handlers => form.is_handler(),
        }
    }
}

/// Every argument, in the order of the documentation.
const ARGUMENTS: [(&str, Forms); 16] = [
    ("key", Forms::All),
    ("ttl", Forms::All),
    ("scope", Forms::All),
    ("name", Forms::All),
    ("fingerprint", Forms::All),
    ("skip", Forms::Function),
    ("in_flight", Forms::All),
    ("lease", Forms::All),
    ("deadline", Forms::All),
    ("on_crash", Forms::All),
    ("release", Forms::Handlers),
    ("errors", Forms::Function),
    ("required", Forms::Handlers),
    ("transaction", Forms::All),
    ("engine", Forms::All),
    ("crate", Forms::All),
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
    pub(crate) deadline: Option<Time>,
    pub(crate) on_crash: Option<OnCrash>,
    pub(crate) release: Option<Vec<u16>>,
    pub(crate) errors: Option<Errors>,
    pub(crate) required: Option<bool>,
    pub(crate) transaction: Option<Expr>,
    pub(crate) engine: Option<Expr>,
    pub(crate) crate_path: Option<Path>,
}

impl Args {
    /// Parses what is well-formed, and adds a mistake for everything else.
    pub(crate) fn parse(form: Form, tokens: TokenStream, mistakes: &mut Mistakes) -> Self {
        let mut args = Self::default();
        // The names of all arguments that were given. One with a mistake is not reported as missing, too.
        let mut given = Vec::new();
        let parse = |input: ParseStream<'_>| {
            while !input.is_empty() {
                if let Err(error) = args.parse_one(form, input, &mut given, mistakes) {
                    mistakes.add(error);
                    skip_argument(input);
                }
                if !input.is_empty() && input.parse::<Token![,]>().is_err() {
                    mistakes.add(input.error("expected `,` between arguments"));
                    given.extend(skip_argument(input));
                    let _ = input.parse::<Token![,]>();
                }
            }
            Ok(())
        };
        // An error here is about tokens left over in a list whose mistake is reported already.
        let _ = Parser::parse2(parse, tokens);
        args.check(form, &given, mistakes);
        args
    }

    fn parse_one(
        &mut self,
        form: Form,
        input: ParseStream<'_>,
        given: &mut Vec<String>,
        mistakes: &mut Mistakes,
    ) -> syn::Result<()> {
        let name = input.call(Ident::parse_any).map_err(|error| {
            syn::Error::new(
                error.span(),
                "expected an argument's name, such as `ttl = \"24h\"`",
            )
        })?;
        let word = name.to_string();
        let Some((_, forms)) = ARGUMENTS.iter().find(|(known, _)| *known == word) else {
            let closest = closest(form, &word);
            given.extend(closest.map(str::to_owned));
            return Err(unknown(form, &name, closest));
        };
        if !forms.include(form) {
            return Err(of_another_form(form, &name));
        }
        if given.contains(&word) {
            mistakes.at(&name, format!("`{name}` is given twice"));
        }
        given.push(word.clone());
        match &*word {
            "key" => self.key = Some(key(form, &name, input)?),
            "ttl" => self.ttl = Some(value(&name, input)?),
            "scope" => self.scope = Some(value(&name, input)?),
            "name" => self.name = Some(operation_name(&name, input)?),
            "fingerprint" => self.fingerprint = Some(list(&name, input, Expr::parse)?),
            "skip" => self.skip = Some(list(&name, input, argument_name)?),
            "in_flight" => self.in_flight = Some(in_flight(form, &name, input, mistakes)?),
            "lease" => self.lease = Some(value(&name, input)?),
            "deadline" => self.deadline = Some(value(&name, input)?),
            "on_crash" => self.on_crash = Some(value(&name, input)?),
            "release" if form == Form::Tonic => {
                self.release = Some(list(&name, input, grpc_code)?);
            }
            "release" => self.release = Some(list(&name, input, http_status)?),
            "errors" => self.errors = Some(value(&name, input)?),
            "required" => self.required = Some(boolean(&name, input)?),
            "transaction" if form == Form::Tonic => {
                return Err(syn::Error::new(
                    name.span(),
                    "`transaction` is not for gRPC methods: call a function that has `idem::idempotent` with `transaction`",
                ));
            }
            "transaction" => self.transaction = Some(value(&name, input)?),
            "engine" => self.engine = Some(value(&name, input)?),
            _ => self.crate_path = Some(value(&name, input)?),
        }
        Ok(())
    }

    /// Mistakes that no argument has by itself: what is missing, and what contradicts.
    fn check(&self, form: Form, given: &[String], mistakes: &mut Mistakes) {
        let missing = |name: &str| !given.iter().any(|given| given == name);
        if missing("key") {
            let example = match form {
                Form::Function => "order.id",
                Form::Tonic => "metadata(\"idempotency-key\")",
                _ => "header(\"Idempotency-Key\")",
            };
            mistakes.add(syn::Error::new(
                Span::call_site(),
                format!(
                    "`key` is missing: write what names one intended operation, such as `key = {example}`"
                ),
            ));
        }
        if missing("ttl") {
            mistakes.add(syn::Error::new(
                Span::call_site(),
                "`ttl` is missing: write how long a retry gets the stored outcome, such as `ttl = \"24h\"`",
            ));
        }
        if let Some(transaction) = &self.transaction {
            let contradiction = if !missing("lease") {
                Some(
                    "`lease` contradicts `transaction`: a transaction holds its claim until it ends, without a lease",
                )
            } else if !missing("on_crash") {
                Some(
                    "`on_crash` contradicts `transaction`: a crash rolls back the claim and what the body wrote in it, so the next claim runs; what the body does elsewhere, such as at a payment provider, is not rolled back: do that in an operation of its own, where `on_crash` has a meaning",
                )
            } else if matches!(self.in_flight, Some(InFlight::Attach(_))) {
                Some(
                    "`in_flight = \"attach\"` contradicts `transaction`: what a transaction answers is shared with nobody before its commit; write \"wait\"",
                )
            } else if self.required == Some(false) {
                Some(
                    "`required = false` contradicts `transaction`: without a key nothing is claimed, and the transaction begins with the claim",
                )
            } else {
                None
            };
            if let Some(contradiction) = contradiction {
                mistakes.at(transaction, contradiction);
            }
        }
        if let (Some(_), Some([skipped, ..])) = (&self.fingerprint, self.skip.as_deref()) {
            mistakes.at(
                skipped,
                "`skip` contradicts `fingerprint`: only what `fingerprint` names is part of the fingerprint",
            );
        }
    }
}

fn in_flight(
    form: Form,
    name: &Ident,
    input: ParseStream<'_>,
    mistakes: &mut Mistakes,
) -> syn::Result<InFlight> {
    let in_flight = value(name, input)?;
    if matches!(in_flight, InFlight::Attach(_)) && !form.has_streams() {
        mistakes.at(
            name,
            "`in_flight = \"attach\"` joins an HTTP response that is on its way, and this function gives a value, which is there at once: write \"wait\"",
        );
    }
    Ok(in_flight)
}

/// The argument whose name is most like `word`, if any is.
fn closest(form: Form, word: &str) -> Option<&'static str> {
    ARGUMENTS
        .iter()
        .filter(|(_, forms)| forms.include(form))
        .map(|(known, _)| *known)
        .filter(|known| {
            let typos = strsim::osa_distance(known, word);
            typos <= (known.len() / 3).max(1) || known.len() > 3 && word.starts_with(known)
        })
        .min_by_key(|known| strsim::osa_distance(known, word))
}

fn unknown(form: Form, name: &Ident, closest: Option<&str>) -> syn::Error {
    let meant = closest.map_or_else(
        || "the".to_owned(),
        |known| format!("did you mean `{known}`? The"),
    );
    let known: Vec<_> = ARGUMENTS
        .iter()
        .filter(|(_, forms)| forms.include(form))
        .map(|(known, _)| format!("`{known}`"))
        .collect();
    syn::Error::new(
        name.span(),
        format!(
            "unknown argument `{name}`: {meant} arguments are {}",
            known.join(", ")
        ),
    )
}

fn of_another_form(form: Form, name: &Ident) -> syn::Error {
    let message = match (form, &*name.to_string()) {
        (Form::Function, _) => format!(
            "`{name}` belongs to the handler form: use `{}`",
            Form::HANDLER_IMPORT
        ),
        (Form::Tonic, "errors") => "`errors` belongs to the function form: in a gRPC method the status's code decides, see `release(…)`".to_owned(),
        (Form::Tonic, "skip") => "`skip` belongs to the function form: in a gRPC method the whole message is part of the fingerprint, or what `fingerprint(…)` names".to_owned(),
        (_, "errors") => "`errors` belongs to the function form: in a handler the response's status decides, see `release(…)`".to_owned(),
        (_, "skip") => "`skip` belongs to the function form: in a handler the whole request is part of the fingerprint, or what `fingerprint(…)` names".to_owned(),
        _ => format!("`{name}` belongs to the function form: use `idem::idempotent`"),
    };
    syn::Error::new(name.span(), message)
}

/// Moves on to the comma before the next argument. Returns the names of arguments that it has passed.
fn skip_argument(input: ParseStream<'_>) -> Vec<String> {
    let mut passed = Vec::new();
    while !input.is_empty() {
        if input.peek(Token![,]) {
            let ahead = input.fork();
            let starts_argument = ahead.parse::<Token![,]>().is_ok()
                && (ahead.is_empty()
                    || (ahead.call(Ident::parse_any).is_ok()
                        && (ahead.peek(Token![=]) || ahead.peek(syn::token::Paren))));
            if starts_argument {
                break;
            }
        }
        if let Ok(proc_macro2::TokenTree::Ident(word)) = input.parse()
            && input.peek(Token![=])
        {
            passed.push(word.to_string());
        }
    }
    passed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_a_row_for_every_argument_with_the_forms_that_have_it() {
        let table = include_str!("docs/arguments.md");
        let rows = table.lines().filter_map(|line| line.strip_prefix("| `"));
        let documented: Vec<_> = rows
            .map(|row| {
                let name = row.split(|end: char| !end.is_alphabetic() && end != '_');
                let meaning = row.rsplit(" | ").next().unwrap();
                let forms = match meaning.get(..3) {
                    Some("*F*") => "function",
                    Some("*H*") => "handlers",
                    _ => "all",
                };
                (name.into_iter().next().unwrap(), forms)
            })
            .collect();
        let parsed = ARGUMENTS.map(|(name, forms)| match forms {
            Forms::All => (name, "all"),
            Forms::Function => (name, "function"),
            Forms::Handlers => (name, "handlers"),
        });
        assert_eq!(documented, parsed);
    }
}
