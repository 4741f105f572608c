//! Listings of tables that are larger than a page looks at.

use std::collections::HashSet;

use idem::store::{Listing, Page, RecordState, Store};
use idem::stores::postgres::PostgresStore;
use idem_tests::Postgres;
use sqlx::PgPool;

use crate::conformance::claim;

/// The most records that a page looks at.
const LOOKED_AT: usize = 2000;

/// A table with so many finished records, and as many expired ones.
async fn filled(records: usize) -> (Postgres, PostgresStore) {
    let postgres = Postgres::start();
    let url = format!("{}?sweep=off", postgres.url());
    let store = PostgresStore::connect(&url).await.unwrap();
    postgres.psql(&format!(
        "INSERT INTO idem_records (lease_until, expires_at, sweep_at, attempt, id, fingerprint, \
            token, outcome, operation, claimed_at) \
         SELECT now(), until, until, 1, sha256(n::text::bytea), '\\x01', '\\x02', '\\x0102', \
            'orders.create', now() \
         FROM (SELECT n, CASE WHEN n > {records} THEN now() ELSE now() + interval '1 day' END AS until \
            FROM generate_series(1, {}) AS n) AS rows",
        2 * records
    ));
    (postgres, store)
}

async fn pages(store: &PostgresStore, mut listing: Listing) -> Vec<Page> {
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
    let (postgres, store) = filled(5 * LOOKED_AT).await;
    store.claim(&claim(0xff)).await.unwrap();
    for url in [
        postgres.url(),
        format!("{}?pooler=transaction", postgres.url()),
    ] {
        let store = PostgresStore::connect(&url).await.unwrap();
        // There is one, and it is the last.
        let found = pages(&store, Listing::new(10).in_state(RecordState::Running)).await;
        assert_eq!(found.len(), 11);
        let (last, before) = found.split_last().unwrap();
        assert!(before.iter().all(|page| page.records.is_empty()));
        assert_eq!(last.records.len(), 1);
        let of_operation = Listing::new(1000).of_operation("orders.create");
        let found = pages(&store, of_operation).await;
        let records: HashSet<_> = found
            .iter()
            .flat_map(|page| page.records.iter().map(|listed| listed.id))
            .collect();
        assert_eq!(records.len(), 5 * LOOKED_AT);
        // Each page goes on where the one before has ended.
        assert!(found.len() <= 21, "{}", found.len());
    }
}

#[tokio::test]
async fn a_listing_waits_for_no_lock_on_a_record_and_takes_none() {
    let (postgres, store) = filled(10).await;
    let pool = PgPool::connect(&postgres.url()).await.unwrap();
    let mut transaction = pool.begin().await.unwrap();
    let lock = "SELECT id FROM idem_records FOR UPDATE";
    sqlx::query(lock)
        .fetch_all(&mut *transaction)
        .await
        .unwrap();
    let page = store.list(&Listing::new(100)).await.unwrap();
    assert_eq!(page.records.len(), 10);
    assert_eq!(page.next, None);
}

/// Another store's, or one that somebody has cut off.
#[tokio::test]
async fn a_cursor_that_is_none_of_this_store_begins_anew() {
    let (_postgres, store) = filled(3).await;
    for text in ["", "0-17", "é"] {
        let listing = Listing::new(10).after(idem::store::Cursor::new(text));
        assert_eq!(store.list(&listing).await.unwrap().records.len(), 3);
    }
}
