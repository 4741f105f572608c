//! What can go wrong with a journal.

use std::error::Error;
use std::fmt;

use http::HeaderName;

/// Why a journal did not do what it was asked.
#[derive(Debug)]
#[non_exhaustive]
pub enum JournalError {
    /// Another process, or another `Journal` of this one, has the file open.
    InUse,
    /// A newer version has written the file. Use that version, or another file.
    Newer,
    /// The file is no journal, or what is in it cannot be read.
    Damaged,
    /// There are too many operations: resume them, or look why they do not end.
    Full,
    /// The request is longer than the journal takes.
    TooLarge,
    /// The request has a header that must not be written to a disk. Let the client add it.
    SecretHeader(HeaderName),
    /// The key is in the journal, with another request.
    OtherRequest,
    /// The key's operation is being sent right now.
    Running,
    /// The database failed.
    Database(sqlx::Error),
}

/// Why an operation was not sent.
#[derive(Debug)]
#[non_exhaustive]
pub enum SendError<E> {
    /// Because of the journal.
    Journal(JournalError),
    /// The transport cannot send such a request.
    Transport(E),
}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse => f.write_str("the journal is open elsewhere; give each process its own"),
            Self::Newer => f.write_str("a newer version of idem-client has written the journal"),
            Self::Damaged => f.write_str("the journal's file cannot be read"),
            Self::Full => f.write_str("the journal is full; resume what is in it"),
            Self::TooLarge => f.write_str("the request is longer than the journal takes"),
            Self::SecretHeader(name) => write!(
                f,
                "the request has the header {name}, which is not written to a disk; let the client add it"
            ),
            Self::OtherRequest => f.write_str(
                "the journal has another request under this key; one operation, one key",
            ),
            Self::Running => f.write_str("the operation is being sent right now"),
            Self::Database(_) => f.write_str("the journal's database failed"),
        }
    }
}

impl Error for JournalError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Database(error) => Some(error),
            _ => None,
        }
    }
}

impl From<sqlx::Error> for JournalError {
    fn from(error: sqlx::Error) -> Self {
        let code = error
            .as_database_error()
            .and_then(|it| it.code())
            .and_then(|it| it.parse::<u32>().ok());
        // The primary result code is the last byte of an extended one.
        match code.map(|it| it & 0xff) {
            Some(5 | 6) => Self::InUse,
            Some(11 | 26) => Self::Damaged,
            _ => Self::Database(error),
        }
    }
}

impl<E> fmt::Display for SendError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Journal(error) => error.fmt(f),
            Self::Transport(_) => f.write_str("the request cannot be sent"),
        }
    }
}

impl<E: Error + 'static> Error for SendError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Journal(error) => error.source(),
            Self::Transport(error) => Some(error),
        }
    }
}

impl<E> From<JournalError> for SendError<E> {
    fn from(error: JournalError) -> Self {
        Self::Journal(error)
    }
}
