//! What the forms write from: built once from the attribute and the function, after the checks.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{ReturnType, Type};

use super::bindings::Bindings;
use super::extractors::Extractors;
use super::parts::{self, PartArgument};
use super::span::{SpanRange, mixed_site_at};
use super::transaction::Transactional;
use super::{check, plan};
use crate::args::Args;
use crate::boxed::BoxedAsync;
use crate::form::Form;
use crate::item::{Item, declared_return, returned_traits};
use crate::mistakes::Mistakes;

pub(super) struct Model<'a> {
    pub(super) form: Form,
    pub(super) args: &'a Args,
    pub(super) item: &'a Item,
    /// `::idem::__private`, or where `crate = …` says.
    pub(super) support: TokenStream,
    /// What the framework's adapter offers, such as `::idem::__private::axum`.
    pub(super) adapter: TokenStream,
    /// The method as `#[async_trait]` has rewritten it.
    pub(super) boxed: Option<BoxedAsync>,
    pub(super) bindings: Bindings,
    pub(super) extractors: Extractors<'a>,
    /// The arguments of a salvo handler that are no extractors.
    pub(super) parts: Vec<PartArgument<'a>>,
    /// What the engine has to know of the call, as an expression.
    pub(super) plan: TokenStream,
    pub(super) body: Body,
    pub(super) transactional: Transactional,
}

impl<'a> Model<'a> {
    pub(super) fn of(
        form: Form,
        args: &'a Args,
        item: &'a Item,
        mistakes: &mut Mistakes,
    ) -> Option<Self> {
        let boxed = match form {
            Form::Function | Form::Tonic if item.sig.asyncness.is_none() => BoxedAsync::of(item),
            _ => None,
        };
        check::signature(form, item, boxed.is_some(), mistakes)?;
        let bindings = Bindings::of(item, boxed.as_ref());
        check::names(form, args, item, &bindings.names, mistakes);
        check::attributes(form, item, mistakes);
        let (arguments, parts) = match form {
            Form::Salvo => parts::split(args, item, mistakes)?,
            _ => (item.arguments().collect(), Vec::new()),
        };
        check::arguments(form, item, &arguments, mistakes);

        let support = support(args);
        let adapter = adapter(form, &support);
        let plan = match form {
            Form::Function => plan::of_call(args, item, &bindings, &support)?,
            Form::Tonic => {
                let release = quote!(#adapter::DEFAULT_RELEASE);
                plan::of_request(args, item, &release, &support)?
            }
            _ => {
                let release = quote!(#support::DEFAULT_RELEASE);
                plan::of_request(args, item, &release, &support)?
            }
        };
        let transactional = match args.transaction {
            None => Transactional::No,
            Some(_) => Transactional::Yes,
        };
        Some(Self {
            extractors: Extractors::of(form, args, &arguments, &support),
            body: Body::of(form, item, boxed.as_ref(), transactional, &support),
            form,
            args,
            item,
            support,
            adapter,
            boxed,
            bindings,
            parts,
            plan,
            transactional,
        })
    }

    /// Where the generated function returns another type: names the traits of the declared one
    /// (`impl IntoResponse`), so that their imports stay in use.
    pub(super) fn traits_in_use(&self) -> Option<TokenStream> {
        let traits = returned_traits(&self.item.sig.output);
        (!traits.is_empty()).then(|| {
            quote! {
                fn __idem_declared(#(_: impl #traits),*) {}
            }
        })
    }
}

fn support(args: &Args) -> TokenStream {
    match &args.crate_path {
        Some(path) => quote!(#path::__private),
        None => quote!(::idem::__private),
    }
}

fn adapter(form: Form, support: &TokenStream) -> TokenStream {
    match form {
        Form::Function => support.clone(),
        Form::Axum => quote!(#support::axum),
        Form::Actix => quote!(#support::actix),
        Form::Http => quote!(#support::http),
        Form::Poem => quote!(#support::poem),
        Form::Salvo => quote!(#support::salvo),
        Form::Tonic => quote!(#support::tonic),
    }
}

/// The function's body.
pub(super) struct Body {
    /// Where an error about the returned value is shown.
    pub(super) returned: SpanRange,
    /// The body with its return edge.
    pub(super) statements: TokenStream,
    /// The span of its braces.
    pub(super) braces: Span,
    transactional: Transactional,
}

impl Body {
    fn of(
        form: Form,
        item: &Item,
        boxed: Option<&BoxedAsync>,
        transactional: Transactional,
        support: &TokenStream,
    ) -> Self {
        let output = &item.sig.output;
        let declared_at = match output {
            ReturnType::Default => SpanRange::start_of(&item.sig.ident),
            ReturnType::Type(_, ty) => SpanRange::start_of(ty),
        };
        if let Some(boxed) = boxed {
            // `async_trait` has written a return edge.
            let statements = &boxed.block.stmts;
            return Self {
                returned: boxed.value_type().map_or(declared_at, SpanRange::start_of),
                statements: quote!(#(#statements)*),
                braces: boxed.block.brace_token.span.join(),
                transactional,
            };
        }
        let mut declared = declared_return(output);
        if matches!(form, Form::Poem | Form::Salvo) {
            // The type of a body that only diverges is not known otherwise.
            declared = declared.or_else(|| Some(syn::parse_quote!(())));
        }
        let edge = declared.map(|declared| return_edge(&declared, support));
        let body = item.body.stream();
        Self {
            returned: declared_at,
            statements: quote!(#edge #body),
            braces: item.body.span(),
            transactional,
        }
    }

    /// The future that runs the body. In a transaction its output is the transaction and the value.
    pub(super) fn future(&self) -> TokenStream {
        let statements = &self.statements;
        let block = quote_spanned!(self.braces=> { #statements });
        let async_move = self.returned.locate(quote!(async move));
        self.transactional.future(&async_move, &block)
    }
}

/// A branch that is never taken and returns the declared type: errors of `?` and of the body's value
/// then name that type.
///
/// It causes no lint. An `#[allow]` would be a warning in a crate that forbids the lint.
fn return_edge(declared: &Type, support: &TokenStream) -> TokenStream {
    quote_spanned! {mixed_site_at(declared.span())=>
        if false {
            let __idem_returned: #declared = #support::no_value();
            return __idem_returned;
        }
    }
}
