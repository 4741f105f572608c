//! The mistakes in one use of the attribute. They are reported together.

use std::fmt::Display;

use quote::ToTokens;

#[derive(Default)]
pub(crate) struct Mistakes(Option<syn::Error>);

impl Mistakes {
    pub(crate) fn add(&mut self, error: syn::Error) {
        match &mut self.0 {
            Some(all) => all.combine(error),
            None => self.0 = Some(error),
        }
    }

    /// Adds a mistake that is shown at `written`.
    pub(crate) fn at(&mut self, written: &impl ToTokens, message: impl Display) {
        self.add(syn::Error::new_spanned(written, message));
    }

    /// One error that holds all of them.
    pub(crate) fn into_error(self) -> Option<syn::Error> {
        self.0
    }
}
