//! Another process, which has the file's lock.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::file::File;

/// Another process, which holds a lock for as long as this lives.
pub(crate) struct Holder(Child);

impl Holder {
    /// Keeps others from writing.
    pub(crate) fn of_the_write_lock(file: &File) -> Self {
        Self::start(file, "BEGIN IMMEDIATE")
    }

    /// Writes a little, over and over.
    pub(crate) fn who_writes(file: &File) -> Self {
        Self::run(file, &["sqlite-writes"], "it writes")
    }

    /// Keeps others from everything.
    pub(crate) fn of_the_file(file: &File) -> Self {
        Self::start(file, "PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE")
    }

    pub(crate) fn start(file: &File, statement: &str) -> Self {
        Self::run(file, &["sqlite", statement], "it is locked")
    }

    fn run(file: &File, what: &[&str], ready: &str) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_hold"))
            .arg(what[0])
            .arg(file.path())
            .args(&what[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let mut lines = output.lines().map_while(Result::ok);
        assert!(lines.any(|line| line.ends_with(ready)));
        // Whoever closes its output kills it before it unlocks.
        std::thread::spawn(move || lines.for_each(drop));
        Self(process)
    }

    /// Stands still, with what it holds.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.0.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status();
        assert!(sent.unwrap().success());
    }

    pub(crate) fn unlock(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
