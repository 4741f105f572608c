//! The form for methods of a gRPC service: the signature stays as it is written. The body runs on a
//! task of its own, with a clone of the service in the place of `self`.

use proc_macro2::{Group, Ident, TokenStream, TokenTree};
use quote::{quote, quote_spanned};
use syn::{FnArg, Pat, PatType, Receiver, ReceiverKind, Signature, Type};

use super::bindings::destructured;
use super::conditional::lints;
use super::model::Model;
use super::span::{SpanRange, local};
use crate::boxed::BoxedAsync;
use crate::item::Item;

/// ```text
/// async fn charge(&self, request: Request<Order>) -> Result<Response<Charge>, Status> { BODY }
/// ```
///
/// becomes
///
/// ```text
/// async fn charge(&self, request: Request<Order>) -> Result<Response<Charge>, Status> {
///     let service = service(self);
///     let call = { let plan = { let key = …; Plan { … } }; Call::of(plan, &request) };
///     Call::run(call, Box::pin(async move { let this = &service; BODY })).await
/// }
/// ```
///
/// In `BODY`, `self` is `this`. A method that `#[async_trait]` has rewritten prepares its call where
/// `self` still has its name. The inner block is its body.
pub(super) fn expand(model: &Model<'_>) -> Option<TokenStream> {
    let Item {
        attrs,
        vis,
        defaultness,
        sig,
        ..
    } = model.item;
    let message = Message::of(model.item.arguments().next()?);
    let service = sig.receiver().map(|receiver| Service::of(model, receiver));
    let cloned = service.as_ref().map(|service| &service.cloned);
    let signature = message.signature(sig);
    let call = call(model, &message);
    let prepared = local("__idem_call");
    let run = run(model, &message, service.as_ref(), &prepared);
    Some(match &model.boxed {
        None => quote! {
            #(#attrs)* #vis #defaultness #signature {
                #cloned
                let #prepared = #call;
                #run
            }
        },
        Some(BoxedAsync { before, pin, .. }) => quote! {
            #(#attrs)* #vis #defaultness #signature {
                #(#before)*
                #cloned
                let #prepared = #call;
                #pin(async move { #run })
            }
        },
    })
}

/// The method's argument.
struct Message<'a> {
    argument: &'a PatType,
    /// Its name in the generated function.
    name: Ident,
    /// Whether the name is the user's.
    is_named: bool,
}

impl<'a> Message<'a> {
    fn of(argument: &'a PatType) -> Self {
        let (name, is_named) = match &*argument.pat {
            Pat::Ident(written) if written.subpat.is_none() => (written.ident.clone(), true),
            _ => (local("__idem_request"), false),
        };
        Self {
            argument,
            name,
            is_named,
        }
    }

