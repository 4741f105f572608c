//! Processes that are killed in the middle of whatever they do. What they had acknowledged, by
//! running a body or answering a call, is there afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use idem::store::Store;
use idem::stores::sqlite::SqliteStore;
use idem::{EngineBuilder, Error, Fingerprint, Inspection, Key, OnCrash, Phase, RecordId};
use idem_tests::wait_until;
use serde_json::Value;

use crate::file::File;

const OPERATION: &str = "tests.worker";

/// A worker whose output stays behind.
struct Killed<'a> {
    file: &'a File,
    process: Child,
}

impl<'a> Killed<'a> {
    fn start(file: &'a File) -> Self {
        let output = std::fs::File::create(file.directory().join("output")).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_worker"))
            // Every call is to be answered.
            .args(["--store", &format!("{}?max_waiting=10000", file.url())])
            .arg("--effects")
            .arg(file.directory().join("effects"))
            .stdin(Stdio::piped())
            .stdout(output)
            .spawn()
            .unwrap();
        let started = Self { file, process };
        wait_until("a worker", Duration::from_secs(60), || {
            match started.events().is_empty() {
                true => Err("it is not ready".to_owned()),
                false => Ok(()),
            }
        });
        started
    }

    /// One call after the other. Each has a body that ends at once, but for every tenth.
    fn call(&mut self, keys: Vec<String>, pause: Option<Duration>) {
        let mut input = self.process.stdin.take().unwrap();
        std::thread::spawn(move || {
            for (number, key) in keys.iter().enumerate() {
                let end = match number % 10 {
                    9 => String::new(),
                    _ => format!("end {key}\n"),
                };
                // An error is its death.
                if writeln!(input, "{end}call {key} 1").is_err() {
                    return;
                }
                pause.into_iter().for_each(std::thread::sleep);
            }
            // Its input stays open, or it would end by itself.
            std::thread::sleep(Duration::from_secs(3600));
        });
    }

    /// SIGKILL.
    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn events(&self) -> Vec<Value> {
        let output = std::fs::read_to_string(self.file.directory().join("output")).unwrap();
        let whole = output.split_inclusive('\n').filter(|it| it.ends_with('\n'));
        whole
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Whose bodies have begun, and what was answered.
    fn acknowledged(&self) -> (BTreeSet<String>, BTreeMap<String, String>) {
        let mut started = BTreeSet::new();
        let mut answers = BTreeMap::new();
        let key = |event: &Value| event["key"].as_str().unwrap().to_owned();
        for event in self.events() {
            match event["event"].as_str().unwrap() {
                "started" => drop(started.insert(key(&event))),
                "answers" => {
                    let answer = event["answers"].as_object().unwrap().keys().next();
                    answers.insert(key(&event), answer.unwrap().clone());
                }
                _ => {}
            }
        }
        // What a body does comes before what it says.
        let effects = std::fs::read_to_string(self.file.directory().join("effects"));
        for effect in effects.unwrap_or_default().lines() {
            let words: Vec<_> = effect.split(' ').collect();
            if words[2] == self.process.id().to_string() {
                started.insert(words[0].to_owned());
            }
        }
        (started, answers)
    }
}

impl Drop for Killed<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn inspect(store: &SqliteStore, key: &str) -> Option<Inspection> {
    let id = RecordId::derive("", OPERATION, None, &Key::of(key).unwrap());
    store.inspect(&id).await.unwrap()
}

/// What a retry gets, which runs nothing.
async fn retry(store: &SqliteStore, key: &str) -> Result<String, Error> {
    let engine = EngineBuilder::new(std::sync::Arc::new(store.clone())).build();
    let operation = engine.operation(OPERATION).on_crash(OnCrash::Refuse);
    let body = async { panic!("{key} runs again") };
    operation
        .run(key, Fingerprint::of(&key).unwrap(), body)
        .await
}

/// Kills a process over and over, each time a little later, and looks at what it leaves behind.
async fn killed_in(pause: Option<Duration>) {
    let file = File::new();
    let (mut calls, mut cut_short) = (0, 0);
    for round in 0..12 {
        let mut worker = Killed::start(&file);
        worker.call((0..4000).map(|n| format!("{round}-{n}")).collect(), pause);
        let first_answer = || match worker.acknowledged().1.len() {
            0 => Err("nothing was answered".to_owned()),
            _ => Ok(()),
        };
        wait_until("an answer", Duration::from_secs(60), first_answer);
        let later = Duration::from_millis(rand::random_range(0..40));
        std::thread::sleep(later);
        worker.kill();

        let (started, answers) = worker.acknowledged();
        let store = file.store().await;
        for key in &started {
            let seen = inspect(&store, key).await;
            let Some(Inspection { attempt: 1, .. }) = &seen else {
                panic!("the claim of {key} is lost: {seen:?}");
            };
        }
        for (key, answer) in &answers {
            let seen = inspect(&store, key).await.unwrap().phase;
            assert!(matches!(seen, Phase::Finished { .. }), "{key}: {seen:?}");
            assert_eq!(retry(&store, key).await.unwrap(), *answer);
        }
        calls += answers.len();
        cut_short += started
            .iter()
            .filter(|key| !answers.contains_key(*key))
            .count();
    }
    println!("{calls} calls were answered, and {cut_short} were cut short");
    assert!(calls > 0 && cut_short > 0);
    let mut connection = file.connection().await;
    let whole: String = sqlx::query_scalar("PRAGMA integrity_check")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(whole, "ok");
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_kill_9_in_single_commits() {
    killed_in(Some(Duration::from_micros(1500))).await;
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_kill_9_in_group_commits() {
    killed_in(None).await;
}
