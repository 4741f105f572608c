//! The forms of the attribute.

/// What the attribute is written for. Each attribute of this crate is one form.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Function,
    Axum,
    Actix,
    Http,
    Poem,
    Salvo,
    Tonic,
}

impl Form {
    /// What a user imports for the handler form.
    pub(crate) const HANDLER_IMPORT: &'static str = "idem::axum::idempotent";

    /// Whether its responses may be on their way while the attempt runs.
    pub(crate) const fn has_streams(self) -> bool {
        !matches!(self, Self::Function | Self::Tonic)
    }

    pub(crate) const fn is_handler(self) -> bool {
        !matches!(self, Self::Function)
    }
}
