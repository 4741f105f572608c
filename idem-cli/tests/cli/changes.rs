//! What is changed, what is refused, and what the audit log says of both.

use std::future::pending;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use idem::{Engine, Error, Fingerprint, OnCrash, Operation};
use idem_tests::{Postgres, Redis, wait_until};
use serde_json::json;
use tokio::sync::Notify;

use crate::tool::Tool;

const LIMIT: Duration = Duration::from_secs(60);
const NAMED: &[&str] = &["--operation", "refunds", "--key", "k"];

fn with<'a>(words: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [words, NAMED, more].concat()
}

pub(crate) async fn engine(tool: &Tool) -> Engine {
    idem::connect(tool.url()).await.unwrap().build()
}

pub(crate) fn refunds(engine: &Engine) -> Operation {
    engine
        .operation("refunds")
        .lease(Duration::from_secs(30))
        .on_crash(OnCrash::Refuse)
}

pub(crate) async fn run(engine: &Engine, value: u64) -> Result<u64, Error> {
    let fingerprint = Fingerprint::of(&"a refund").unwrap();
    refunds(engine)
        .run("k", fingerprint, async { Ok(value) })
        .await
}

/// Leaves an attempt that crashed.
pub(crate) async fn crash(engine: &Engine) {
    let fingerprint = Fingerprint::of(&"a refund").unwrap();
    let (operation, begun) = (refunds(engine), Arc::new(Notify::new()));
    let ours = Arc::clone(&begun);
    let task = tokio::spawn(async move {
        let body = async {
            ours.notify_one();
            pending::<Result<u64, Error>>().await
        };
        operation.run("k", fingerprint, body).await
    });
    begun.notified().await;
    task.abort();
    let _ = task.await;
    engine.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_is_resolved_with_its_value() {
    let tool = Tool::over_sqlite();
    let engine = engine(&tool).await;
    crash(&engine).await;
    assert!(matches!(
        run(&engine, 1).await,
        Err(Error::OutcomeUnknown { .. })
    ));

    let no_json = tool.write("no.json", "{charge");
    tool.fails(2, &with(&["resolve"], &["--value", &no_json, "--yes"]));
    tool.fails(2, &with(&["resolve"], &["--yes"]));
    let value = tool.write("value.json", "42");
    tool.json(&with(&["resolve"], &["--value", &value, "--yes"]));
    assert_eq!(run(&engine, 1).await.unwrap(), 42);
    let seen = tool.object(&with(&["get"], &["--show-body"]));
    assert_eq!(
        seen["outcome"],
        json!({"kind": "value", "bytes": 2, "body": "42"})
    );

    // A finished record is only forgotten.
    tool.fails(3, &with(&["resolve"], &["--value", &value, "--yes"]));
    tool.fails(3, &with(&["release"], &["--yes"]));
    tool.json(&with(&["forget"], &["--yes"]));
    assert_eq!(run(&engine, 1).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_released_key_runs_again() {
    let tool = Tool::over_sqlite();
    let engine = engine(&tool).await;
    crash(&engine).await;
    let said = tool.object(&with(
        &["release"],
        &["--yes", "--reason", "the provider has nothing"],
    ));
    assert_eq!(said["result"], "released");
    tool.fails(1, &with(&["get"], &[]));
    assert_eq!(run(&engine, 3).await.unwrap(), 3);
}

/// At a terminal, where somebody answers.
fn at_a_terminal(tool: &Tool, args: &[&str], answer: &str) -> (i32, String) {
    let quoted = |word: &&str| format!("'{word}'");
    let line: Vec<_> = args.iter().map(quoted).collect();
    let line = format!("{} {}", env!("CARGO_BIN_EXE_idem"), line.join(" "));
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    script
        .env("IDEM_STORE", tool.url())
        .env("IDEM_AUDIT", tool.audit_log());
    script.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut script = script.spawn().unwrap();
    let mut input = script.stdin.take().unwrap();
    input.write_all(answer.as_bytes()).unwrap();
    let output = script.wait_with_output().unwrap();
    drop(input);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code().unwrap_or(-1), said)
}

#[tokio::test(flavor = "multi_thread")]
async fn at_a_terminal_the_record_is_shown_and_somebody_is_asked() {
    let tool = Tool::over_sqlite();
    let engine = engine(&tool).await;
    crash(&engine).await;
    let release = with(&["release"], &[]);
    for no in ["n\n", "\n", "what\n"] {
        let (status, said) = at_a_terminal(&tool, &release, no);
        assert_eq!(status, 3, "{said}");
        assert!(said.contains("crashed") && said.contains("[y/N]"), "{said}");
    }
    assert!(tool.audited().is_empty());
    assert_eq!(tool.object(&with(&["get"], &[]))["attempt"], 1);
    let (status, said) = at_a_terminal(&tool, &release, "y\n");
    assert_eq!(status, 0, "{said}");
    assert_eq!(run(&engine, 3).await.unwrap(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_changed_where_the_audit_log_cannot_be_written() {
    let tool = Tool::over_sqlite();
    let engine = engine(&tool).await;
    crash(&engine).await;
    let directory = tool.path("").display().to_string();
    for command in ["release", "forget"] {
        let said = tool.fails(3, &with(&[command], &["--yes", "--audit", &directory]));
        assert!(said.contains("nothing was changed"), "{said}");
    }
    let seen = tool.object(&with(&["get"], &[]));
    assert_eq!(
        (&seen["state"], &seen["attempt"]),
        (&json!("crashed"), &json!(1))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_was_cut_off_in_the_audit_log_spoils_no_other() {
    let tool = Tool::over_sqlite();
    let engine = engine(&tool).await;
    crash(&engine).await;
    std::fs::create_dir_all(tool.path("state")).unwrap();
    tool.write("state/audit.jsonl", "{\"at\":\"20");
    tool.json(&with(&["forget"], &["--yes"]));
    let log = std::fs::read_to_string(tool.audit_log()).unwrap();
    let lines: Vec<_> = log.lines().collect();
    assert_eq!(lines.len(), 3, "{log}");
    assert!(
        lines[1].contains("intent") && lines[2].contains("done"),
        "{log}"
    );
}

/// An attempt that runs, in this process; it ends when it is told to.
async fn a_living_owner_is_left_alone_unless_forced(tool: Tool) {
    let engine = engine(&tool).await;
    let fingerprint = Fingerprint::of(&"a refund").unwrap();
    let (operation, gate) = (
        // So long that it is alive for as long as somebody looks.
        refunds(&engine).lease(Duration::from_secs(60)),
        Arc::new(Notify::new()),
    );
    let ours = Arc::clone(&gate);
    let owner = tokio::spawn(async move {
        let body = async {
            ours.notified().await;
            Ok::<u64, Error>(1)
        };
        operation.run("k", fingerprint, body).await
    });
    wait_until("a running attempt", LIMIT, || {
        let said = tool.run(&with(&["get"], &[]));
        match said.out.contains("running") {
            true => Ok(()),
            false => Err(said.err),
        }
    });
    let value = tool.write("value.json", "42");
    for command in [
        &["resolve", "--value", &value][..],
        &["release"],
        &["forget"],
    ] {
        let said = tool.fails(3, &with(command, &["--yes"]));
        assert!(said.contains("--force"), "{said}");
    }
    assert!(tool.audited().is_empty());

    tool.json(&with(
        &["resolve", "--value", &value],
        &["--yes", "--force"],
    ));
    gate.notify_one();
    // It did happen: its caller is told so. Everybody else gets what was resolved.
    assert_eq!(owner.await.unwrap().unwrap(), 1);
    engine.idle().await;
    let later = self::engine(&tool).await;
    assert_eq!(run(&later, 9).await.unwrap(), 42);
    let audited = tool.audited();
    assert_eq!(
        (&audited[0]["forced"], &audited[0]["state"]),
        (&json!(true), &json!("running"))
    );
    assert_eq!(audited[1]["result"], "done");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_living_owner_in_sqlite_is_left_alone_unless_forced() {
    a_living_owner_is_left_alone_unless_forced(Tool::over_sqlite()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_living_owner_in_redis_is_left_alone_unless_forced() {
    let redis = Redis::start();
    a_living_owner_is_left_alone_unless_forced(Tool::over(redis.url())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_living_owner_in_postgres_is_left_alone_unless_forced() {
    let postgres = Postgres::start();
    a_living_owner_is_left_alone_unless_forced(Tool::over(postgres.url())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_may_only_read_looks_and_changes_nothing() {
    let postgres = Postgres::start();
    let tool = Tool::over(postgres.url());
    let engine = engine(&tool).await;
    crash(&engine).await;
    postgres.psql("CREATE ROLE reader LOGIN; GRANT SELECT ON idem_records, idem_schema TO reader");
    let reader = Tool::over(postgres.url().replace("postgres@", "reader@"));
    assert_eq!(reader.object(&with(&["get"], &[]))["state"], "crashed");
    assert_eq!(reader.json(&["stuck"]).len(), 1);
    let said = reader.fails(4, &with(&["release"], &["--yes"]));
    assert!(said.contains("nothing was changed"), "{said}");
    let audited = reader.audited();
    assert_eq!(audited[1]["result"], "failed");
    assert_eq!(tool.object(&with(&["get"], &[]))["attempt"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_login_that_may_only_read_looks_and_changes_nothing() {
    let redis = Redis::start();
    let tool = Tool::over(redis.url());
    let engine = engine(&tool).await;
    crash(&engine).await;
    // Those that the guide lists.
    let rights = "+ping +get +getrange +strlen +pttl +scan +time +info +eval +evalsha";
    let login = ["ACL", "SETUSER", "reader", "on", ">pw", "~idem:*"];
    let rules: Vec<_> = login.into_iter().chain(rights.split(' ')).collect();
    redis.console().call(&rules);
    let reader = Tool::over(redis.url().replace("redis://", "redis://reader:pw@"));
    assert_eq!(reader.object(&with(&["get"], &[]))["state"], "crashed");
    assert_eq!(reader.json(&["stuck"]).len(), 1);
    assert_eq!(reader.object(&["stats"])["total"]["crashed"], 1);
    let said = reader.fails(4, &with(&["release"], &["--yes"]));
    assert!(said.contains("nothing was changed"), "{said}");
    assert_eq!(tool.object(&with(&["get"], &[]))["attempt"], 1);
}

#[test]
fn no_error_repeats_what_is_secret_of_a_url() {
    for (status, url) in [
        (4, "redis://app:hunter2@127.0.0.1:1"),
        (4, "redis-cluster://app:hunter2@127.0.0.1:1"),
        (4, "postgres://app:hunter2@127.0.0.1:1/shop"),
        (2, "mongodb://app:hunter2@127.0.0.1"),
        (2, "redis://app:hunter2@127.0.0.1?hunter2=1"),
        (2, "hunter2"),
        (2, "sqlite://file.db?hunter2"),
    ] {
        let tool = Tool::over(url);
        for args in [
            &["list"][..],
            &["doctor"],
            &["sweep"],
            &["get", "--operation", "a", "--key", "b"],
        ] {
            let said = tool.fails(status, args);
            assert!(
                !said.contains("hunter2") && !said.is_empty(),
                "{url}: {said}"
            );
        }
    }
    // In the wrong place.
    let tool = Tool::over_sqlite();
    for args in [
        &["list", "redis://app:hunter2@db"][..],
        &["redis://app:hunter2@db"],
        &["get", "redis://app:hunter2@db"],
        &["list", "--limit", "redis://app:hunter2@db"],
        &["--stoer", "redis://app:hunter2@db", "list"],
        &["--stoer=redis://app:hunter2@db", "list"],
    ] {
        let said = tool.fails(2, args);
        assert!(!said.contains("hunter2"), "{said}");
    }
    assert!(!tool.text(&["--help"]).contains("sqlite:///"));
}

#[test]
fn a_store_that_is_not_there_is_not_made() {
    let tool = Tool::over_sqlite();
    for (status, command) in [(4, "list"), (5, "doctor"), (4, "sweep")] {
        tool.fails(status, &[command]);
    }
    assert!(!tool.path("records.db").exists());
    assert!(tool.audited().is_empty());
    let memory = Tool::over("memory://");
    memory.fails(4, &["list"]);
}
