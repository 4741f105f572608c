//! What an engine is told of the HTTP contract.

use std::borrow::Cow;

use super::key::KeySyntax;

/// Settings of the HTTP contract.
#[derive(Clone, Debug)]
#[must_use]
pub struct HttpSettings {
    pub(crate) key_syntax: KeySyntax,
    pub(crate) max_request_bytes: usize,
    pub(crate) problem_base: Cow<'static, str>,
    pub(crate) documentation: Option<String>,
    pub(crate) keep_set_cookie: bool,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            key_syntax: KeySyntax::Lenient,
            max_request_bytes: 2 * 1024 * 1024,
            problem_base: Cow::Borrowed("urn:idem:problem:"),
            documentation: None,
            keep_set_cookie: false,
        }
    }
}

impl HttpSettings {
    /// Every setting at its default.
    pub fn new() -> Self {
        Self::default()
    }

    /// Which forms of the key header are accepted; [`KeySyntax::Lenient`] unless given.
    pub const fn key_syntax(mut self, syntax: KeySyntax) -> Self {
        self.key_syntax = syntax;
        self
    }

    /// The longest request body, in bytes; 2 MiB unless given. A longer one is answered with
    /// 413 before anything is claimed. A framework's own limit applies as well.
    pub const fn max_request_bytes(mut self, bytes: usize) -> Self {
        self.max_request_bytes = bytes;
        self
    }

    /// What the `type` URIs of problems begin with; `urn:idem:problem:` unless given. A base of
    /// `https://api.example.com/problems/` gives `https://api.example.com/problems/mismatch`.
    pub fn problem_base(mut self, base: impl Into<Cow<'static, str>>) -> Self {
        self.problem_base = base.into();
        self
    }

    /// Where the API's rules for keys are documented: every problem then carries
    /// `Link: <url>; rel="describedby"`.
    pub fn documentation(mut self, url: impl Into<String>) -> Self {
        self.documentation = Some(url.into());
        self
    }

    /// Whether `Set-Cookie` of the first response is stored and replayed. `false` unless given:
    /// a cookie is a credential.
    pub const fn keep_set_cookie(mut self, keep: bool) -> Self {
        self.keep_set_cookie = keep;
        self
    }

    /// The longest request body, in bytes.
    pub const fn request_limit(&self) -> usize {
        self.max_request_bytes
    }

    /// The accepted key syntax.
    pub const fn accepted_keys(&self) -> KeySyntax {
        self.key_syntax
    }
}
