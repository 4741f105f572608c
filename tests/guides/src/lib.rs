//! Compiles the samples of what is read elsewhere, with every framework that they use.

/// The README.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

/// The guides of `idem-rs`.
#[cfg(doctest)]
mod guide {
    #[doc = include_str!("../../../src/guide/http_contract.md")]
    mod http_contract {}
    #[doc = include_str!("../../../src/guide/keys_and_scopes.md")]
    mod keys_and_scopes {}
    #[doc = include_str!("../../../src/guide/outcomes.md")]
    mod outcomes {}
    #[doc = include_str!("../../../src/guide/stores.md")]
    mod stores {}
    #[doc = include_str!("../../../src/guide/transactions.md")]
    mod transactions {}
    #[doc = include_str!("../../../src/guide/steps.md")]
    mod steps {}
    #[doc = include_str!("../../../src/guide/frameworks.md")]
    mod frameworks {}
    #[doc = include_str!("../../../src/guide/operating.md")]
    mod operating {}
    #[doc = include_str!("../../../src/guide/observability.md")]
    mod observability {}
    #[doc = include_str!("../../../src/guide/dashboard.md")]
    mod dashboard {}
    #[doc = include_str!("../../../src/guide/testing.md")]
    mod testing {}
    #[doc = include_str!("../../../src/guide/webhooks.md")]
    mod webhooks {}
    #[doc = include_str!("../../../src/guide/queues.md")]
    mod queues {}
    #[doc = include_str!("../../../src/guide/clients.md")]
    mod clients {}
    #[doc = include_str!("../../../src/guide/writing_a_store.md")]
    mod writing_a_store {}
}

/// The samples of the attributes' documentation: what writes them cannot compile them.
#[cfg(doctest)]
mod attributes {
    #[doc = include_str!("../../../idem-macros/src/docs/function.md")]
    struct Function;
    #[doc = include_str!("../../../idem-macros/src/docs/forms.md")]
    struct Forms;
    #[doc = include_str!("../../../idem-macros/src/docs/axum.md")]
    struct Axum;
    #[doc = include_str!("../../../idem-macros/src/docs/actix.md")]
    struct Actix;
    #[doc = include_str!("../../../idem-macros/src/docs/http.md")]
    struct Http;
    #[doc = include_str!("../../../idem-macros/src/docs/poem.md")]
    struct Poem;
    #[doc = include_str!("../../../idem-macros/src/docs/salvo.md")]
    struct Salvo;
    #[doc = include_str!("../../../idem-macros/src/docs/tonic.md")]
    struct Tonic;
}
