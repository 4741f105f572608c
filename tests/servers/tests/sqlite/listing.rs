//! Listings of tables that are larger than a page looks at.

use std::collections::HashSet;
use std::time::Duration;

use idem::store::{Claim, Listing, Page, RecordState, Store};
use idem::stores::sqlite::SqliteStore;
use idem::{Fingerprint, RecordId};
use sqlx::Connection;

use crate::file::File;

/// The most records that a page looks at.
const LOOKED_AT: usize = 2000;

/// A table with so many finished records, and as many expired ones.
async fn filled(file: &File, records: usize) -> SqliteStore {
    let store = SqliteStore::builder(&file.url()).unwrap();
    let store = store.sweep_every(None).connect().await.unwrap();
    file.run(&format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {})
         INSERT INTO idem_records
            (id, fingerprint, attempt, token, lease_until, gone_at, outcome, operation, claimed_at)
         SELECT randomblob(32), x'01', 1, x'02', 1, iif(i > {records}, 1, 4102444800000), x'0102',
            'orders.create', 1
         FROM n",
        2 * records
    ))
    .await;
    store
}

async fn pages(store: &SqliteStore, mut listing: Listing) -> Vec<Page> {
    let mut pages: Vec<Page> = Vec::new();
    loop {
        let page = store.list(&listing).await.unwrap();
        let next = page.next.clone();
        pages.push(page);
        match next {
            Some(next) => listing = listing.after(next),
            None => return pages,
        }
    }
}

#[tokio::test]
async fn a_page_looks_at_a_bounded_number_of_records_and_the_pages_at_all() {
    let file = File::new();
    let store = filled(&file, 5 * LOOKED_AT).await;
    let last = Claim::new(
        RecordId::from_bytes([0xff; 32]),
        Fingerprint::of("request").unwrap(),
        Duration::from_secs(30),
        Duration::from_secs(30),
    );
    store.claim(&last).await.unwrap();
    // There is one, and it is the last.
    let found = pages(&store, Listing::new(10).in_state(RecordState::Running)).await;
    assert_eq!(found.len(), 11);
    let (last, before) = found.split_last().unwrap();
    assert!(before.iter().all(|page| page.records.is_empty()));
    assert_eq!(last.records.len(), 1);
    let found = pages(&store, Listing::new(1000).of_operation("orders.create")).await;
    let records: HashSet<_> = found
        .iter()
        .flat_map(|page| page.records.iter().map(|listed| listed.id))
        .collect();
    assert_eq!(records.len(), 5 * LOOKED_AT);
    assert!(found.len() <= 21, "{}", found.len());
}

#[tokio::test]
async fn a_listing_waits_for_no_writer() {
    let file = File::new();
    let store = filled(&file, 10).await;
    let mut writer = file.connection().await;
    let transaction = writer.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let page = store.list(&Listing::new(100)).await.unwrap();
    assert_eq!(page.records.len(), 10);
    assert_eq!(page.next, None);
    drop(transaction);
}
