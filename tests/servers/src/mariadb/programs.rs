//! Which programs there are.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

const VARIABLE: &str = "IDEM_MARIADB";
/// What is no user's to run.
const OF_THE_SYSTEM: &str = "/usr/sbin/mariadbd";

/// The server: what `IDEM_MARIADB` names, else one in PATH, else the system's.
///
/// # Panics
///
/// When there is none.
pub(super) fn server() -> PathBuf {
    if let Some(named) = std::env::var_os(VARIABLE) {
        return named.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut in_path = std::env::split_paths(&path).map(|it| it.join("mariadbd"));
    let found = in_path.find(|it| it.is_file());
    let found = found.unwrap_or_else(|| PathBuf::from(OF_THE_SYSTEM));
    assert!(
        found.is_file(),
        "mariadbd is neither in PATH nor {OF_THE_SYSTEM}. `cargo xtask test` installs it; so does \
         `apt-get install mariadb-server`; or name it in {VARIABLE}"
    );
    found
}

/// A client: beside the server, or in PATH.
pub(super) fn client(name: &str) -> OsString {
    let server = server();
    let directory = server.parent().unwrap_or(Path::new(""));
    for place in [directory.join(name), directory.join("../bin").join(name)] {
        if place.is_file() {
            return place.into();
        }
    }
    name.into()
}

/// Whether we are root, as whom the server runs only if it is told to.
pub(super) fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output();
    output.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
