//! Which programs there are, and whom they run as.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::User;

const VARIABLE: &str = "IDEM_POSTGRES_BIN";
/// Debian keeps a directory for each major version here, none of which is in PATH.
const DEBIAN: &str = "/usr/lib/postgresql";
const NEEDED: [&str; 2] = ["postgres", "initdb"];

#[derive(Debug, Clone)]
pub(super) struct Programs {
    directory: PathBuf,
    /// PostgreSQL refuses to run as root.
    pub(super) user: Option<User>,
}

impl Programs {
    /// # Panics
    ///
    /// When they are not installed, or nobody may run them.
    pub(super) fn installed() -> Self {
        let directory = directory().unwrap_or_else(|| {
            panic!(
                "postgres and initdb are neither in PATH nor in {DEBIAN}/*/bin. `cargo xtask test` \
                 installs them; so does `apt-get install postgresql`; or name their directory in \
                 {VARIABLE}"
            )
        });
        let user = (id(&["-u"]) == Some(0)).then(|| {
            let ids = id(&["-u", "postgres"]).zip(id(&["-g", "postgres"]));
            let (uid, gid) = ids.unwrap_or_else(|| {
                panic!(
                    "PostgreSQL refuses to run as root, and there is no user postgres to run it \
                     as. Debian's package postgresql, which `cargo xtask test` installs, creates \
                     one"
                )
            });
            User { uid, gid }
        });
        Self { directory, user }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A command in a directory that belongs to whom the programs run as.
    pub(super) fn command(&self, program: impl AsRef<OsStr>, directory: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(directory);
        if let Some(user) = self.user {
            user.runs(&mut command);
        }
        command
    }

    /// A client. Debian's in PATH is a script that chooses among versions, and slow.
    pub(super) fn client(&self, name: &str) -> OsString {
        let path = self.path(name);
        match path.is_file() {
            true => path.into(),
            false => name.into(),
        }
    }
}

/// What `IDEM_POSTGRES_BIN` names, else a directory in PATH, else Debian's for the newest version.
fn directory() -> Option<PathBuf> {
    if let Some(directory) = std::env::var_os(VARIABLE) {
        return Some(directory.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut candidates = std::env::split_paths(&path).map(real);
    candidates.find(|it| is_complete(it)).or_else(|| {
        let versions = fs::read_dir(DEBIAN).ok()?.flatten();
        let numbered = versions.filter_map(|version| {
            let number: u32 = version.file_name().to_str()?.parse().ok()?;
            Some((number, version.path().join("bin")))
        });
        let complete = numbered.filter(|(_, directory)| is_complete(directory));
        complete.max().map(|(_, directory)| directory)
    })
}

/// Where the links in a directory lead: only beside itself does a program find its files.
fn real(directory: PathBuf) -> PathBuf {
    let program = fs::canonicalize(directory.join(NEEDED[0]));
    let real = program.ok().and_then(|it| Some(it.parent()?.to_owned()));
    real.filter(|it| is_complete(it)).unwrap_or(directory)
}

fn is_complete(directory: &Path) -> bool {
    let mut needed = NEEDED.iter();
    needed.all(|name| directory.join(name).is_file())
}

fn id(args: &[&str]) -> Option<u32> {
    let output = Command::new("id").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.trim().parse().ok()
}
