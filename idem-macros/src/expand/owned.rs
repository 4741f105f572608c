//! What poem and salvo share. Their arguments may borrow from the request, so the whole call is a task
//! that owns it, and the generated code runs every extractor itself.

use proc_macro2::{Ident, TokenStream};
use quote::quote;

use super::model::Model;

/// Runs the statements that extract the last argument, run the body and make the answer.
pub(super) fn run(model: &Model<'_>, admitted: &Ident, statements: &TokenStream) -> TokenStream {
    let adapter = &model.adapter;
    let ty = model.transactional.admitted();
    let transaction = model.transactional.parameter();
    let closure = transaction.map(|transaction| quote!(move |#transaction|));
    quote! {
        #adapter::#ty::run(#admitted, #closure async move {
            #statements
        })
    }
}
