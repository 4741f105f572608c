//! What every server's directory starts as, made once per process.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use super::programs::{client, is_root};
use crate::support::{TempDir, run};

/// It takes three seconds, much more on a loaded machine.
const MADE: Duration = Duration::from_secs(180);

/// A directory `data` as a tar file: in memory, as nothing that is static is dropped.
pub(super) struct Template {
    tar: Vec<u8>,
}

impl Template {
    /// That of this process.
    pub(super) fn get() -> &'static Self {
        static TEMPLATE: OnceLock<Template> = OnceLock::new();
        TEMPLATE.get_or_init(Self::make)
    }

    fn make() -> Self {
        let directory = TempDir::new("install-db");
        let data = directory.path().join("data");
        let mut install = Command::new(client("mariadb-install-db"));
        install
            // A server that starts deletes what other servers have in a directory that they share.
            .env("TMPDIR", directory.path())
            .arg("--no-defaults")
            .arg(format!("--datadir={}", data.display()))
            // `root` has no password, and comes from this machine.
            .args(["--auth-root-authentication-method=normal", "--skip-test-db"])
            .args(["--skip-name-resolve", "--innodb-log-file-size=8M"]);
        if is_root() {
            install.arg("--user=root");
        }
        run(&mut install, b"", MADE).unwrap_or_else(|error| panic!("mariadb-install-db: {error}"));
        let mut tar = Command::new("tar");
        tar.current_dir(directory.path());
        let tar = run(tar.args(["-c", "-S", "-f", "-", "data"]), b"", MADE);
        Self {
            tar: tar.unwrap_or_else(|error| panic!("tar: {error}")),
        }
    }

    /// Writes `data` into a directory.
    pub(super) fn unpack(&self, directory: &Path) {
        let mut tar = Command::new("tar");
        tar.current_dir(directory);
        run(tar.args(["-x", "-p", "-f", "-"]), &self.tar, MADE)
            .unwrap_or_else(|error| panic!("tar: {error}"));
    }
}
