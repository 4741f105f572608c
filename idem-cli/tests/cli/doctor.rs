//! What the doctor finds.

use idem_tests::{MariaDb, Postgres, Redis};
use serde_json::Value;

use crate::tool::{Tool, said};

fn severity<'a>(report: &'a Value, subject: &str) -> &'a str {
    let findings = report["findings"].as_array().unwrap();
    let found = findings
        .iter()
        .find(|finding| finding["subject"] == subject);
    let found = found.unwrap_or_else(|| panic!("{subject} in {report}"));
    // What is not fine has a meaning, and says what to do.
    for text in ["meaning", "advice"] {
        let is_empty = found[text] == "";
        assert_eq!(is_empty, found["severity"] == "fine", "{found}");
    }
    found["severity"].as_str().unwrap()
}

async fn use_once(url: &str) {
    drop(idem::connect(url).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_that_evicts_and_forgets_is_told() {
    let redis = Redis::with(&["--maxmemory-policy", "allkeys-lru"]);
    let tool = Tool::over(redis.url());
    let report = tool.object(&["doctor"]);
    assert_eq!(severity(&report, "maxmemory-policy"), "warning");
    assert_eq!(severity(&report, "appendonly"), "warning");
    assert_eq!(severity(&report, "transitions"), "fine");
    assert_eq!(severity(&report, "clock"), "fine");
    // It leaves nothing behind.
    assert_eq!(tool.json(&["list"]), Vec::<Value>::new());
    assert!(
        tool.text(&["doctor"])
            .contains("set maxmemory-policy to noeviction")
    );

    let sound = Redis::with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let report = Tool::over(sound.url()).object(&["doctor"]);
    for subject in ["maxmemory-policy", "appendonly", "appendfsync", "version"] {
        assert_eq!(severity(&report, subject), "fine");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_login_without_a_right_is_a_problem() {
    let redis = Redis::start();
    let rules = [
        "ACL", "SETUSER", "app", "on", ">pw", "~idem:*", "&idem:*", "+@all", "-eval", "-evalsha",
    ];
    redis.console().call(&rules);
    let tool = Tool::over(redis.url().replace("redis://", "redis://app:pw@"));
    let said = said(tool.command(&["doctor", "--json"]).output().unwrap());
    assert_eq!(said.status, 5, "{}{}", said.out, said.err);
    let report: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(severity(&report, "transitions"), "problem");
    assert!(!said.out.contains("pw@"));
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_that_does_not_wait_for_its_disk_is_told() {
    let postgres = Postgres::builder()
        .setting("synchronous_commit", "off")
        .start();
    use_once(&postgres.url()).await;
    let tool = Tool::over(postgres.url());
    let report = tool.object(&["doctor"]);
    assert_eq!(severity(&report, "synchronous_commit"), "warning");
    for subject in ["schema", "rights", "fsync", "writes", "sweeping", "clock"] {
        assert_eq!(severity(&report, subject), "fine");
    }

    // Nobody sweeps.
    postgres.psql(
        "INSERT INTO idem_records (id, attempt, fingerprint, lease_until, expires_at, sweep_at)
         SELECT 'a', 1, 'b', t, t, t FROM (SELECT now() - interval '2 hours') AS of (t)",
    );
    assert_eq!(severity(&tool.object(&["doctor"]), "sweeping"), "warning");
    assert_eq!(tool.object(&["sweep"])["deleted"], 1);
    assert_eq!(severity(&tool.object(&["doctor"]), "sweeping"), "fine");

    postgres.psql("CREATE ROLE reader LOGIN; GRANT SELECT ON idem_records, idem_schema TO reader");
    let reader = Tool::over(postgres.url().replace("postgres@", "reader@"));
    let said = reader.run(&["doctor", "--json"]);
    assert_eq!(said.status, 5, "{}{}", said.out, said.err);
    let report: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(severity(&report, "rights"), "problem");
    assert!(said.out.contains("INSERT, UPDATE, DELETE"), "{}", said.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_that_does_not_wait_for_its_disk_is_told() {
    let server = MariaDb::builder()
        .setting("innodb-flush-log-at-trx-commit", "2")
        .start();
    let tool = Tool::over(server.url());
    let said = tool.run(&["doctor", "--json"]);
    assert_eq!(said.status, 5, "there are no tables: {}", said.err);
    use_once(&server.url()).await;
    let report = tool.object(&["doctor"]);
    assert_eq!(
        severity(&report, "innodb_flush_log_at_trx_commit"),
        "warning"
    );
    for subject in [
        "schema",
        "rights",
        "sync_binlog",
        "writes",
        "sweeping",
        "clock",
    ] {
        assert_eq!(severity(&report, subject), "fine");
    }

    // Nobody sweeps.
    server.sql(
        "INSERT INTO idem_records (id, fingerprint, attempt, state, claimed_at, lease_until, \
            expires_at, sweep_at)
         SELECT REPEAT('a', 32), REPEAT('b', 33), 1, 'running', t, t, t, t
         FROM (SELECT UTC_TIMESTAMP(6) - INTERVAL 2 HOUR AS t) AS of_time",
    );
    assert_eq!(severity(&tool.object(&["doctor"]), "sweeping"), "warning");
    assert_eq!(tool.object(&["sweep"])["deleted"], 1);
    assert_eq!(severity(&tool.object(&["doctor"]), "sweeping"), "fine");

    server.sql(
        "CREATE USER 'reader'@'127.0.0.1' IDENTIFIED BY 'pw'; \
         GRANT SELECT ON shop.* TO 'reader'@'127.0.0.1'",
    );
    let reader = Tool::over(server.url().replace("root@", "reader:pw@"));
    let said = reader.run(&["doctor", "--json"]);
    assert_eq!(said.status, 5, "{}{}", said.out, said.err);
    let report: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(severity(&report, "rights"), "problem");
    assert!(said.out.contains("INSERT, UPDATE, DELETE"), "{}", said.out);
    assert!(!said.out.contains("reader:pw"));
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_with_a_moved_clock_is_a_problem() {
    let tool = Tool::over_sqlite();
    use_once(tool.url()).await;
    let report = tool.object(&["doctor"]);
    for subject in [
        "schema",
        "journal_mode",
        "synchronous",
        "writes",
        "clock_offset_ms",
        "sweeping",
        "clock",
    ] {
        assert_eq!(severity(&report, subject), "fine");
    }
    let moved = "UPDATE idem_schema SET clock_offset_ms = 3600000";
    crate::long_work::execute(&tool, moved).await;
    let said = tool.run(&["doctor", "--json"]);
    assert_eq!(said.status, 5, "{}{}", said.out, said.err);
    let report: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(severity(&report, "clock_offset_ms"), "problem");
    assert_eq!(severity(&report, "clock"), "warning");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_another_version_are_a_problem() {
    let tool = Tool::over_sqlite();
    use_once(tool.url()).await;
    let newer = "UPDATE idem_schema SET version = 99, min_version = 99";
    crate::long_work::execute(&tool, newer).await;
    let said = tool.run(&["doctor", "--json"]);
    assert_eq!(said.status, 5, "{}{}", said.out, said.err);
    let report: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(severity(&report, "store"), "problem");
    assert!(said.out.contains("99"), "{}", said.out);
    // Whoever only wants to look is told, too.
    assert!(tool.fails(4, &["list"]).contains("99"));

    let postgres = Postgres::start();
    let tool = Tool::over(postgres.url());
    let said = tool.run(&["doctor"]);
    assert_eq!(said.status, 5, "{}{}", said.out, said.err);
    assert!(said.out.contains("idem_records"), "{}", said.out);
    // It has not made them.
    assert_eq!(
        postgres.psql("SELECT count(*) FROM pg_class WHERE relname LIKE 'idem%'"),
        "0"
    );
}