    /// The signature with the name in the place of the pattern.
    fn signature(&self, written: &Signature) -> Signature {
        let mut signature = written.clone();
        if !self.is_named {
            let name = &self.name;
            for input in &mut signature.inputs {
                if let FnArg::Typed(typed) = input {
                    *typed.pat = syn::parse_quote!(#name);
                }
            }
        }
        signature
    }

    /// The pattern's names as references, for the attribute's expressions.
    fn borrowed(&self) -> Option<TokenStream> {
        (!self.is_named).then(|| destructured(&self.argument.pat, &self.name))
    }

    /// The pattern's names, for the body.
    fn taken(&self) -> Option<TokenStream> {
        let (lints, _) = lints(&self.argument.attrs);
        let (pattern, name) = (&self.argument.pat, &self.name);
        (!self.is_named).then(|| quote!(#(#lints)* let #pattern = #name;))
    }
}

fn call(model: &Model<'_>, message: &Message<'_>) -> TokenStream {
    let (tonic, plan) = (&model.adapter, &model.plan);
    let statements = &model.bindings.statements;
    let borrowed = message.borrowed();
    let (planned, name) = (local("__idem_plan"), &message.name);
    let range = SpanRange::of(&message.argument.ty);
    let path = range.locate(quote!(#tonic::Call::of));
    let reference = range.locate(quote!(&#name));
    let arguments = range.parenthesize(&quote!(#planned, #reference));
    quote! {{
        #statements
        #borrowed
        let #planned = #plan;
        #path #arguments
    }}
}

/// The service that the body owns.
struct Service {
    /// The statement that clones it.
    cloned: TokenStream,
    /// What the body has for `self`.
    this: Ident,
    /// The statement that declares it.
    borrowed: TokenStream,
}

impl Service {
    fn of(model: &Model<'_>, receiver: &Receiver) -> Self {
        let tonic = &model.adapter;
        let (service, this) = (local("__idem_service"), local("__idem_self"));
        let range = SpanRange::of(receiver);
        let path = range.locate(quote!(#tonic::service));
        let written = &receiver.self_token;
        let (value, used) = if is_reference(receiver) {
            (quote!(#written), quote!(&#service))
        } else {
            let reference = range.locate(quote!(&));
            (quote!(#reference #written), quote!(#service))
        };
        let value = range.parenthesize(&value);
        Self {
            cloned: quote!(let #service = #path #value;),
            borrowed: quote!(let #this = #used;),
            this,
        }
    }
}

fn is_reference(receiver: &Receiver) -> bool {
    match &receiver.kind {
        ReceiverKind::Reference(..) => true,
        ReceiverKind::Typed(_, ty) => matches!(&**ty, Type::Reference(_)),
        _ => false,
    }
}

fn run(
    model: &Model<'_>,
    message: &Message<'_>,
    service: Option<&Service>,
    prepared: &Ident,
) -> TokenStream {
    let (tonic, body) = (&model.adapter, &model.body);
    let borrowed = service.map(|service| &service.borrowed);
    let taken = message.taken();
    let statements = body.statements.clone();
    let statements = match service {
        Some(service) => without_self(statements, &service.this),
        None => statements,
    };
    let block = quote_spanned!(body.braces=> { #borrowed #taken #statements });
    let path = body.returned.locate(quote!(#tonic::Call::run));
    let boxed = body.returned.locate(quote!(::std::boxed::Box::pin));
    let task = body.returned.parenthesize(&quote!(async move #block));
    let arguments = body.returned.parenthesize(&quote!(#prepared, #boxed #task));
    let wait = body.returned.locate(quote!(.await));
    quote!(#path #arguments #wait)
}

/// The body with another name for `self`, at any depth, macro calls included. Paths
/// (`self::module`) stay, and so do inner functions, which have a `self` of their own.
fn without_self(body: TokenStream, this: &Ident) -> TokenStream {
    let mut tokens = body.into_iter().peekable();
    let mut replaced = TokenStream::new();
    // Between the `fn` of an inner function and its body.
    let mut in_signature = false;
    while let Some(token) = tokens.next() {
        let token = match token {
            TokenTree::Ident(word) if word == "self" && !in_signature => {
                let is_path = matches!(tokens.peek(), Some(TokenTree::Punct(punct))
                    if punct.as_char() == ':' && punct.spacing() == proc_macro2::Spacing::Joint);
                if is_path {
                    TokenTree::Ident(word)
                } else {
                    let mut this = this.clone();
                    this.set_span(this.span().located_at(word.span()));
                    TokenTree::Ident(this)
                }
            }
            TokenTree::Ident(word) => {
                in_signature |= word == "fn" && matches!(tokens.peek(), Some(TokenTree::Ident(_)));
                TokenTree::Ident(word)
            }
            TokenTree::Group(group) if in_signature => {
                in_signature = group.delimiter() != proc_macro2::Delimiter::Brace;
                TokenTree::Group(group)
            }
            TokenTree::Group(group) => {
                let mut inner = Group::new(group.delimiter(), without_self(group.stream(), this));
                inner.set_span(group.span());
                TokenTree::Group(inner)
            }
            other => other,
        };
        replaced.extend([token]);
    }
    replaced
}

#[cfg(test)]
mod tests {
    use proc_macro2::Span;

    use super::*;

    #[test]
    fn self_is_replaced_at_any_depth_and_nowhere_else() {
        let this = Ident::new("this", Span::call_site());
        for (written, expected) in [
            ("self.bank.charge(self)", "this.bank.charge(this)"),
            ("format!(\"{}\", self.name)", "format!(\"{}\", this.name)"),
            ("f(|x| { x + [self.a][0] })", "f(|x| { x + [this.a][0] })"),
            ("self::module::call()", "self::module::call()"),
            ("Self::new(self)", "Self::new(this)"),
            (
                "impl A { fn f(&self) -> u8 { self.0 } } self.b",
                "impl A { fn f(&self) -> u8 { self.0 } } this.b",
            ),
            ("let f: fn(u8) = g; self.c", "let f: fn(u8) = g; this.c"),
        ] {
            let written: TokenStream = written.parse().unwrap();
            let expected: TokenStream = expected.parse().unwrap();
            let replaced = without_self(written, &this);
            assert_eq!(replaced.to_string(), expected.to_string());
        }
    }
}
