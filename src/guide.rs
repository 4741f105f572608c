//! The guides: what the library does, subject by subject. Every sample in them is compiled.
//!
//! | to | read |
//! |---|---|
//! | know what clients get | [`http_contract`], [`outcomes`] |
//! | choose keys, scopes and names | [`keys_and_scopes`] |
//! | choose a store | [`stores`], [`transactions`] |
//! | continue after a crash where a handler stopped | [`steps`] |
//! | use a framework, and stack its layers | [`frameworks`] |
//! | serve webhooks and queues | [`webhooks`], [`queues`] |
//! | write the client | [`clients`] |
//! | run it | [`operating`], [`dashboard`] |
//! | see what happens | [`observability`] |
//! | test a handler, or probe any API | [`testing`] |
//! | write a store | [`writing_a_store`] |

// This module is there for rustdoc alone: a program has nothing of it.
//
// The guides are read here and as plain files. Of two definitions of a link the first one counts:
// `links.md` leads to the modules, and what stands at the end of each file to the files.

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("guide/http_contract.md")]
pub mod http_contract {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("guide/keys_and_scopes.md")]
pub mod keys_and_scopes {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("guide/outcomes.md")]
pub mod outcomes {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("guide/stores.md")]
pub mod stores {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("guide/transactions.md")]
pub mod transactions {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("guide/steps.md")]
pub mod steps {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("guide/frameworks.md")]
pub mod frameworks {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("guide/operating.md")]
pub mod operating {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("guide/observability.md")]
pub mod observability {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("guide/dashboard.md")]
pub mod dashboard {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("guide/testing.md")]
pub mod testing {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("guide/webhooks.md")]
pub mod webhooks {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("guide/queues.md")]
pub mod queues {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("guide/clients.md")]
#[doc = concat!("\n## outbox.js\n\n```js\n", include_str!("guide/outbox.js"), "```\n")]
pub mod clients {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("guide/writing_a_store.md")]
pub mod writing_a_store {}
