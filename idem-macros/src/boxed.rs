//! Methods that `#[async_trait]` has rewritten before this attribute sees them.

use proc_macro2::Ident;
use quote::ToTokens;
use syn::visit::Visit;
use syn::{Block, Expr, Local, Pat, Stmt, Type};

use crate::item::Item;

/// A plain function that ends in `Box::pin(async move { … })`.
pub(crate) struct BoxedAsync {
    /// The statements before the last expression.
    pub(crate) before: Vec<Stmt>,
    /// `Box::pin`, as it is written.
    pub(crate) pin: Expr,
    /// The block of the `async move`.
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

    /// The pattern that the user wrote for an argument. `async_trait` gives such an argument a name of its
    /// own (`__arg1`), and destructures it in the inner block.
    pub(crate) fn pattern_of(&self, argument: &Ident) -> Option<&Pat> {
        argument
            .to_string()
            .strip_prefix("__arg")?
            .parse::<usize>()
            .ok()?;
        self.find(&|local| {
            let taken = local.init.as_ref().map(|init| &*init.expr);
            let taken = match taken {
                Some(Expr::Block(block)) => match block.block.stmts.last() {
                    Some(Stmt::Expr(value, None)) => Some(value),
                    _ => None,
                },
                other => other,
            };
            matches!(taken, Some(Expr::Path(path)) if path.path.is_ident(argument))
        })
        .map(|local| &local.pat)
    }

    /// The type of the block's value. `async_trait` declares a variable of it there.
    pub(crate) fn value_type(&self) -> Option<&Type> {
        let is_value = |pat: &Pat| matches!(pat, Pat::Ident(ident) if ident.ident == "__ret");
        let found = self.find(&|local| match &local.pat {
            Pat::Type(typed) => is_value(&typed.pat),
            _ => false,
        })?;
        match &found.pat {
            Pat::Type(typed) => Some(&typed.ty),
            _ => None,
        }
    }

    /// The first `let` that fits, at any depth, because other attributes wrap the block.
    fn find(&self, fits: &dyn Fn(&Local) -> bool) -> Option<&Local> {
        struct Find<'a, 'f> {
            fits: &'f dyn Fn(&Local) -> bool,
            found: Option<&'a Local>,
        }
        impl<'a> Visit<'a> for Find<'a, '_> {
            fn visit_local(&mut self, local: &'a Local) {
                if self.found.is_none() && (self.fits)(local) {
                    self.found = Some(local);
                }
                syn::visit::visit_local(self, local);
            }
        }
        let mut find = Find { fits, found: None };
        find.visit_block(&self.block);
        find.found
    }
}
