//! The servers that tests start: finds them, and installs what the system's packages have.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::Failure;

struct Server {
    program: &'static str,
    /// Names another program.
    variable: &'static str,
    /// Where each version has a directory of its own, if not in PATH. Then the variable names
    /// the directory of the programs.
    versions: Option<&'static str>,
    /// What distributions call it, the likelier first.
    packages: &'static [&'static str],
    /// What stands before the number when it says its version.
    before: &'static str,
    /// The oldest version that has what the tests use.
    oldest: (u32, u32),
}

const REDIS: Server = Server {
    program: "redis-server",
    variable: "IDEM_REDIS_SERVER",
    versions: None,
    packages: &["redis-server"],
    before: "v=",
    oldest: (7, 0),
};

const VALKEY: Server = Server {
    program: "valkey-server",
    variable: "IDEM_VALKEY_SERVER",
    versions: None,
    packages: &["valkey-server", "valkey"],
    before: "v=",
    oldest: (7, 0),
};

const POSTGRES: Server = Server {
    program: "postgres",
    variable: "IDEM_POSTGRES_BIN",
    versions: Some("/usr/lib/postgresql"),
    packages: &["postgresql"],
    before: "(PostgreSQL) ",
    oldest: (14, 0),
};

const MARIADB: Server = Server {
    program: "mariadbd",
    variable: "IDEM_MARIADB",
    versions: None,
    packages: &["mariadb-server"],
    before: "Ver ",
    oldest: (10, 6),
};

const PGBOUNCER: Server = Server {
    program: "pgbouncer",
    variable: "IDEM_PGBOUNCER",
    versions: None,
    packages: &["pgbouncer"],
    before: "PgBouncer ",
    oldest: (1, 16),
};

/// What counts instructions.
const VALGRIND: Server = Server {
    program: "valgrind",
    variable: "IDEM_VALGRIND",
    versions: None,
    packages: &["valgrind"],
    before: "valgrind-",
    oldest: (3, 18),
};

/// Valgrind, which is asked for in `PATH`, is there afterwards.
pub(crate) fn provide_valgrind() -> Result<(), Failure> {
    if VALGRIND.version().is_none() {
        VALGRIND.install()?;
    }
    println!("{}", VALGRIND.verified()?);
    Ok(())
}

/// Runs DynamoDB Local.
const JAVA: Server = Server {
    program: "java",
    variable: "IDEM_JAVA",
    versions: None,
    packages: &["default-jre-headless"],
    before: "openjdk ",
    oldest: (17, 0),
};

/// Java, which is asked for in `PATH`, is there afterwards.
pub(crate) fn provide_java() -> Result<(), Failure> {
    if JAVA.version().is_none() {
        JAVA.install()?;
    }
    println!("{}", JAVA.verified()?);
    Ok(())
}

/// Runs the page's client half.
const NODE: Server = Server {
    program: "node",
    variable: "IDEM_NODE",
    versions: None,
    packages: &["nodejs"],
    before: "v",
    oldest: (18, 0),
};

/// Drives the browser that pages are tested in, and brings it along.
const CHROMEDRIVER: Server = Server {
    program: "chromedriver",
    variable: "IDEM_CHROMEDRIVER",
    versions: None,
    packages: &["chromium-driver"],
    before: "ChromeDriver ",
    oldest: (123, 0),
};

/// Gives processes a wrong wall clock.
const FAKETIME: Server = Server {
    program: "faketime",
    variable: "IDEM_FAKETIME",
    versions: None,
    packages: &["faketime"],
    before: "Version ",
    oldest: (0, 9),
};

/// Runs a command while packages of PostgreSQL create no cluster, which they would also start.
const WITHOUT_CLUSTER: &str = r#"
directory=/etc/postgresql-common/createcluster.d
file=$directory/idem-xtask.conf
trap 'rm -f "$file"; rmdir "$directory" 2>/dev/null' EXIT
trap 'exit 1' HUP INT TERM
mkdir -p "$directory" && echo "create_main_cluster = false" >"$file" && "$@"
"#;

/// Redis, PostgreSQL, MariaDB, PgBouncer, Node, a browser and faketime must be there afterwards; Valkey only where there is
/// a package.
pub(crate) fn provide() -> Result<(), Failure> {
    for server in [
        REDIS,
        POSTGRES,
        MARIADB,
        PGBOUNCER,
        NODE,
        CHROMEDRIVER,
        FAKETIME,
    ] {
        if server.version().is_none() {
            server.install()?;
        }
        println!("{}", server.verified()?);
    }
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
        match self.number(&version) {
            Some(number) if number >= self.oldest => Ok(version),
            _ => Err(self.missing(&format!("not recent enough: {version}"))),
        }
    }

    /// What the program says of itself, if it runs.
    fn version(&self) -> Option<String> {
        let output = Command::new(self.found()).arg("--version").output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut lines = text.lines().map(str::trim);
        let first = lines.find(|line| !line.is_empty()).unwrap_or_default();
        output.status.success().then(|| first.to_owned())
    }

    /// The named program, else that in PATH, else that of the newest version.
    fn found(&self) -> OsString {
        if let Some(named) = std::env::var_os(self.variable) {
            return match self.versions {
                Some(_) => Path::new(&named).join(self.program).into(),
                None => named,
            };
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut in_path = std::env::split_paths(&path).map(|it| it.join(self.program));
        if in_path.any(|it| it.is_file()) {
            return self.program.into();
        }
        // What is no user's to run.
        let of_the_system = Path::new("/usr/sbin").join(self.program);
        if self.versions.is_none() && of_the_system.is_file() {
            return of_the_system.into_os_string();
        }
        let newest = self.versions.and_then(|versions| self.newest(versions));
        newest.map_or_else(|| self.program.into(), PathBuf::into_os_string)
    }

    fn newest(&self, versions: &str) -> Option<PathBuf> {
        let numbered = fs::read_dir(versions).ok()?.flatten().filter_map(|it| {
            let number: u32 = it.file_name().to_str()?.parse().ok()?;
            Some((number, it.path().join("bin").join(self.program)))
        });
        let there = numbered.filter(|(_, program)| program.is_file());
        there.max().map(|(_, program)| program)
    }

    /// The number in `Redis server v=7.0.15 sha=…` or `postgres (PostgreSQL) 15.18 (Debian …)`.
    /// What is to become 19 says `19devel` or `19beta1`.
    fn number(&self, version: &str) -> Option<(u32, u32)> {
        let (_, rest) = version.split_once(self.before)?;
        let mut parts = rest.split(|it: char| !it.is_ascii_digit());
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next().and_then(|it| it.parse().ok());
        Some((major, minor.unwrap_or(0)))
    }

    fn missing(&self, why: &str) -> Failure {
        let Self {
            program, variable, ..
        } = self;
        let (major, minor) = self.oldest;
        let what = match self.versions {
            Some(_) => "the directory of its programs",
            None => "the program",
        };
        Failure(format!(
            "tests need {program} {major}.{minor} or newer: {why}\n\
             Install it, or name {what} in {variable}"
        ))
    }
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
    let without_cluster = ["sh", "-c", WITHOUT_CLUSTER, "sh"];
    let line = [sudo, &set, &without_cluster, &["apt-get"], words].concat();
    let failure = |why: String| Failure(format!("apt-get {}: {why}", words.join(" ")));
    match Command::new(line[0]).args(&line[1..]).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(failure(status.to_string())),
        Err(error) => Err(failure(error.to_string())),
    }
}
