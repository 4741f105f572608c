//! From the parsed attribute to code. A [`Model`] is built once; each form writes from it.
//!
//! In the generated code every path is absolute, every variable has a scope of its own, and all
//! behaviour is behind calls to `__private`.

mod bindings;
mod check;
mod conditional;
mod expression;
mod extractors;
mod fingerprint;
mod function;
mod handler;
mod model;
mod name;
mod parts;
mod plan;
mod poem;
mod salvo;
mod span;
mod tonic;
mod transaction;

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};

use self::conditional::Conditions;
use self::model::Model;
use crate::args::Args;
use crate::form::Form;
use crate::item::Item;
use crate::mistakes::Mistakes;

/// The expansion. On a mistake, it is the function as it was beside one compile error.
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

/// The expansion of a function under these conditions. `tokens` is the function as it stays on a mistake.
fn expand_under(
    conditions: &Conditions,
    form: Form,
    written: TokenStream,
    item: &Item,
    tokens: TokenStream,
) -> TokenStream {
    if let Some(variants) = conditions.alternatives(item) {
        return variants
            .into_iter()
            .map(|(conditions, item)| {
                let mut conditional = item.clone();
                conditions.add_to(&mut conditional);
                let tokens = conditional.to_token_stream();
                expand_under(&conditions, form, written.clone(), &item, tokens)
            })
            .collect();
    }
    let mut mistakes = Mistakes::default();
    let mut args = Args::parse(form, written.clone(), &mut mistakes);
    args.skip = conditions.present(args.skip.take());
    let mut item = item.clone();
    conditions.add_to(&mut item);
    name::check(form, &args, &written, &item, &mut mistakes);
    let model = Model::of(form, &args, &item, &mut mistakes);
    match mistakes.into_error() {
        None => model.and_then(|model| write(&model)).unwrap_or(tokens),
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

fn write(model: &Model<'_>) -> Option<TokenStream> {
    match model.form {
        Form::Function => Some(function::expand(model)),
        Form::Axum | Form::Actix | Form::Http => handler::expand(model),
        Form::Poem => poem::expand(model),
        Form::Salvo => salvo::expand(model),
        Form::Tonic => tonic::expand(model),
    }
}

/// The function without its body, which would name a transaction that nothing brings into scope.
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
