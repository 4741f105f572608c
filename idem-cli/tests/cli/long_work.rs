//! What takes long: it is counted right, and Ctrl-C leaves it consistent.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use idem::{Error, Fingerprint};
use idem_tests::wait_until;
use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions};

use crate::tool::{Tool, said};

const LIMIT: Duration = Duration::from_secs(60);

pub(crate) async fn execute(tool: &Tool, sql: &str) {
    let file = SqliteConnectOptions::new().filename(tool.path("records.db"));
    let file = file.busy_timeout(Duration::from_secs(30));
    let mut connection = file.connect().await.unwrap();
    let sql = AssertSqlSafe(sql.to_owned());
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
}

/// Finished records of one operation, which are over since then; a negative time: not yet.
async fn fill(tool: &Tool, operation: &str, count: u32, over_since: i64) {
    let sql = format!(
        "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {count})
         INSERT INTO idem_records (id, fingerprint, attempt, lease_until, gone_at, outcome, operation)
         SELECT randomblob(32), zeroblob(33), 1, 0, (unixepoch() - ({over_since})) * 1000, x'0156', '{operation}'
         FROM n"
    );
    execute(tool, &sql).await;
}

async fn count(tool: &Tool) -> i64 {
    let file = SqliteConnectOptions::new().filename(tool.path("records.db"));
    let mut connection = file.connect().await.unwrap();
    let count = sqlx::query_scalar("SELECT count(*) FROM idem_records");
    count.fetch_one(&mut connection).await.unwrap()
}

async fn tool() -> Tool {
    let tool = Tool::over_sqlite();
    let url = format!("{}?sweep=off", tool.url());
    drop(idem::connect(&url).await.unwrap());
    tool
}

pub(crate) fn interrupt(pid: u32) {
    let sent = Command::new("kill")
        .args(["-INT", &pid.to_string()])
        .status();
    assert!(sent.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_listed_and_counted_over_many_pages() {
    let tool = tool().await;
    fill(&tool, "charges", 2500, -3600).await;
    fill(&tool, "refunds", 10, -3600).await;
    fill(&tool, "refunds", 10, 3600).await;
    assert_eq!(tool.json(&["list"]).len(), 2510);
    assert_eq!(tool.json(&["list", "--operation", "refunds"]).len(), 10);
    assert_eq!(tool.json(&["list", "--limit", "7"]).len(), 7);
    assert_eq!(tool.json(&["list", "--state", "crashed"]).len(), 0);
    assert_eq!(tool.text(&["list", "--limit", "7"]).lines().count(), 8);
    let stats = tool.object(&["stats"]);
    assert_eq!(stats["total"]["records"], 2510);
    assert_eq!(stats["operations"]["charges"]["finished"], 2500);
    assert_eq!(stats["operations"]["refunds"]["bytes"], 20);

    // Who has seen enough ends it without a complaint.
    let mut list = tool.command(&["list"]);
    let mut list = list
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(list.stdout.take().unwrap())
        .read_line(&mut first)
        .unwrap();
    let said = said(list.wait_with_output().unwrap());
    assert_eq!((said.status, &*said.err), (0, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_deletes_what_is_over_and_nothing_else() {
    let tool = tool().await;
    fill(&tool, "charges", 600, 3600).await;
    fill(&tool, "charges", 5, -3600).await;
    assert_eq!(
        tool.object(&["sweep", "--limit", "100"]),
        json!({"deleted": 100})
    );
    assert_eq!(tool.object(&["sweep"]), json!({"deleted": 500}));
    assert_eq!(count(&tool).await, 5);
    let results: Vec<Value> = tool
        .audited()
        .into_iter()
        .map(|line| line["result"].clone())
        .collect();
    assert_eq!(
        results,
        [Value::Null, json!("done"), Value::Null, json!("done")]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_sweep_says_what_it_has_done() {
    const COUNT: u32 = 60_000;
    let tool = tool().await;
    fill(&tool, "charges", COUNT, 3600).await;
    // Each takes its time: all of them take much longer than it takes to interrupt it.
    execute(
        &tool,
        "CREATE TRIGGER slow BEFORE DELETE ON idem_records BEGIN
           SELECT count(*) FROM (WITH RECURSIVE n(i) AS
             (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 2000) SELECT i FROM n); END",
    )
    .await;
    let mut sweep = tool.command(&["sweep", "--json"]);
    let sweep = sweep
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while count(&tool).await == i64::from(COUNT) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    interrupt(sweep.id());
    let said = said(sweep.wait_with_output().unwrap());
    assert_eq!(said.status, 130, "{}{}", said.out, said.err);
    let report: Value = serde_json::from_str(&said.out).unwrap();
    let left = count(&tool).await;
    assert!(left > 0);
    assert_eq!(report["deleted"].as_i64(), Some(i64::from(COUNT) - left));
    assert_eq!(tool.audited()[1]["result"], "interrupted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_each_change_and_ends_with_the_outcome() {
    let tool = tool().await;
    let engine = idem::connect(tool.url()).await.unwrap().build();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let fingerprint = Fingerprint::of(&"").unwrap();
    let running = tokio::spawn(async move {
        let body = async {
            ended.await.unwrap();
            Ok::<u8, Error>(1)
        };
        engine
            .operation("charges")
            .run("k", fingerprint, body)
            .await
    });
    let named = ["--operation", "charges", "--key", "k"];
    wait_until("a record", LIMIT, || {
        match tool.run(&[&["get"], &named[..]].concat()) {
            said if said.status == 0 => Ok(()),
            said => Err(said.err),
        }
    });
    // Who asks for what hangs finds it; it is not stuck yet.
    assert_eq!(tool.json(&["stuck"]), Vec::<Value>::new());
    wait_until("an attempt that has run for a while", LIMIT, || {
        let hanging = tool.json(&["stuck", "--running-for", "50ms"]);
        match &hanging[..] {
            [one] if one["state"] == "running" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    // Its time is over before the record's end.
    let short = [&["watch", "--for", "10ms", "--interval", "0s"], &named[..]].concat();
    tool.fails(5, &short);

    let watch = |args: &[&str]| {
        let args = [
            &["watch", "--json", "--interval", "100ms"],
            &named[..],
            args,
        ]
        .concat();
        let mut watch = tool.command(&args);
        let mut watch = watch
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(watch.stdout.take().unwrap());
        let mut first = String::new();
        lines.read_line(&mut first).unwrap();
        assert!(first.contains("running"), "{first}");
        (watch, lines)
    };
    let (watched, _) = watch(&[]);
    interrupt(watched.id());
    assert_eq!(said(watched.wait_with_output().unwrap()).status, 130);

    let (mut watched, mut lines) = watch(&[]);
    end.send(()).unwrap();
    running.await.unwrap().unwrap();
    let mut second = String::new();
    lines.read_line(&mut second).unwrap();
    assert!(second.contains("finished"), "{second}");
    assert!(watched.wait().unwrap().success());
    tool.fails(1, &["watch", "--operation", "charges", "--key", "another"]);
}
