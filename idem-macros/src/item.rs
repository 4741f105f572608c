//! The annotated function. Its body is kept as tokens, so that editors complete half-typed code.

use proc_macro2::{Delimiter, Group, Ident, TokenStream, TokenTree};
use quote::{ToTokens, TokenStreamExt, quote_spanned};
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::visit::Visit;
use syn::visit_mut::VisitMut;
use syn::{
    Attribute, FnArg, Pat, PatIdent, PatType, Path, ReturnType, Signature, Token, Type,
    TypeImplTrait, TypeParamBound, Visibility,
};

#[derive(Clone)]
pub(crate) struct Item {
    pub(crate) attrs: Vec<Attribute>,
    pub(crate) vis: Visibility,
    pub(crate) defaultness: Option<Token![default]>,
    pub(crate) sig: Signature,
    /// The braces and everything in them.
    pub(crate) body: Group,
}

impl Parse for Item {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let attrs = input.call(Attribute::parse_outer)?;
        let vis = input.parse()?;
        let defaultness = input.parse()?;
        let is_another_item = input.peek(Token![struct])
            || input.peek(Token![enum])
            || input.peek(Token![impl])
            || input.peek(Token![trait])
            || input.peek(Token![mod]);
        if is_another_item {
            return Err(
                input.error("only an `async fn` can be idempotent: put the attribute on it")
            );
        }
        let sig: Signature = input.parse()?;
        if input.peek(Token![;]) {
            return Err(syn::Error::new_spanned(
                &sig,
                "an idempotent function needs a body: put the attribute on the implementation",
            ));
        }
        Ok(Self {
            attrs,
            vis,
            defaultness,
            sig,
            body: block(input.parse()?)?,
        })
    }
}

/// A body in braces. One that `macro_rules!` has captured (`$body:block`) is inside a group.
fn block(token: TokenTree) -> syn::Result<Group> {
    match token {
        TokenTree::Group(body) if body.delimiter() == Delimiter::Brace => Ok(body),
        TokenTree::Group(captured) if captured.delimiter() == Delimiter::None => {
            block(syn::parse2(captured.stream())?)
        }
        other => Err(syn::Error::new_spanned(
            other,
            "expected the function's body",
        )),
    }
}

impl ToTokens for Item {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        tokens.append_all(&self.attrs);
        self.vis.to_tokens(tokens);
        self.defaultness.to_tokens(tokens);
        self.sig.to_tokens(tokens);
        self.body.to_tokens(tokens);
    }
}

impl Item {
    /// The typed arguments, without the receiver.
    pub(crate) fn arguments(&self) -> impl Iterator<Item = &PatType> {
        self.sig
            .inputs
            .iter()
            .filter_map(|argument| match argument {
                FnArg::Typed(typed) => Some(typed),
                FnArg::Receiver(_) => None,
            })
    }
}

/// The names that a pattern binds, in order.
pub(crate) fn bound_names(pattern: &Pat) -> Vec<Ident> {
    struct Names(Vec<Ident>);
    impl Visit<'_> for Names {
        fn visit_pat_ident(&mut self, pattern: &PatIdent) {
            self.0.push(pattern.ident.clone());
            syn::visit::visit_pat_ident(self, pattern);
        }
    }
    let mut names = Names(Vec::new());
    names.visit_pat(pattern);
    names.0
}

/// Whether tokens name one of `names` at any depth, as a value or in a format string. Fields, methods
/// and parts of paths are no values.
pub(crate) fn mentions(tokens: &TokenStream, names: &[Ident]) -> bool {
    let mut before = String::new();
    tokens.clone().into_iter().any(|token| {
        let found = match &token {
            TokenTree::Ident(ident) => {
                let is_part = before.ends_with("::") || before == ".";
                !is_part && names.contains(ident)
            }
            TokenTree::Group(group) => mentions(&group.stream(), names),
            TokenTree::Literal(literal) => is_formatted(&literal.to_string(), names),
            TokenTree::Punct(_) => false,
        };
        match &token {
            TokenTree::Punct(punct) => before.push(punct.as_char()),
            _ => before.clear(),
        }
        found
    })
}

