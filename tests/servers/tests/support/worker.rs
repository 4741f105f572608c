//! A worker process, as a test drives it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::Value;

/// How long an event may take to come. It bounds a hang, and says nothing of speed.
const PATIENCE: Duration = Duration::from_secs(180);

pub(crate) struct Worker {
    process: Child,
    input: ChildStdin,
    events: Receiver<Value>,
}

impl Worker {
    pub(crate) fn start(store: &str, effects: &Effects, options: &[&str]) -> Self {
        Self::start_in(store, effects, options, &[])
    }

    /// The same with these variables.
    pub(crate) fn start_in(
        store: &str,
        effects: &Effects,
        options: &[&str],
        environment: &[(&str, String)],
    ) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_worker"))
            .args(["--store", store])
            .arg("--effects")
            .arg(effects.path())
            .args(options)
            // Which one store alone asks for.
            .envs(idem_tests::dynamodb::CREDENTIALS)
            .envs(environment.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (sender, events) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap();
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        let worker = Self {
            process,
            input,
            events,
        };
        worker.expect("ready");
        worker
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    /// The next event, which must be this one.
    #[track_caller]
    pub(crate) fn expect(&self, event: &str) -> Value {
        let next = self.events.recv_timeout(PATIENCE);
        match next {
            Ok(next) if next["event"] == event => next,
            other => panic!("expected {event}, got {other:?}"),
        }
    }

    /// The next event, if there is one already.
    pub(crate) fn look(&self) -> Option<Value> {
        self.events.try_recv().ok()
    }

    /// All answers of a call, each with how often it was given.
    #[track_caller]
    pub(crate) fn answers(&self) -> BTreeMap<String, u64> {
        let event = self.expect("answers");
        serde_json::from_value(event["answers"].clone()).unwrap()
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub(crate) fn pause(&self) {
        self.signal("STOP");
    }

    pub(crate) fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("sh")
            .args(["-c", r#"kill -s "$1" "$2""#, "sh", name])
            .arg(self.pid().to_string())
            .status();
        assert!(sent.unwrap().success());
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What was really executed, by all processes: a file that each body adds a line to.
pub(crate) struct Effects(PathBuf);

impl Effects {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("idem-effects-{}-{number}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn path(&self) -> &Path {
        &self.0
    }

    /// The attempts that ran for a key, in their order.
    pub(crate) fn of(&self, key: &str) -> Vec<u32> {
        let lines = std::fs::read_to_string(&self.0).unwrap_or_default();
        lines
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .filter(|words| words[0] == key)
            .map(|words| words[1].parse().unwrap())
            .collect()
    }
}

impl Drop for Effects {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
