//! The annotated function. Its body stays raw tokens, so that half-typed code keeps its
//! completion.

use proc_macro2::{Delimiter, Group, Ident, TokenStream, TokenTree};
use quote::{ToTokens, TokenStreamExt};
use syn::parse::{Parse, ParseStream};
use syn::visit::Visit;
use syn::{
    Attribute, Block, Expr, FnArg, Local, Pat, PatIdent, PatType, ReturnType, Signature, Stmt,
    Token, Type, Visibility,
};

pub(crate) struct Item {
    pub(crate) attrs: Vec<Attribute>,
    pub(crate) vis: Visibility,
    pub(crate) defaultness: Option<Token![default]>,
    pub(crate) sig: Signature,
    /// The braces with everything in them.
    pub(crate) body: Group,
}

impl Parse for Item {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let attrs = input.call(Attribute::parse_outer)?;
        let vis = input.parse()?;
        let defaultness = input.parse()?;
        let sig: Signature = input.parse()?;
        if input.peek(Token![;]) {
            return Err(syn::Error::new_spanned(
                &sig,
                "an idempotent function needs a body: put the attribute on the implementation",
            ));
        }
        match input.parse()? {
            TokenTree::Group(body) if body.delimiter() == Delimiter::Brace => Ok(Self {
                attrs,
                vis,
                defaultness,
                sig,
                body,
            }),
            other => Err(syn::Error::new_spanned(
                other,
                "expected the function's body",
            )),
        }
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

/// Whether tokens name one of `names` anywhere.
pub(crate) fn mentions(tokens: &TokenStream, names: &[Ident]) -> bool {
    tokens.clone().into_iter().any(|token| match token {
        TokenTree::Ident(ident) => names.contains(&ident),
        TokenTree::Group(group) => mentions(&group.stream(), names),
        _ => false,
    })
}

/// The declared return type, unless it has a type that only the body knows.
pub(crate) fn nameable_return(output: &ReturnType) -> Option<&Type> {
    struct HasImpl(bool);
    impl Visit<'_> for HasImpl {
        fn visit_type_impl_trait(&mut self, _: &syn::TypeImplTrait) {
            self.0 = true;
        }
    }
    let ReturnType::Type(_, ty) = output else {
        return None;
    };
    let mut found = HasImpl(false);
    found.visit_type(ty);
    (!found.0).then_some(ty)
}

/// What `#[async_trait]` makes of an async method, before this attribute sees it: a plain
/// function that ends in `Box::pin(async move { … })`.
pub(crate) struct BoxedAsync {
    /// What stands before the last expression.
    pub(crate) before: Vec<Stmt>,
    /// `Box::pin`, as it is written.
    pub(crate) pin: Expr,
    /// The inner block.
    pub(crate) block: Block,
}

impl BoxedAsync {
    pub(crate) fn of(item: &Item) -> Option<Self> {
        let block: Block = syn::parse2(item.body.to_token_stream()).ok()?;
        let mut before = block.stmts;
        let Stmt::Expr(Expr::Call(call), None) = before.pop()? else {
            return None;
        };
        let Expr::Path(path) = &*call.func else {
            return None;
        };
        if path.path.segments.last()?.ident != "pin" || call.args.len() != 1 {
            return None;
        }
        let Expr::Async(inner) = call.args.into_iter().next()? else {
            return None;
        };
        Some(Self {
            before,
            pin: *call.func,
            block: inner.block,
        })
    }

    /// The pattern that the inner block takes an argument apart with, when the argument was
    /// given a name of its own for that.
    pub(crate) fn pattern_of(&self, argument: &Ident) -> Option<&Pat> {
        self.block.stmts.iter().find_map(|stmt| match stmt {
            Stmt::Local(Local {
                pat,
                init: Some(init),
                ..
            }) => match &*init.expr {
                Expr::Path(path) if path.path.is_ident(argument) => Some(pat),
                _ => None,
            },
            _ => None,
        })
    }

    /// The type of the block's value, which `async_trait` writes down in it.
    pub(crate) fn value_type(&self) -> Option<&Type> {
        self.block.stmts.iter().find_map(|stmt| match stmt {
            Stmt::Local(Local {
                pat: Pat::Type(typed),
                ..
            }) => match &*typed.pat {
                Pat::Ident(ident) if ident.ident == "__ret" => Some(&*typed.ty),
                _ => None,
            },
            _ => None,
        })
    }
}
