//! Why a URL opens no store.

use std::borrow::Cow;
use std::fmt;

use idem_core::StoreError;

/// Every scheme: its name, the feature that it needs, and whether that is compiled in.
pub(crate) const SCHEMES: &[(&str, &str, bool)] = &[
    ("dynamodb", "dynamodb", cfg!(feature = "dynamodb")),
    ("memory", "memory", cfg!(feature = "memory")),
    ("mariadb", "mysql", cfg!(feature = "mysql")),
    ("mysql", "mysql", cfg!(feature = "mysql")),
    ("postgres", "postgres", cfg!(feature = "postgres")),
    ("postgresql", "postgres", cfg!(feature = "postgres")),
    ("redis", "redis", cfg!(feature = "redis")),
    ("rediss", "redis-tls", cfg!(feature = "redis-tls")),
    ("redis-cluster", "redis", cfg!(feature = "redis")),
    ("rediss-cluster", "redis-tls", cfg!(feature = "redis-tls")),
    ("redis-sentinel", "redis", cfg!(feature = "redis")),
    ("rediss-sentinel", "redis-tls", cfg!(feature = "redis-tls")),
    ("sqlite", "sqlite", cfg!(feature = "sqlite")),
];

/// Why a URL gave no store. Never holds the URL.
///
/// Its `Debug` form is its message with those of its sources, for a `main` that returns it.
#[non_exhaustive]
pub enum ConnectError {
    /// The text has no scheme.
    NotAUrl,
    /// No store has this scheme.
    UnknownScheme,
    /// The store of this scheme is not compiled in.
    NotCompiled {
        /// The URL's scheme.
        scheme: &'static str,
        /// The cargo feature of `idem-rs` to enable.
        feature: &'static str,
    },
    /// The URL says something that the store does not know.
    BadOption {
        /// The URL's scheme.
        scheme: &'static str,
        /// What it can say.
        expected: &'static str,
    },
    /// The store cannot be reached.
    Store(StoreError),
    /// The database is there, and is not one that the store can work with.
    Unfit {
        /// The store's name.
        store: &'static str,
        /// What is wrong with it.
        problem: Cow<'static, str>,
    },
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let compiled = || {
            let compiled: Vec<_> = SCHEMES
                .iter()
                .filter(|(.., compiled)| *compiled)
                .map(|(scheme, ..)| format!("{scheme}://"))
                .collect();
            if compiled.is_empty() {
                "none".to_owned()
            } else {
                compiled.join(", ")
            }
        };
        match self {
            Self::NotAUrl => write!(
                f,
                "the store URL has no scheme; compiled in: {}",
                compiled()
            ),
            Self::UnknownScheme => write!(
                f,
                "no store has this URL's scheme; compiled in: {}",
                compiled()
            ),
            Self::NotCompiled { scheme, feature } => write!(
                f,
                "the store for {scheme}:// is not compiled in; enable the feature `{feature}` of idem-rs"
            ),
            Self::BadOption { scheme, expected } => {
                write!(f, "the {scheme}:// store URL is malformed: {expected}")
            }
            Self::Store(error) => error.fmt(f),
            Self::Unfit { store, problem } => {
                write!(f, "the {store} store cannot use this database: {problem}")
            }
        }
    }
}

impl fmt::Debug for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)?;
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

impl std::error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            // Its own words are this error's.
            Self::Store(error) => error.source(),
            _ => None,
        }
    }
}
