//! An example as a process of its own, and a browser.

#![allow(
    missing_docs,
    missing_debug_implementations,
    reason = "for the tests here alone"
)]

mod browser;

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};

pub use browser::Browser;
use idem_frameworks::Server;

/// A server that is killed when the test ends.
pub struct Example {
    process: Child,
    pub server: Server,
    /// What it prints after its address. Kept open: a program whose output nobody takes fails when
    /// it prints.
    pub output: Lines<BufReader<ChildStdout>>,
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A worker that listens to nobody, killed when the test ends.
pub struct Worker {
    process: Child,
    output: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    pub fn start(name: &str, options: &[&str]) -> Self {
        let mut process = call(name)
            .args(options)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, output }
    }

    /// The next line that it prints.
    pub fn line(&mut self) -> String {
        self.output.next().unwrap().unwrap()
    }

    /// As `kill -9` does.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Builds it, and calls it.
fn call(name: &str) -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    // What cargo tells this test of its package: build scripts that look at it would run again, and all
    // that depends on them would be built again.
    for (variable, _) in std::env::vars_os() {
        let name = variable.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&variable);
        }
    }
    let built = cargo
        // With everything that the tests are built with, so that nothing is built twice.
        .args(["build", "--quiet", "--workspace", "--all-features"])
        // Beside a test: without one cargo chooses other features of what both need.
        .args(["--bin", name, "--test", "frameworks"])
        .status()
        .unwrap();
    assert!(built.success());
    // Tests run in target/<profile>/deps, programs are in target/<profile>.
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().unwrap().parent().unwrap();
    Command::new(profile.join(name))
}

/// Runs one that ends by itself, and gives what it prints.
pub fn run(name: &str) -> String {
    let output = call(name).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

impl Example {
    /// Waits until it has ended by itself.
    pub fn wait(&mut self) {
        self.process.wait().unwrap();
    }

    /// Starts it on any free port.
    pub fn start(name: &str, options: &[&str]) -> Self {
        let mut process = call(name)
            .args(["--port", "0"])
            .args(options)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap()).lines();
        let first = output.next().unwrap().unwrap();
        let address = first.strip_prefix("listening on http://").unwrap();
        Self {
            process,
            server: Server(address.parse().unwrap()),
            output,
        }
    }
}
