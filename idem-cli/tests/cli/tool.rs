//! The binary, and what it said.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use idem_tests::TempDir;
use serde_json::Value;

/// The tool over one store, with an audit log of its own.
pub(crate) struct Tool {
    url: String,
    directory: TempDir,
}

pub(crate) struct Said {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Tool {
    pub(crate) fn over(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            directory: TempDir::new("idem-cli"),
        }
    }

    /// A store in a file that is not there yet.
    pub(crate) fn over_sqlite() -> Self {
        let mut tool = Self::over("");
        tool.url = format!("sqlite://{}", tool.path("records.db").display());
        tool
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_idem"));
        command
            .args(args)
            .env("IDEM_STORE", &self.url)
            .env("IDEM_AUDIT", self.audit_log())
            .env_remove("IDEM_NAMESPACE")
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn audit_log(&self) -> PathBuf {
        self.path("state/audit.jsonl")
    }

    /// What is in the audit log.
    pub(crate) fn audited(&self) -> Vec<Value> {
        lines(&read(&self.audit_log()))
    }

    pub(crate) fn run(&self, args: &[&str]) -> Said {
        said(self.command(args).output().unwrap())
    }

    /// Its objects, where it has ended well.
    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> Vec<Value> {
        let said = self.run(&[args, &["--json"]].concat());
        assert_eq!(said.status, 0, "{args:?}: {}{}", said.out, said.err);
        lines(&said.out)
    }

    /// Its one object.
    #[track_caller]
    pub(crate) fn object(&self, args: &[&str]) -> Value {
        let mut objects = self.json(args);
        assert_eq!(objects.len(), 1, "{args:?}: {objects:?}");
        objects.remove(0)
    }

    /// Its output for people.
    #[track_caller]
    pub(crate) fn text(&self, args: &[&str]) -> String {
        let said = self.run(args);
        assert_eq!(said.status, 0, "{args:?}: {}{}", said.out, said.err);
        said.out
    }

    /// What it says when it ends with this status.
    #[track_caller]
    pub(crate) fn fails(&self, status: i32, args: &[&str]) -> String {
        let said = self.run(args);
        assert_eq!(said.status, status, "{args:?}: {}{}", said.out, said.err);
        said.err
    }
}

pub(crate) fn said(output: Output) -> Said {
    Said {
        status: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect()
}
