//! Load: who holds a lease goes first, whoever else comes.

use idem::stores::mysql::MySqlStore;
use idem_tests::MariaDb;

use crate::flood::{self, Fared, HELD, LEASE};

/// Its disk takes no part: who goes first is tested, and not how long a commit takes beside other programs.
fn without_disk() -> MariaDb {
    MariaDb::builder()
        .setting("innodb-flush-log-at-trx-commit", "0")
        .start()
}

/// Who was served, and nobody else, has left a record.
fn only_they_have_records(server: &MariaDb, fared: &Fared) {
    let records = server.sql("SELECT COUNT(*) FROM idem_records");
    assert_eq!(records, (fared.served + HELD).to_string(), "{fared:?}");
    assert!(fared.unsent > 0, "{fared:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn twenty_thousand_callers_cost_no_lease() {
    let server = without_disk();
    let here = MySqlStore::connect(&server.url()).await.unwrap();
    let elsewhere = MySqlStore::connect(&server.url()).await.unwrap();
    let fared = flood::costs_no_lease(here, elsewhere, 20_000, LEASE).await;
    only_they_have_records(&server, &fared);
}
