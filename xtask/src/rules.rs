//! Prometheus' rules in `docs/observability` are what they should be, where `promtool` is or can be had.

use std::fs;
use std::path::{Path, PathBuf};

use crate::run::{Failure, program};

const VARIABLE: &str = "IDEM_PROMTOOL";
const FOLDER: &str = "docs/observability";

/// Without `promtool`, and without a package that has it, the rules are not checked.
pub(crate) fn check() -> Result<(), Failure> {
    let promtool = match provide() {
        Ok(promtool) => promtool,
        Err(Failure(why)) => {
            println!("{why}\nthe rules of Prometheus are not checked");
            return Ok(());
        }
    };
    let file = |name| format!("{FOLDER}/{name}");
    program(&promtool, &["check", "rules"])
        .arg(&file("rules.yml"))
        .run()?;
    program(&promtool, &["test", "rules"])
        .arg(&file("rules_test.yml"))
        .run()
}

/// Taken out of the package: to install that would start a server.
fn provide() -> Result<PathBuf, Failure> {
    let named = std::env::var_os(VARIABLE).map(PathBuf::from);
    let found = named.unwrap_or_else(|| "promtool".into());
    if program(&found, &["--version"]).output().is_ok() {
        return Ok(found);
    }
    let failed = |error: std::io::Error| Failure(format!("promtool: {error}"));
    // target/debug/xtask
    let us = std::env::current_exe().map_err(failed)?;
    let target = us.ancestors().nth(2).unwrap_or(Path::new("target"));
    let folder = target.join("servers").join("prometheus");
    let promtool = folder.join("usr/bin/promtool");
    if !promtool.is_file() {
        fs::create_dir_all(&folder).map_err(failed)?;
        let take = "cd \"$0\" && apt-get -qq -o APT::Sandbox::User=root download prometheus && dpkg-deb -x prometheus_*.deb . && rm prometheus_*.deb";
        let folder = folder.display().to_string();
        program(Path::new("sh"), &["-c", take, &folder]).run()?;
    }
    program(&promtool, &["--version"]).output()?;
    Ok(promtool)
}
