//! Why the tool ends, and the status that scripts see.

use std::error::Error;
use std::io;
use std::process::ExitCode;

use idem::{ConnectError, StoreError};

pub(crate) const EXIT_STATUS: &str = "\
Exit status:
  0    done, or found
  1    there is no such record
  2    the command line, or a file that it names, cannot be used
  3    refused, and nothing was changed: the lease is alive, the record is finished or was changed
       meanwhile, nobody has confirmed, or the audit log cannot be written
  4    the store cannot be reached, did not answer in time, or refuses
  5    it is not as it should be: `doctor` has found a problem, `watch` has seen no end, or `probe`
       has found a fault
  6    it is not known whether the change was made, or it was made and the audit log does not say so;
       or `probe` cannot tell
  130  interrupted";

/// Why it ends before its end.
#[derive(Debug)]
pub(crate) enum Failure {
    /// There is no such record.
    NoRecord(String),
    Usage(String),
    /// Nothing was changed.
    Refused(String),
    Store {
        message: String,
        /// Whether what was asked for may have been done all the same.
        may_have_effect: bool,
    },
    /// It is there, and this version cannot work with it.
    Unfit(String),
    /// What was looked at is not as it should be; the output says what.
    NotWell(String),
    /// A change that may have been made, or is not in the audit log.
    Unknown(String),
    Interrupted,
    /// Nobody reads the output any more.
    Closed,
}

impl Failure {
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::Refused(message.into())
    }

    /// For people; it never holds a key, a body or what is secret of a URL.
    pub(crate) fn message(&self) -> Option<String> {
        match self {
            Self::NoRecord(message)
            | Self::Usage(message)
            | Self::Refused(message)
            | Self::Store { message, .. }
            | Self::Unfit(message)
            | Self::NotWell(message)
            | Self::Unknown(message) => Some(message.clone()),
            Self::Interrupted => Some("interrupted".to_owned()),
            Self::Closed => None,
        }
    }

    pub(crate) fn status(&self) -> ExitCode {
        ExitCode::from(match self {
            // As `head` ends what it has enough of.
            Self::Closed => 0,
            Self::NoRecord(_) => 1,
            Self::Usage(_) => 2,
            Self::Refused(_) => 3,
            Self::Store { .. } | Self::Unfit(_) => 4,
            Self::NotWell(_) => 5,
            Self::Unknown(_) => 6,
            Self::Interrupted => 130,
        })
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store {
            message: with_sources(&error),
            may_have_effect: error.may_have_effect(),
        }
    }
}

impl From<idem::Error> for Failure {
    fn from(error: idem::Error) -> Self {
        match error {
            idem::Error::Store(error) => error.into(),
            other => Self::usage(with_sources(&other)),
        }
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Store(error) => error.into(),
            ConnectError::Unfit { .. } => Self::Unfit(with_sources(&error)),
            other => Self::usage(with_sources(&other)),
        }
    }
}

/// Of writing to standard output.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::usage(format!("the output cannot be written: {error}")),
        }
    }
}

/// The error's message, with those of its sources.
pub(crate) fn with_sources(error: &dyn Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        // Drivers repeat what their own sources say.
        if !message.ends_with(&said) {
            message.push_str(": ");
            message.push_str(&said);
        }
        source = cause.source();
    }
    message
}
