//! What every server's directory starts as, made once per process.

use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use super::programs::Programs;
use crate::support::{TempDir, run};

/// `initdb` takes half a second, much more on a loaded machine.
const MADE: Duration = Duration::from_secs(120);
const EXTENSION: &str = "pg_stat_statements";

/// A directory `data` as a tar file: in memory, as nothing that is static is dropped.
pub(super) struct Template {
    tar: Vec<u8>,
    pub(super) counts_statements: bool,
}

impl Template {
    /// That of this process.
    pub(super) fn get(programs: &Programs) -> &'static Self {
        static TEMPLATE: OnceLock<Template> = OnceLock::new();
        TEMPLATE.get_or_init(|| Self::make(programs))
    }

    fn make(programs: &Programs) -> Self {
        let directory = TempDir::new("initdb");
        if let Some(user) = programs.user {
            user.owns(directory.path());
        }
        let mut initdb = programs.command(programs.path("initdb"), directory.path());
        initdb.args(["--pgdata", "data", "--username", "postgres"]);
        initdb.args(["--auth", "trust", "--no-sync"]);
        // Messages in English, and the same order of texts everywhere.
        initdb.args(["--encoding", "UTF8", "--locale", "C"]);
        run(&mut initdb, b"", MADE).unwrap_or_else(|error| panic!("initdb: {error}"));

        // Without a server: one that reads statements from its input.
        let mut single = programs.command(programs.path("postgres"), directory.path());
        single.args(["--single", "-D", "data", "-F", "-c", "exit_on_error=on"]);
        let create = format!("CREATE EXTENSION {EXTENSION}\n");
        let counts_statements = match run(single.arg("postgres"), create.as_bytes(), MADE) {
            Ok(_) => true,
            Err(error) if error.contains("extension control file") => false,
            Err(error) => panic!("CREATE EXTENSION {EXTENSION}: {error}"),
        };

        let mut tar = programs.command("tar", directory.path());
        let tar = run(tar.args(["-c", "-f", "-", "data"]), b"", MADE);
        Self {
            tar: tar.unwrap_or_else(|error| panic!("tar: {error}")),
            counts_statements,
        }
    }

    /// Writes `data` into a directory.
    pub(super) fn unpack(&self, programs: &Programs, directory: &Path) {
        let mut tar = programs.command("tar", directory);
        run(tar.args(["-x", "-p", "-f", "-"]), &self.tar, MADE)
            .unwrap_or_else(|error| panic!("tar: {error}"));
    }
}
