//! What the engine has to know of a call, as one expression of the generated code.

use std::time::Duration;

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};

use super::bindings::Bindings;
use super::{expression, fingerprint, name};
use crate::args::{Args, InFlight, KeySource, OnCrash, Time};
use crate::item::{Item, mentions};

/// A function's call: `FunctionCall::new(…)`, beside its database if it has one.
pub(super) fn of_call(
    args: &Args,
    item: &Item,
    bindings: &Bindings,
    support: &TokenStream,
) -> Option<TokenStream> {
    let Some(KeySource::Expr(key)) = &args.key else {
        return None;
    };
    let skip = args.skip.as_deref().unwrap_or_default();
    let fingerprint = match &args.fingerprint {
        Some(exprs) => fingerprint::of_expressions(exprs, support),
        None => fingerprint::of_arguments(bindings, skip, support),
    };
    let is_left_out = args.fingerprint.is_some() || mentions(&key.to_token_stream(), skip);
    let key_argument = if is_left_out {
        quote!(#support::KeyArgument::LeftOut)
    } else {
        quote!(#support::KeyArgument::InFingerprint)
    };
    let (declaration, name) = name::declare(args, item, support);
    let plan = quote_spanned! {Span::mixed_site()=>
        #support::FunctionCall::new(
            __idem_engine, #name, __idem_policy, __idem_key, __idem_scope, __idem_fingerprint,
            #key_argument,
        )
    };
    let statements = &bindings.statements;
    let parts = PlanParts {
        before: quote!(#declaration #statements),
        key: expression::key(key, support),
        fingerprint,
        plan,
    };
    parts.into_expression(args, support)
}

/// A request's plan: `Plan { … }`, beside its database if it has one.
pub(super) fn of_request(
    args: &Args,
    item: &Item,
    default_release: &TokenStream,
    support: &TokenStream,
) -> Option<TokenStream> {
    let key = match args.key.as_ref()? {
        KeySource::Header(header) => {
            let name = header.value().to_ascii_lowercase();
            quote!(#support::KeySource::header(#name))
        }
        KeySource::Expr(key) => {
            let key = expression::key(key, support);
            quote!(#support::KeySource::Value(#key))
        }
    };
    let fingerprint = match &args.fingerprint {
        None => quote!(::core::option::Option::None),
        Some(exprs) => {
            let parts = fingerprint::of_expressions(exprs, support);
            quote!(::core::option::Option::Some(#parts))
        }
    };
    let release = match &args.release {
        None => default_release.clone(),
        Some(statuses) => quote!(&[#(#statuses),*]),
    };
    let (before, name) = name::declare(args, item, support);
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
    let parts = PlanParts {
        before,
        key,
        fingerprint,
        plan,
    };
    parts.into_expression(args, support)
}

/// What differs between the two plans.
struct PlanParts {
    /// Statements before the attribute's expressions.
    before: TokenStream,
    key: TokenStream,
    fingerprint: TokenStream,
    /// The plan, made of the variables that [`into_expression`](Self::into_expression) declares.
    plan: TokenStream,
}

impl PlanParts {
    fn into_expression(self, args: &Args, support: &TokenStream) -> Option<TokenStream> {
        let Self {
            before,
            key,
            fingerprint,
            plan,
        } = self;
        let policy = policy(args, support)?;
        let (scope, engine) = (
            expression::scope(args, support),
            expression::engine(args, support),
        );
        let plan = match &args.transaction {
            None => plan,
            Some(source) => {
                let database = expression::database(source, support);
                quote!((#plan, #database))
            }
        };
        // One statement each, so that what an expression locks or borrows is free before the next one.
        Some(quote_spanned! {Span::mixed_site()=> {
            #before
            let __idem_engine = #engine;
            let __idem_policy = #policy;
            let __idem_key = #key;
            let __idem_scope = #scope;
            let __idem_fingerprint = #fingerprint;
            #plan
        }})
    }
}

fn policy(args: &Args, support: &TokenStream) -> Option<TokenStream> {
    let ttl = time(args.ttl.as_ref()?);
    let mut policy = quote!(#support::Policy::new(#ttl));
    if let Some(lease) = &args.lease {
        let lease = time(lease);
        policy.extend(quote!(.lease(#lease)));
    }
    if let Some(deadline) = &args.deadline {
        let deadline = time(deadline);
        policy.extend(quote!(.deadline(#deadline)));
    }
    match args.in_flight {
        None | Some(InFlight::Reject) => {}
        Some(InFlight::Wait(limit)) => {
            let limit = literal(limit);
            policy.extend(quote!(.in_flight(#support::InFlight::Wait(#limit))));
        }
        Some(InFlight::Attach(limit)) => {
            let limit = literal(limit);
            policy.extend(quote!(.in_flight(#support::InFlight::Attach(#limit))));
        }
    }
    match args.on_crash {
        None | Some(OnCrash::Rerun) => {}
        Some(OnCrash::Refuse) => policy.extend(quote!(.on_crash(#support::OnCrash::Refuse))),
    }
    Some(policy)
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
