//! Runs commands and says what failed.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fmt, iter};

/// A command that did not succeed, in words.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FAILED: {}", self.0)
    }
}

/// One call of a program.
pub(crate) struct Call {
    words: Vec<String>,
    command: Command,
}

pub(crate) fn cargo(words: &[&str]) -> Call {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut call = program(Path::new(&cargo), words);
    "cargo".clone_into(&mut call.words[0]);
    // What cargo tells us of our package: build scripts that look at it would run again, and all that
    // depends on them would be built again.
    for (variable, _) in std::env::vars_os() {
        let name = variable.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            call.command.env_remove(&variable);
        }
    }
    call
}

pub(crate) fn program(path: &Path, words: &[&str]) -> Call {
    let mut command = Command::new(path);
    command.args(words);
    let words = words.iter().map(|word| (*word).to_owned());
    Call {
        words: iter::once(path.display().to_string())
            .chain(words)
            .collect(),
        command,
    }
}

impl Call {
    pub(crate) fn arg(mut self, word: &str) -> Self {
        self.words.push(word.to_owned());
        self.command.arg(word);
        self
    }

    pub(crate) fn args(self, words: &[&str]) -> Self {
        words.iter().fold(self, |call, word| call.arg(word))
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it, its output going where ours goes.
    pub(crate) fn run(mut self) -> Result<(), Failure> {
        match self.command.status() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(self.failure(&status.to_string())),
            Err(error) => Err(self.failure(&error.to_string())),
        }
    }

    /// Runs it and gives its output.
    pub(crate) fn output(mut self) -> Result<String, Failure> {
        match self.command.output() {
            Ok(output) if output.status.success() => {
                Ok(String::from_utf8_lossy(&output.stdout).into_owned())
            }
            Ok(output) => Err(self.failure(&String::from_utf8_lossy(&output.stderr))),
            Err(error) => Err(self.failure(&error.to_string())),
        }
    }

    fn failure(&self, why: &str) -> Failure {
        Failure(format!("{}: {why}", self.words.join(" ")))
    }
}

/// The steps of a command, and how long each of them took.
pub(crate) struct Steps {
    begun: Instant,
    took: Vec<(&'static str, Duration)>,
}

impl Steps {
    pub(crate) fn new() -> Self {
        Self {
            begun: Instant::now(),
            took: Vec::new(),
        }
    }

    /// Runs the next one.
    pub(crate) fn step(
        &mut self,
        name: &'static str,
        run: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        println!("\n=== {name}");
        let begun = Instant::now();
        let ended = run();
        self.took.push((name, begun.elapsed()));
        ended
    }
}

/// Also where a step has failed.
impl Drop for Steps {
    fn drop(&mut self) {
        println!();
        for (name, took) in &self.took {
            println!("{:>7.1} s  {name}", took.as_secs_f64());
        }
        println!("{:>7.1} s", self.begun.elapsed().as_secs_f64());
    }
}
