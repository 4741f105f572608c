//! What the function has to be, and what the attribute's arguments may name.

use proc_macro2::{Ident, Span};
use quote::ToTokens;
use syn::visit::Visit;
use syn::{
    Attribute, Expr, ExprLit, GenericArgument, GenericParam, Lit, PatType, PathArguments, Receiver,
    ReceiverKind, ReturnType, Type, TypeImplTrait,
};

use super::extractors::{BODY_READERS, is_one_of};
use super::transaction;
use crate::args::{Args, KeySource, without_parentheses};
use crate::form::Form;
use crate::item::{Item, mentions};
use crate::mistakes::Mistakes;

/// The function's shape. `None` if no further check makes sense.
pub(super) fn signature(
    form: Form,
    item: &Item,
    is_boxed: bool,
    mistakes: &mut Mistakes,
) -> Option<()> {
    if item.sig.asyncness.is_none() && !is_boxed {
        let noun = match form {
            Form::Function => "function",
            Form::Tonic => "method",
            _ => "handler",
        };
        mistakes.at(
            &item.sig.fn_token,
            format!("an idempotent {noun} waits for its store: write `async fn`"),
        );
        return None;
    }
    match form {
        Form::Function => {
            returned_value(item, is_boxed, mistakes);
            Some(())
        }
        Form::Tonic => method(item, mistakes),
        _ => match item.sig.receiver() {
            None => Some(()),
            Some(receiver) => {
                mistakes.at(
                    receiver,
                    "a handler has no `self`: take what it needs as an extractor, such as `State`, or use `idem::idempotent` on a method",
                );
                None
            }
        },
    }
}

