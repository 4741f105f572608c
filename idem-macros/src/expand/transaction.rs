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

    /// The parameter of a closure that is given the transaction, if there is one.
    pub(super) fn parameter(self) -> Option<TokenStream> {
        match self {
            Self::No => None,
            Self::Yes => {
                let transaction = transaction();
                Some(quote!(mut #transaction))
            }
        }
    }

    /// A value, or a pattern for one, paired with the transaction if there is one.
    pub(super) fn pair(self, value: TokenStream) -> TokenStream {
        match self {
            Self::No => value,
            Self::Yes => {
                let transaction = transaction();
                quote!((#transaction, #value))
            }
        }
    }

    /// Runs statements as the rest of an admitted call, in poem and salvo. Their value is the answer, paired
    /// with the transaction if there is one.
    pub(super) fn run(
        self,
        adapter: &TokenStream,
        admitted: &Ident,
        statements: &TokenStream,
    ) -> TokenStream {
        let ty = self.admitted();
        let closure = self.parameter().map(|parameter| quote!(move |#parameter|));
        quote! {
            #adapter::#ty::run(#admitted, #closure async move {
                #statements
            })
        }
    }

    /// The future of a body, which can name the transaction if there is one. `async_move` holds these two
    /// keywords, at the place of the future's errors.
    pub(super) fn future(self, async_move: &TokenStream, block: &TokenStream) -> TokenStream {
        match self {
            Self::No => quote!(#async_move #block),
            Self::Yes => {
                // The user's code has to see this name.
                let tx = Ident::new(NAME, Span::call_site());
                let (transaction, value) = (transaction(), local("__idem_value"));
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

/// The variable that holds the transaction.
fn transaction() -> Ident {
    local("__idem_transaction")
}
