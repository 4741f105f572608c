//! What differs where the body runs in a transaction: it is given one, and gives it back beside its
//! value.

use proc_macro2::{Ident, Span, TokenStream};
use quote::quote;

use super::span::local;

/// The name by which a body knows its transaction.
pub(super) const NAME: &str = "tx";

/// Whether the body runs in a transaction.
#[derive(Clone, Copy)]
pub(super) enum Transactional {
    No,
    Yes,
}

impl Transactional {
    /// The adapter's function that asks for the claim.
    pub(super) fn admit(self) -> TokenStream {
        match self {
            Self::No => quote!(admit),
            Self::Yes => quote!(admit_in),
        }
    }

    /// The adapter's type of a call whose body runs.
    pub(super) fn admitted(self) -> TokenStream {
        match self {
            Self::No => quote!(Admitted),
            Self::Yes => quote!(AdmittedIn),
        }
    }

    /// The parameter of a closure that is given the transaction.
    pub(super) fn parameter(self) -> Option<TokenStream> {
        match self {
            Self::No => None,
            Self::Yes => {
                let transaction = owned();
                Some(quote!(mut #transaction))
            }
        }
    }

    /// A value, or a pattern of one, beside the transaction if there is one.
    pub(super) fn beside(self, value: TokenStream) -> TokenStream {
        match self {
            Self::No => value,
            Self::Yes => {
                let transaction = owned();
                quote!((#transaction, #value))
            }
        }
    }

    /// A body that sees the transaction if there is one. `async_move` is the keywords of its future.
    pub(super) fn future(self, async_move: &TokenStream, block: &TokenStream) -> TokenStream {
        match self {
            Self::No => quote!(#async_move #block),
            Self::Yes => {
                // The user's code has to see this name.
                let tx = Ident::new(NAME, Span::call_site());
                let (transaction, value) = (owned(), local("__idem_value"));
                quote! {
                    async move {
                        let #value = {
                            let #tx = &mut #transaction;
                            (#async_move #block).await
                        };
                        (#transaction, #value)
                    }
                }
            }
        }
    }
}

fn owned() -> Ident {
    local("__idem_transaction")
}
