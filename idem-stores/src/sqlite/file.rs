//! Which file a path leads to. SQLite keeps using the file that it has opened, whatever its name is now.
//! After another file was put in its place, two processes would each use their own.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use idem_core::StoreError;
use sqlx::sqlite::SqliteConnectOptions;

use super::NAME;

/// The identity of a file, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    File(FileId),
    Nothing,
    /// The system does not tell.
    Unknown,
}

fn find(path: &Path) -> Found {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        match std::fs::metadata(path) {
            Ok(metadata) => Found::File(FileId {
                device: metadata.dev(),
                inode: metadata.ino(),
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Found::Nothing,
            Err(_) => Found::Unknown,
        }
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        Found::Unknown
    }
}

/// The path of a database, and the file that belongs there.
#[derive(Debug)]
pub(super) struct Location {
    /// `None` if the driver's name of the database is not a plain path.
    path: Option<PathBuf>,
    known: Mutex<Option<FileId>>,
}

impl Location {
    pub(super) fn of(options: &SqliteConnectOptions) -> Self {
        let name = options.get_filename();
        // SQLite interprets both.
        let is_path =
            name != ":memory:" && !name.as_os_str().as_encoded_bytes().starts_with(b"file:");
        // The process may change its directory.
        let path = is_path.then(|| std::path::absolute(name).ok()).flatten();
        Self {
            path,
            known: Mutex::default(),
        }
    }

    pub(super) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    pub(super) fn found(&self) -> Found {
        self.path.as_deref().map_or(Found::Unknown, find)
    }

    /// The file that belongs there, once it was opened.
    pub(super) fn known(&self) -> Option<FileId> {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes this file the one that belongs there. `true` if it was not before.
    pub(super) fn learn(&self, file: FileId) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.replace(file) != Some(file)
    }

    /// # Errors
    /// When another file is at the path, or none.
    pub(super) fn check_in_place(&self, file: Option<FileId>) -> Result<(), Replaced> {
        match (file, self.found()) {
            (Some(opened), Found::File(found)) if opened != found => Err(Replaced::ByAnother),
            (Some(_), Found::Nothing) => Err(Replaced::ByNothing),
            _ => Ok(()),
        }
    }
}

/// The file was moved or deleted while it was open.
#[derive(Clone, Debug)]
pub(super) enum Replaced {
    ByNothing,
    ByAnother,
    /// By a file that cannot be used, for this reason.
    ByUnfit(Arc<crate::ConnectError>),
    /// Under the application's pool, whose connections may have opened either file.
    UnderAPool,
}

impl fmt::Display for Replaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ByNothing => f.write_str(
                "the database's file was moved or deleted while it was open; put it back, or start a process that creates a new one",
            ),
            Self::ByAnother => f.write_str(
                "another file was put in place of the database's while it was open, and this call went to the old one",
            ),
            Self::ByUnfit(_) => f.write_str(
                "another file was put in place of the database's while it was open, and it has no tables that the store can use; put the right file there",
            ),
            Self::UnderAPool => f.write_str(
                "the database's file was moved, deleted or replaced while the application's pool was open, and its connections may write to the old one; put it back, or close the pool and open another",
            ),
        }
    }
}

impl std::error::Error for Replaced {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::ByUnfit(problem) => Some(&**problem),
            Self::ByNothing | Self::ByAnother | Self::UnderAPool => None,
        }
    }
}

impl Replaced {
    /// The error of a call to the old file that has changed nothing.
    pub(super) fn after_reading(self) -> StoreError {
        StoreError::not_ready(NAME, self)
    }

    /// The error of a call that may have changed the old file.
    pub(super) fn after_writing(self) -> StoreError {
        StoreError::unavailable(NAME, self)
    }
}

/// The error of a call that was not made.
impl From<Replaced> for StoreError {
    fn from(replaced: Replaced) -> Self {
        Self::rejected(NAME, replaced)
    }
}
