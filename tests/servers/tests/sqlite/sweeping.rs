//! Deleting what has expired, in nobody's way.

use std::sync::Arc;
use std::time::Duration;

use idem::Store;
use idem::stores::sqlite::SqliteStore;

use crate::file::File;
use crate::latencies::claims_until;

/// How long claims are watched without a sweep, to compare with.
const BEFORE: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn claims_are_served_while_much_is_swept() {
    let rows = std::env::var("IDEM_SWEEP_ROWS").map_or(10_000, |rows| rows.parse().unwrap());
    let file = File::new();
    drop(file.store().await);
    file.run(&format!(
        "INSERT INTO idem_records (id, fingerprint, attempt, token, lease_until, gone_at, outcome) \
         SELECT randomblob(32), x'01', 1, x'02', 1, 2 + abs(random() % 86400000), randomblob(300) \
         FROM (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {rows}) \
               SELECT i FROM n)"
    ))
    .await;
    assert_eq!(file.number("SELECT count(*) FROM idem_records").await, rows);

    // It sweeps, too, half a minute after it was opened.
    let still = file.store().await;
    let before = claims_until(Arc::new(still.clone()), tokio::time::sleep(BEFORE)).await;
    println!("before the sweep: {before}");
    drop(still);

    let builder = SqliteStore::builder(&file.url()).unwrap();
    let sweeps = builder.sweep_every(Duration::from_millis(1));
    let sweeps: Arc<dyn Store> = Arc::new(sweeps.connect().await.unwrap());
    let swept = async {
        let expired = "SELECT EXISTS (SELECT 1 FROM idem_records WHERE gone_at < 86400002)";
        while file.number(expired).await > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let meanwhile = claims_until(sweeps, swept).await;
    println!("during the sweep of {rows} records: {meanwhile}");
    // What is alive is all there.
    let left = file.number("SELECT count(*) FROM idem_records").await;
    let alive = before.count() + meanwhile.count();
    assert_eq!(usize::try_from(left).unwrap(), alive);
}
