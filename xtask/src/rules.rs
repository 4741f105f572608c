//! Prometheus' rules in `docs/observability` are what they should be, and so are the expressions of the
//! dashboard for Grafana, where `promtool` is or can be had.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::run::{Failure, program};

const VARIABLE: &str = "IDEM_PROMTOOL";
const FOLDER: &str = "docs/observability";
const DASHBOARD: &str = "docs/observability/grafana.json";

/// What Grafana puts for variables: those of its own, and the dashboard's for all operations and for two.
const VARIABLES: [&[(&str, &str)]; 2] = [
    &[("$__rate_interval", "1m"), ("$operation", ".*")],
    &[
        ("$__rate_interval", "1m"),
        ("$operation", r"(charges\\.create|refunds\\.create)"),
    ],
];

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
        .run()?;
    check_dashboard(&promtool)
}

/// Each expression of the dashboard is one of a rule of its own.
fn check_dashboard(promtool: &Path) -> Result<(), Failure> {
    let failed = |why: String| Failure(format!("{DASHBOARD}: {why}"));
    let dashboard = fs::read_to_string(DASHBOARD).map_err(|error| failed(error.to_string()))?;
    let dashboard: Value =
        serde_json::from_str(&dashboard).map_err(|error| failed(error.to_string()))?;
    let panels = dashboard["panels"].as_array().into_iter().flatten();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let mut rules = Vec::new();
    for expression in targets.filter_map(|target| target["expr"].as_str()) {
        for variables in VARIABLES {
            let put = |text: String, (name, value): &(&str, &str)| text.replace(name, value);
            let expression = variables.iter().fold(expression.to_owned(), put);
            if expression.contains('$') {
                return Err(failed(format!(
                    "a variable that is not known: {expression}"
                )));
            }
            let name = format!("panel:expression_{}", rules.len());
            rules.push(json!({ "record": name, "expr": expression }));
        }
    }
    if rules.is_empty() {
        return Err(failed("no panel has an expression".to_owned()));
    }
    let groups = json!({ "groups": [{ "name": "panels", "rules": rules }] });
    let file = target_folder()?.join("expressions_of_panels.yml");
    // JSON is YAML, too.
    fs::write(&file, groups.to_string()).map_err(|error| failed(error.to_string()))?;
    program(promtool, &["check", "rules"])
        .arg(&file.display().to_string())
        .run()
}

fn target_folder() -> Result<PathBuf, Failure> {
    let us = std::env::current_exe().map_err(|error| Failure(format!("xtask: {error}")))?;
    // target/debug/xtask
    let target = us.ancestors().nth(2).unwrap_or(Path::new("target"));
    Ok(target.to_owned())
}

/// Taken out of the package: to install that would start a server.
fn provide() -> Result<PathBuf, Failure> {
    let named = std::env::var_os(VARIABLE).map(PathBuf::from);
    let found = named.unwrap_or_else(|| "promtool".into());
    if program(&found, &["--version"]).output().is_ok() {
        return Ok(found);
    }
    let failed = |error: std::io::Error| Failure(format!("promtool: {error}"));
    let folder = target_folder()?.join("servers").join("prometheus");
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
