//! Emulators of DynamoDB from the registry of npm, of these versions. They are tools of the
//! tests, under licences of their own, and no part of the repository.

use std::path::{Path, PathBuf};

use crate::run::{Failure, program};

struct Emulator {
    name: &'static str,
    /// What the tests look for; `tests/servers/src/dynamodb.rs` knows the same.
    place: &'static str,
    /// Names another copy.
    variable: &'static str,
    fetch: fn(&Path) -> Result<(), Failure>,
}

const EMULATORS: [Emulator; 2] = [
    Emulator {
        name: "DynamoDB Local",
        place: "dynamodb-local-2.9.30/package/emulator/DynamoDBLocal.jar",
        variable: "IDEM_DYNAMODB_LOCAL",
        fetch: fetch_local,
    },
    Emulator {
        name: "dynalite",
        place: "dynalite-4.0.0/node_modules/dynalite/cli.js",
        variable: "IDEM_DYNAMODB_DYNALITE",
        fetch: fetch_dynalite,
    },
];

/// What the tests find where no emulator could be fetched.
const EXCUSE: &str = "dynamodb-is-out-of-reach";

/// Whether tests have an emulator.
pub(crate) fn is_there() -> bool {
    let servers = servers().unwrap_or_default();
    EMULATORS.iter().any(|emulator| {
        std::env::var_os(emulator.variable).is_some() || servers.join(emulator.place).exists()
    })
}

/// Beside what cargo builds.
fn servers() -> Result<PathBuf, Failure> {
    let us = std::env::current_exe().map_err(|error| Failure(format!("where are we? {error}")))?;
    // target/debug/xtask
    let target = us.ancestors().nth(2).unwrap_or(Path::new("target"));
    Ok(target.join("servers"))
}

/// Fetches each that is not there, or named. A machine without a way to the registry goes without, and says
/// so; what is named must be there.
pub(crate) fn provide() -> Result<(), Failure> {
    let servers = servers()?;
    let mut there = 0;
    let mut missing = Vec::new();
    for emulator in EMULATORS {
        match emulator.provide(&servers) {
            Ok(place) => {
                there += 1;
                println!("{}: {}", emulator.name, place.display());
            }
            Err(Failure(why)) if std::env::var_os(emulator.variable).is_none() => {
                println!("{why}\n{} is NOT tested", emulator.name);
                missing.push(format!("{}: {why}", emulator.name));
            }
            Err(failure) => return Err(failure),
        }
    }
    let excuse = servers.join(EXCUSE);
    let _ = std::fs::remove_file(&excuse);
    if there == 0 {
        let why = missing.join("\n");
        std::fs::create_dir_all(&servers)
            .and_then(|()| std::fs::write(&excuse, why))
            .map_err(|error| Failure(format!("{}: {error}", excuse.display())))?;
    }
    Ok(())
}

impl Emulator {
    fn provide(&self, servers: &Path) -> Result<PathBuf, Failure> {
        if let Some(named) = std::env::var_os(self.variable) {
            let named = PathBuf::from(named);
            return match named.exists() {
                true => Ok(named),
                false => Err(Failure(format!(
                    "{} is named in {}, and not there",
                    named.display(),
                    self.variable
                ))),
            };
        }
        let place = servers.join(self.place);
        if !place.exists() {
            let top = self.place.split('/').next().unwrap_or(self.place);
            let directory = servers.join(top);
            let _ = std::fs::remove_dir_all(&directory);
            std::fs::create_dir_all(&directory)
                .map_err(|error| Failure(format!("{}: {error}", directory.display())))?;
            if let Err(failure) = (self.fetch)(&directory) {
                let _ = std::fs::remove_dir_all(&directory);
                return Err(failure);
            }
        }
        match place.exists() {
            true => Ok(place),
            false => Err(Failure(format!("{} was not fetched", place.display()))),
        }
    }
}

/// Amazon's own, from a package that carries it. It runs on Java.
fn fetch_local(directory: &Path) -> Result<(), Failure> {
    crate::servers::provide_java()?;
    let to = directory.display().to_string();
    program(
        Path::new("npm"),
        &["pack", "--silent", "--pack-destination", &to],
    )
    .arg("amplify-dynamodb-simulator@2.9.30")
    .run()?;
    let archive = directory.join("amplify-dynamodb-simulator-2.9.30.tgz");
    program(
        Path::new("tar"),
        &["--extract", "--gzip", "--directory", &to],
    )
    .args(&["--file", &archive.display().to_string()])
    .run()?;
    let _ = std::fs::remove_file(archive);
    Ok(())
}

fn fetch_dynalite(directory: &Path) -> Result<(), Failure> {
    let quiet = ["--no-audit", "--no-fund", "--ignore-scripts", "--silent"];
    program(Path::new("npm"), &["install", "dynalite@4.0.0"])
        .args(&quiet)
        .args(&["--prefix", &directory.display().to_string()])
        .run()
}
