//! The form for methods of a gRPC service: the signature stays as it is written. The body goes to
//! a task of its own, with a clone of the service in the place of `self`.

use proc_macro2::{Group, Ident, Span, TokenStream, TokenTree};
use quote::{quote, quote_spanned};
use syn::{FnArg, Pat, PatType, Receiver, ReceiverKind, ReturnType, Type};

use super::function::{Bindings, bindings, taken_apart};
use super::handler::plan_with;
use super::{Place, check_key, conditional, private, return_edge};
use crate::args::{Args, Mistakes};
use crate::item::{BoxedAsync, Item, declared_return};

pub(super) fn expand(args: &Args, item: &Item, mistakes: &mut Mistakes) -> Option<TokenStream> {
    let boxed = BoxedAsync::of(item).filter(|_| item.sig.asyncness.is_none());
    if item.sig.asyncness.is_none() && boxed.is_none() {
        mistakes.at(
            &item.sig.fn_token,
            "an idempotent method waits for its store: write `async fn`",
        );
        return None;
    }
    let receiver = item.sig.receiver();
    if let Some(exclusive) = receiver.filter(|it| is_reference(it) == Some(true)) {
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
    let mut arguments = item.arguments();
    let (Some(request), None) = (arguments.next(), arguments.next()) else {
        mistakes.at(
            &item.sig.ident,
            "an idempotent method takes one message: `request: Request<M>`",
        );
        return None;
    };
    let bindings = bindings(item, boxed.as_ref());
    let mut key_names = bindings.names.clone();
    key_names.extend(receiver.map(|_| Ident::new("self", Span::call_site())));
    check_key(args, &key_names, mistakes);
    build(args, item, boxed, request, bindings)
}

fn build(
    args: &Args,
    item: &Item,
    boxed: Option<BoxedAsync>,
    request: &PatType,
    bindings: Bindings,
) -> Option<TokenStream> {
    let support = private(args);
    let private = quote!(#support::tonic);
    let plan = plan_with(args, item, &support, &quote!(#private::DEFAULT_RELEASE))?;
    let Item {
        attrs,
        vis,
        defaultness,
        sig,
        body,
    } = item;
    let mut signature = sig.clone();
    let mut statements = bindings.statements;
    let mut taken = TokenStream::new();
    let name = match &*request.pat {
        Pat::Ident(written) if written.subpat.is_none() => written.ident.clone(),
        pattern => {
            let name = Ident::new("__idem_request", Span::mixed_site());
            statements.extend(taken_apart(pattern, &name));
            let (lints, _) = conditional::lints(&request.attrs);
            taken = quote!(#(#lints)* let #pattern = #name;);
            for input in &mut signature.inputs {
                if let FnArg::Typed(typed) = input {
                    *typed.pat = syn::parse_quote!(#name);
                }
            }
            name
        }
    };

    let place = Place::of(&request.ty);
    let path = place.put(quote!(#private::Call::of));
    let planned = Ident::new("__idem_plan", Span::mixed_site());
    let message = place.put(quote!(&#name));
    let arguments = place.parenthesize(&quote!(#planned, #message));
    let call = quote! {{
        #statements
        let #planned = #plan;
        #path #arguments
    }};

    let service = Ident::new("__idem_service", Span::mixed_site());
    let this = Ident::new("__idem_self", Span::mixed_site());
    let (cloned, borrowed) = match sig.receiver() {
        None => (TokenStream::new(), TokenStream::new()),
        Some(receiver) => cloned(receiver, &private, &service, &this),
    };
    let (inner, returned) = match &boxed {
        None => {
            let edge = return_edge(declared_return(&sig.output).as_ref(), &support);
            let body = body.stream();
            (quote!(#edge #body), returned(&sig.output))
        }
        Some(boxed) => {
            let statements = &boxed.block.stmts;
            let place = boxed
                .value_type()
                .map_or_else(|| returned(&sig.output), Place::start_of);
            (quote!(#(#statements)*), place)
        }
    };
    let inner = without_self(inner, &this);
    let block = quote_spanned!(body.span()=> { #borrowed #taken #inner });
    let prepared = Ident::new("__idem_call", Span::mixed_site());
    let path = returned.put(quote!(#private::Call::run));
    let future = returned.put(quote!(::std::boxed::Box::pin));
    let task = returned.parenthesize(&quote!(async move #block));
    let arguments = returned.parenthesize(&quote!(#prepared, #future #task));
    let wait = returned.put(quote!(.await));
    let run = quote!(#path #arguments #wait);
    Some(match boxed {
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

/// Whether a receiver is a reference, and whether that is exclusive.
fn is_reference(receiver: &Receiver) -> Option<bool> {
    match &receiver.kind {
        ReceiverKind::Reference(_, _, mutability) => Some(mutability.is_some()),
        ReceiverKind::Typed(_, ty) => match &**ty {
            Type::Reference(reference) => Some(reference.mutability.is_some()),
            _ => None,
        },
        _ => None,
    }
}

/// What clones the service, and what the body then has for `self`.
fn cloned(
    receiver: &Receiver,
    private: &TokenStream,
    service: &Ident,
    this: &Ident,
) -> (TokenStream, TokenStream) {
    let place = Place::of(receiver);
    let path = place.put(quote!(#private::service));
    let this_token = &receiver.self_token;
    let (value, used) = if is_reference(receiver).is_some() {
        (quote!(#this_token), quote!(&#service))
    } else {
        let reference = place.put(quote!(&));
        (quote!(#reference #this_token), quote!(#service))
    };
    let value = place.parenthesize(&value);
    (
        quote!(let #service = #path #value;),
        quote! {
            let #this = #used;
        },
    )
}

/// The body with another name for `self`, at any depth, macro calls included. Paths
/// (`self::module`) and functions within the body, which have a `self` of their own, stay.
fn without_self(body: TokenStream, this: &Ident) -> TokenStream {
    let mut tokens = body.into_iter().peekable();
    let mut replaced = TokenStream::new();
    // Between the `fn` of a function within and its body.
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

fn returned(output: &ReturnType) -> Place {
    match output {
        ReturnType::Default => Place::start_of(&quote!()),
        ReturnType::Type(_, ty) => Place::start_of(ty),
    }
}

#[cfg(test)]
mod tests {
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
