//! What an engine is told when it is built.

use std::time::Duration;

#[cfg(feature = "http")]
use crate::http::HttpSettings;

/// The settings of an engine.
#[derive(Clone, Debug)]
#[doc(hidden)]
pub struct Settings {
    pub(crate) namespace: String,
    pub(crate) store_timeout: Duration,
    pub(crate) max_outcome_bytes: usize,
    pub(crate) retry_after: Duration,
    pub(crate) fail_open: bool,
    pub(crate) max_unsettled: (usize, usize),
    #[cfg(feature = "http")]
    pub(crate) http: HttpSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            namespace: String::new(),
            store_timeout: Duration::from_secs(5),
            max_outcome_bytes: 2 * 1024 * 1024,
            retry_after: Duration::from_secs(1),
            fail_open: false,
            max_unsettled: (10_000, 64 * 1024 * 1024),
            #[cfg(feature = "http")]
            http: HttpSettings::default(),
        }
    }
}

impl Settings {
    /// The settings of the HTTP contract.
    #[cfg(feature = "http")]
    pub const fn http(&self) -> &HttpSettings {
        &self.http
    }

    /// The longest outcome that is stored, in bytes.
    pub const fn max_outcome_bytes(&self) -> usize {
        self.max_outcome_bytes
    }
}