/// Whether a literal, read as a format string, formats one of `names`.
fn is_formatted(literal: &str, names: &[Ident]) -> bool {
    names.iter().any(|name| {
        let name = format!("{{{}", name.unraw());
        literal
            .match_indices(&name)
            .any(|(at, _)| literal[at + name.len()..].starts_with(['}', ':']))
    })
}

/// The declared return type, with `_` for every `impl Trait`.
pub(crate) fn declared_return(output: &ReturnType) -> Option<Type> {
    struct EraseImpl;
    impl VisitMut for EraseImpl {
        fn visit_type_mut(&mut self, ty: &mut Type) {
            if let Type::ImplTrait(unnamed) = ty {
                let span = unnamed.impl_token.span;
                *ty = Type::Verbatim(quote_spanned!(span=> _));
            }
            syn::visit_mut::visit_type_mut(self, ty);
        }
    }
    let ReturnType::Type(_, ty) = output else {
        return None;
    };
    let mut ty = Type::clone(ty);
    EraseImpl.visit_type_mut(&mut ty);
    Some(ty)
}

/// The traits of every `impl Trait` in the declared return type. Those with generic arguments are left
/// out: the arguments may be known in the signature only.
pub(crate) fn returned_traits(output: &ReturnType) -> Vec<&Path> {
    struct Traits<'a>(Vec<&'a Path>);
    impl<'a> Visit<'a> for Traits<'a> {
        fn visit_type_impl_trait(&mut self, unnamed: &'a TypeImplTrait) {
            for bound in &unnamed.bounds {
                if let TypeParamBound::Trait(bound) = bound
                    && bound.path.segments.iter().all(|it| it.arguments.is_none())
                {
                    self.0.push(&bound.path);
                }
            }
            syn::visit::visit_type_impl_trait(self, unnamed);
        }
    }
    let mut traits = Traits(Vec::new());
    traits.visit_return_type(output);
    traits.0
}

/// The same pattern for a reference to the value: it binds references, and moves nothing.
pub(crate) fn borrowing_pattern(pattern: &Pat) -> Pat {
    struct Borrow;
    impl VisitMut for Borrow {
        fn visit_pat_mut(&mut self, pattern: &mut Pat) {
            while let Pat::Reference(reference) = pattern {
                *pattern = Pat::clone(&reference.pat);
            }
            syn::visit_mut::visit_pat_mut(self, pattern);
        }

        fn visit_pat_ident_mut(&mut self, pattern: &mut PatIdent) {
            pattern.by_ref = None;
            pattern.mutability = None;
            syn::visit_mut::visit_pat_ident_mut(self, pattern);
        }
    }
    let mut pattern = pattern.clone();
    Borrow.visit_pat_mut(&mut pattern);
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_is_mentioned_as_a_value_or_in_a_format_string() {
        let names = [syn::parse_quote!(id), syn::parse_quote!(r#type)];
        let mentions = |tokens: &str| mentions(&tokens.parse().unwrap(), &names);
        for tokens in [
            "id",
            "r#type",
            "id.text",
            "(order, &id)",
            "orders[id]",
            "0..id",
            "(a, ..id)",
            "f(|x| x + id)",
            r#"format!("{id}")"#,
            r#"format!("{order}-{id:>8}")"#,
            r##"format!(r#"{type}"#)"##,
        ] {
            assert!(mentions(tokens), "{tokens}");
        }
        for tokens in [
            "order",
            "order.id",
            "order.id()",
            "order . id . text",
            "module::id",
            "<Order as Keyed>::id",
            r#""id""#,
            r#"format!("{order}-{identity}")"#,
            r#"format!("{} id", order)"#,
        ] {
            assert!(!mentions(tokens), "{tokens}");
        }
    }
}
