//! A server that follows another one.

use crate::process::Process;
use crate::support::{TempDir, free_port, run};

use super::{Postgres, READY, append_settings};

impl Postgres {
    /// Starts a hot standby of it: it has all that was committed before, follows what comes, and
    /// answers what only reads. `SELECT pg_promote()` makes it a primary.
    ///
    /// # Panics
    ///
    /// When this one has a login, or the standby does not answer in half a minute.
    pub fn standby(&self) -> Self {
        assert!(self.login.is_none(), "a standby needs a server without one");
        Self::started(|| {
            let directory = TempDir::new("standby");
            let path = directory.path();
            if let Some(user) = self.programs.user {
                user.owns(path);
            }
            let mut copy = self
                .programs
                .command(self.programs.path("pg_basebackup"), path);
            copy.args(["--host", "127.0.0.1", "--username", "postgres"])
                .args(["--port", &self.port.to_string()])
                .args(["--pgdata", "data", "--checkpoint", "fast"])
                .args(["--write-recovery-conf", "--no-sync"]);
            run(&mut copy, b"", READY).unwrap_or_else(|error| panic!("pg_basebackup: {error}"));
            let port = free_port();
            append_settings(
                path,
                &format!(
                    "port = {port}\nunix_socket_directories = '\"{}\"'\n",
                    path.display()
                ),
            );
            let command = vec![
                self.programs.path("postgres").into(),
                "-D".into(),
                "data".into(),
            ];
            Self {
                process: Process::start_in(path, self.programs.user, command),
                programs: self.programs.clone(),
                port,
                login: None,
                directory,
            }
        })
    }
}
