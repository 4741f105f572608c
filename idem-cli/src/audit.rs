//! The audit log: who has changed what, when and why. JSON, one object a line, which is only appended to.
//!
//! A change has two lines with one `change`: the intent, which is on the disk before anything is done, and
//! the result. A change whose result is missing may have been made. No line holds a key, a scope or a body.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Args;
use serde::Serialize;

use crate::failure::Failure;
use crate::output::timestamp;

#[derive(Args, Debug)]
pub(crate) struct AuditArguments {
    #[command(flatten)]
    log: AuditLog,
    /// Why: it stands in the audit log.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

impl AuditArguments {
    /// See [`AuditLog::begin`].
    ///
    /// # Errors
    /// When it is not on the disk.
    pub(crate) fn begin(&self, what: &What) -> Result<Audited, Failure> {
        self.log.begin(self.reason.as_deref(), what)
    }
}

#[derive(Args, Debug)]
pub(crate) struct AuditLog {
    /// The audit log, which every change is written to: before it is made, and how it ended. Unless
    /// given, idem/audit.jsonl in $XDG_STATE_HOME, or else in ~/.local/state.
    #[arg(long = "audit", value_name = "FILE", env = "IDEM_AUDIT")]
    file: Option<PathBuf>,
}

impl AuditLog {
    /// Writes what is about to be done, and why. Nothing may be changed before.
    ///
    /// # Errors
    /// When it is not on the disk.
    pub(crate) fn begin(&self, reason: Option<&str>, what: &What) -> Result<Audited, Failure> {
        let path = self.path()?;
        let refused = |error: &io::Error| {
            Failure::refused(format!(
                "nothing was changed: the audit log {} cannot be written: {error}",
                path.display()
            ))
        };
        let mut log = open(&path).map_err(|error| refused(&error))?;
        let change = format!("{:032x}", rand::random::<u128>());
        let line = Line {
            at: timestamp(SystemTime::now()),
            change: &change,
            entry: Entry::Intent {
                who: Who::found(),
                reason,
                what,
            },
        };
        append(&mut log, &line).map_err(|error| refused(&error))?;
        Ok(Audited { log, path, change })
    }

    fn path(&self) -> Result<PathBuf, Failure> {
        if let Some(file) = &self.file {
            return Ok(file.clone());
        }
        let given = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
        let state = given.filter(|state| state.is_absolute());
        let state = state.or_else(|| std::env::home_dir().map(|home| home.join(".local/state")));
        let state = state.filter(|state| state.is_absolute());
        state.map(|state| state.join("idem/audit.jsonl")).ok_or_else(|| {
            Failure::refused("nothing was changed: there is no home directory for the audit log; name a file with --audit, or in the variable IDEM_AUDIT")
        })
    }
}

/// A change that is in the log.
pub(crate) struct Audited {
    log: File,
    path: PathBuf,
    change: String,
}

impl Audited {
    /// Writes how it ended, in a word of [`Ended`].
    ///
    /// # Errors
    /// When that is not on the disk.
    pub(crate) fn end(mut self, result: &str, detail: Option<&str>) -> Result<(), Failure> {
        let line = Line {
            at: timestamp(SystemTime::now()),
            change: &self.change,
            entry: Entry::Result { result, detail },
        };
        append(&mut self.log, &line).map_err(|error| {
            Failure::Unknown(format!(
                "how the change ended ({result}) is not in the audit log {}: {error}",
                self.path.display()
            ))
        })
    }
}

#[derive(Serialize)]
struct Line<'a> {
    at: Option<String>,
    change: &'a str,
    #[serde(flatten)]
    entry: Entry<'a>,
}

#[derive(Serialize)]
#[serde(tag = "entry", rename_all = "lowercase")]
enum Entry<'a> {
    Intent {
        #[serde(flatten)]
        who: Who,
        reason: Option<&'a str>,
        #[serde(flatten)]
        what: &'a What,
    },
    Result {
        result: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        detail: Option<&'a str>,
    },
}

/// What is about to be changed.
#[derive(Debug, Serialize)]
pub(crate) struct What {
    pub(crate) command: &'static str,
    /// The store's name, and where it is.
    pub(crate) store: &'static str,
    pub(crate) address: String,
    #[serde(flatten)]
    pub(crate) record: Option<Record>,
}

/// The record as it was found.
#[derive(Debug, Serialize)]
pub(crate) struct Record {
    pub(crate) record: String,
    pub(crate) operation: String,
    pub(crate) state: &'static str,
    pub(crate) attempt: u32,
    /// The lease is taken from an attempt that holds it.
    pub(crate) forced: bool,
    /// What it is resolved with, in words, and its SHA-256.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) answer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) answer_sha256: Option<String>,
}

/// Who runs this process, as far as the system says.
#[derive(Serialize)]
struct Who {
    user: Option<String>,
    /// Who has become that user with `sudo`.
    #[serde(skip_serializing_if = "Option::is_none")]
    sudo_user: Option<String>,
    host: Option<String>,
    pid: u32,
}

impl Who {
    fn found() -> Self {
        Self {
            user: whoami::username().ok(),
            sudo_user: std::env::var("SUDO_USER").ok(),
            host: whoami::hostname().ok(),
            pid: std::process::id(),
        }
    }
}

/// Opens the log to append to it; others may not read it where it is new.
fn open(path: &Path) -> io::Result<File> {
    if let Some(directory) = path.parent().filter(|it| !it.as_os_str().is_empty()) {
        fs::create_dir_all(directory)?;
    }
    let mut options = OpenOptions::new();
    options.create(true).append(true).read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// One write, so that two processes' lines do not mix. It is on the disk then.
fn append(log: &mut File, line: &Line<'_>) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(512);
    if ends_within_line(log)? {
        // A process that was killed has left it.
        bytes.push(b'\n');
    }
    serde_json::to_writer(&mut bytes, line)?;
    bytes.push(b'\n');
    log.write_all(&bytes)?;
    log.sync_data()
}

fn ends_within_line(log: &mut File) -> io::Result<bool> {
    // What is no regular file, such as a pipe, has no end to look at.
    if !log.metadata()?.is_file() || log.metadata()?.len() == 0 {
        return Ok(false);
    }
    log.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    log.read_exact(&mut last)?;
    Ok(last != *b"\n")
}
