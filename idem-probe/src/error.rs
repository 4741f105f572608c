//! Why a probe did not begin.

use std::fmt;

/// Why a probe did not begin: no request was sent. It names no credential and no query.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// An option cannot be used: which one, and why.
    Option {
        /// Its name on the command line, without dashes.
        name: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The host has an address that is not on this machine, and `i_own_this` is not set.
    NotLoopback,
    /// The host's name has no address.
    Resolve(std::io::Error),
    /// The system's certificates cannot be used for `https`.
    Certificates(Box<dyn std::error::Error + Send + Sync>),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option { name, why } => write!(f, "`{name}` cannot be used: {why}"),
            Self::NotLoopback => f.write_str(
                "the URL's host has an address that is not on this machine; a probe carries the \
                 operation out: say `--i-own-this` if the server is yours",
            ),
            Self::Resolve(_) => f.write_str("the URL's host has no address"),
            Self::Certificates(_) => {
                f.write_str("the system's certificates cannot be used for https")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Resolve(error) => Some(error),
            Self::Certificates(error) => Some(&**error),
            _ => None,
        }
    }
}
