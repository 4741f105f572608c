//! Which programs there are.

use std::path::PathBuf;
use std::process::Command;

/// A family of servers that speak Redis's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavor {
    /// `redis-server`, or what `IDEM_REDIS_SERVER` names.
    Redis,
    /// `valkey-server`, or what `IDEM_VALKEY_SERVER` names.
    Valkey,
}

impl Flavor {
    /// What tests run on: Redis always, Valkey where it is installed.
    ///
    /// # Panics
    ///
    /// When there is no Redis: a test must not pass because it had nothing to test on.
    pub fn installed() -> Vec<Self> {
        Self::Redis.program();
        let mut flavors = vec![Self::Redis];
        flavors.extend(Self::Valkey.find().map(|_| Self::Valkey));
        flavors
    }

    /// Its program.
    ///
    /// # Panics
    ///
    /// When it is not installed.
    pub fn program(self) -> PathBuf {
        let (name, variable) = self.names();
        self.find().unwrap_or_else(|| {
            panic!(
                "{name} is not in PATH. `cargo xtask test` installs it; so does \
                 `apt-get install {name}`; or name the program in {variable}"
            )
        })
    }

    /// Whether its program was built with TLS.
    pub fn has_tls(self) -> bool {
        // With TLS it misses its certificate, and ends as well.
        let args = [
            "--port",
            "0",
            "--tls-port",
            "1",
            "--tls-cert-file",
            "none",
            "--save",
            "",
        ];
        let mut program = Command::new(self.program());
        let output = program
            .args(args)
            .current_dir(std::env::temp_dir())
            .output();
        output.is_ok_and(|output| {
            let said = String::from_utf8_lossy(&output.stdout);
            !said.contains("TLS support") && !said.contains("Bad directive")
        })
    }

    fn find(self) -> Option<PathBuf> {
        let (name, variable) = self.names();
        if let Some(program) = std::env::var_os(variable) {
            return Some(program.into());
        }
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path)
            .map(|directory| directory.join(name))
            .find(|program| program.is_file())
    }

    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Redis => ("redis-server", "IDEM_REDIS_SERVER"),
            Self::Valkey => ("valkey-server", "IDEM_VALKEY_SERVER"),
        }
    }
}

/// Redis's program. See [`Flavor::program`].
pub fn redis_server_program() -> PathBuf {
    Flavor::Redis.program()
}