fn returned_value(item: &Item, is_boxed: bool, mistakes: &mut Mistakes) {
    if !is_boxed && matches!(item.sig.output, ReturnType::Default) {
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
}

/// The `&T` of a `Result<&T, E>`. The compiler refuses it, too, but its message names lifetimes that
/// the user did not write.
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

fn method(item: &Item, mistakes: &mut Mistakes) -> Option<()> {
    if let Some(exclusive) = item.sig.receiver().filter(|it| is_exclusive(it)) {
        mistakes.at(
            exclusive,
            "the body runs on a task of its own, with a clone of the service: take `&self`",
        );
    }
    if matches!(item.sig.output, ReturnType::Default) {
        mistakes.at(
            &item.sig.ident,
            "an idempotent method returns a `Result<Response<M>, Status>`",
        );
        return None;
    }
    if item.arguments().count() != 1 {
        mistakes.at(
            &item.sig.ident,
            "an idempotent method takes one message: `request: Request<M>`",
        );
        return None;
    }
    Some(())
}

/// `&mut self`, or `self: &mut Self`.
fn is_exclusive(receiver: &Receiver) -> bool {
    match &receiver.kind {
        ReceiverKind::Reference(_, _, mutability) => mutability.is_some(),
        ReceiverKind::Typed(_, ty) => {
            matches!(&**ty, Type::Reference(reference) if reference.mutability.is_some())
        }
        _ => false,
    }
}

/// What the attribute's arguments name is an argument of the function.
pub(super) fn names(
    form: Form,
    args: &Args,
    item: &Item,
    names: &[Ident],
    mistakes: &mut Mistakes,
) {
    skip(args, names, mistakes);
    transaction(args, names, mistakes);
    scope(form, args, mistakes);
    question_mark(form, args, mistakes);
    let mut names = names.to_vec();
    if matches!(form, Form::Function | Form::Tonic) && item.sig.receiver().is_some() {
        names.push(Ident::new("self", Span::call_site()));
    }
    key(form, args, &names, mistakes);
}

fn skip(args: &Args, names: &[Ident], mistakes: &mut Mistakes) {
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

/// An argument of the transaction's name would hide the transaction.
fn transaction(args: &Args, names: &[Ident], mistakes: &mut Mistakes) {
    if args.transaction.is_none() {
        return;
    }
    for taken in names.iter().filter(|name| *name == transaction::NAME) {
        mistakes.at(
            taken,
            "the body gets its transaction as `tx`: give this argument another name",
        );
    }
}

/// `header(…)` is no function: only a key is read from a header.
fn scope(form: Form, args: &Args, mistakes: &mut Mistakes) {
    let source = match form {
        // It may be the user's own function.
        Form::Function => return,
        Form::Tonic => "metadata",
        _ => "header",
    };
    let Some(scope) = &args.scope else {
        return;
    };
    if let Expr::Call(call) = without_parentheses(scope)
        && let Expr::Path(called) = &*call.func
        && called.path.is_ident(source)
    {
        mistakes.at(
            scope,
            format!(
                "`{source}(…)` is for `key`: a scope is an expression over the arguments, such as `tenant.id`, where `tenant` comes from what authenticates"
            ),
        );
    }
}

/// axum's handlers are called by a function that returns a response.
fn question_mark(form: Form, args: &Args, mistakes: &mut Mistakes) {
    if form != Form::Axum {
        return;
    }
    let key = match &args.key {
        Some(KeySource::Expr(key)) => Some(key),
        _ => None,
    };
    for (name, value) in [("key", key), ("scope", args.scope.as_ref())] {
        if let Some(value) = value
            && let Expr::Try(tried) = without_parentheses(value)
        {
            mistakes.at(
                &tried.question_token,
                format!("leave the `?` out: a `{name}` that is an `Err` is refused with 400"),
            );
        }
    }
}

/// A key that names no argument would be the same for every call.
fn key(form: Form, args: &Args, names: &[Ident], mistakes: &mut Mistakes) {
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
        Expr::Lit(ExprLit {
            lit: Lit::Str(name),
            ..
        }) => match form {
            Form::Tonic => format!(
                "; for the metadata of a call write `metadata({})`",
                name.to_token_stream()
            ),
            _ => format!(
                "; for a header of a handler's request write `header({})`",
                name.to_token_stream()
            ),
        },
        _ => String::new(),
    };
    mistakes.at(
        key,
        format!(
            "`key` names no argument of the function, so all calls would share one key; {arguments}{meant}"
        ),
    );
}

/// The attribute is there once, because twice it would claim within its own attempt. The framework's attribute
/// is below this one. Above, it would make the function a part of an endpoint,
/// and its extractors would run before this attribute's code.
pub(super) fn attributes(form: Form, item: &Item, mistakes: &mut Mistakes) {
    for again in item.attrs.iter().filter(|attr| is_this_one(attr)) {
        mistakes.at(
            again,
            "`#[idempotent]` stands over this function twice: leave one of them",
        );
    }
    let expected: &[&str] = match form {
        Form::Poem => &["handler"],
        Form::Salvo => &["handler", "endpoint"],
        _ => return,
    };
    let is_below = |attr: &Attribute| expected.iter().any(|name| is_named(attr, name));
    if !item.attrs.iter().any(is_below) {
        mistakes.at(
            &item.sig.ident,
            "`#[idempotent]` stands above the framework's attribute: write `#[idempotent(…)] #[handler] async fn …`",
        );
    }
}

fn is_this_one(attr: &Attribute) -> bool {
    let segments = &attr.path().segments;
    let is_of_this_library =
        segments.len() == 1 || segments.first().is_some_and(|first| first.ident == "idem");
    is_of_this_library && is_named(attr, "idempotent")
}

pub(super) fn is_named(attr: &Attribute, name: &str) -> bool {
    let last = attr.path().segments.last();
    last.is_some_and(|segment| segment.ident == name)
}

/// The arguments of a handler that are extracted.
pub(super) fn arguments(form: Form, item: &Item, arguments: &[&PatType], mistakes: &mut Mistakes) {
    match form {
        Form::Function | Form::Tonic => {}
        Form::Axum => body_is_last(arguments, &AXUM_BODY_READERS, mistakes),
        Form::Actix | Form::Poem => body_is_last(arguments, &BODY_READERS, mistakes),
        Form::Salvo => {
            body_is_last(arguments, &BODY_READERS, mistakes);
            no_type_parameters(item, mistakes);
        }
        Form::Http => {
            request_is_last(item, arguments, mistakes);
            response_is_named(item, mistakes);
        }
    }
}

/// In axum the types say who reads the body, but the compiler's message does not. These are the names
/// of axum's own.
const AXUM_BODY_READERS: [&str; 7] = [
    "Bytes",
    "BytesMut",
    "Form",
    "Json",
    "Multipart",
    "RawForm",
    "String",
];

/// Only the last argument gets the request's body.
fn body_is_last(arguments: &[&PatType], readers: &[&str], mistakes: &mut Mistakes) {
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

fn no_type_parameters(item: &Item, mistakes: &mut Mistakes) {
    for parameter in &item.sig.generics.params {
        if !matches!(parameter, GenericParam::Lifetime(_)) {
            mistakes.at(
                parameter,
                "a salvo handler has no type parameters: its router could not name them",
            );
        }
    }
}

fn request_is_last(item: &Item, arguments: &[&PatType], mistakes: &mut Mistakes) {
    let Some((last, before)) = arguments.split_last() else {
        mistakes.at(
            &item.sig.ident,
            "an idempotent function of a request takes it as its last argument, such as `request: http::Request<Bytes>`",
        );
        return;
    };
    let is_request = |argument: &PatType| match &*argument.ty {
        Type::Path(path) => (path.path.segments.last()).is_some_and(|last| last.ident == "Request"),
        _ => false,
    };
    if !is_request(last)
        && let Some(request) = before.iter().find(|argument| is_request(argument))
    {
        mistakes.at(
            request,
            "the request is the last argument of an idempotent function of a request",
        );
    }
}

fn response_is_named(item: &Item, mistakes: &mut Mistakes) {
    match &item.sig.output {
        ReturnType::Type(_, ty) if !has_impl_trait(ty) => {}
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

/// Whether a type contains an `impl Trait`.
fn has_impl_trait(ty: &Type) -> bool {
    struct ImplTrait(bool);
    impl Visit<'_> for ImplTrait {
        fn visit_type_impl_trait(&mut self, _: &TypeImplTrait) {
            self.0 = true;
        }
    }
    let mut found = ImplTrait(false);
    found.visit_type(ty);
    found.0
}
