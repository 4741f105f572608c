//! What the page's handlers share.

use std::fmt::Write;

use idem_core::Token;

use super::audit::Audit;
use super::counts::Counts;
use crate::Engine;

pub(super) struct State {
    pub(super) engine: Engine,
    pub(super) allow_changes: bool,
    pub(super) show_bodies: bool,
    /// Beside those of this machine.
    pub(super) hosts: Vec<String>,
    pub(super) audit: Audit,
    /// What a page of this process sends with everything that is no plain look.
    pub(super) token: String,
    pub(super) counts: Counts,
}

impl State {
    pub(super) fn new(engine: Engine) -> Self {
        let mut token = String::new();
        for byte in Token::random().as_bytes() {
            // Writing to a string cannot fail.
            let _ = write!(token, "{byte:02x}");
        }
        Self {
            engine,
            allow_changes: false,
            show_bodies: false,
            hosts: Vec::new(),
            audit: Audit::default(),
            token,
            counts: Counts::default(),
        }
    }
}
