//! Sessions that hang: in a row's lock that another transaction does not give back.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use idem::StoreError;
use idem::store::{Change, Claimed, Lease, Store};
use idem::stores::mysql::MySqlStore;
use idem_tests::{MariaDb, wait_until};
use sqlx::mysql::MySqlPoolOptions;

use crate::conformance::{claim, patient_at};

const LIMIT: Duration = Duration::from_secs(20);

/// Another program's transaction that has locked every record.
struct Locks(Child);

impl Locks {
    fn take(server: &MariaDb) -> Self {
        let mut command = server.client_command("mariadb");
        let mut client = command
            .args(["--unbuffered", "--skip-column-names", "shop"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = client.stdin.as_mut().unwrap();
        let locks = "SELECT attempt FROM idem_records FOR UPDATE";
        writeln!(input, "BEGIN; {locks}; SELECT 'has locks';").unwrap();
        input.flush().unwrap();
        // It says so itself: what the server tells of transactions is not read anew for who asks often.
        let said = BufReader::new(client.stdout.as_mut().unwrap());
        let has_locks = said.lines().any(|line| line.unwrap() == "has locks");
        assert!(has_locks, "the client has ended");
        Self(client)
    }
}

impl Drop for Locks {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn sessions(server: &MariaDb) -> usize {
    let sessions = "SELECT COUNT(*) FROM information_schema.PROCESSLIST \
        WHERE DB = 'shop' AND ID <> CONNECTION_ID()";
    server.sql(sessions).parse().unwrap()
}

#[tokio::test]
async fn a_lock_that_is_not_given_back_is_busy_within_the_time_of_a_call() {
    let server = MariaDb::start();
    // Its server gives a lock up two seconds before the call is given up.
    let store = MySqlStore::connect(&format!("{}?timeout=8s", server.url())).await;
    let store = store.unwrap();
    let held = claim(1);
    assert_eq!(store.claim(&held).await.unwrap(), Claimed::acquired(1));
    let locks = Locks::take(&server);
    let began = Instant::now();
    let renewed = store.renew(&Lease::of(&held, 1)).await;
    assert!(
        matches!(renewed, Err(StoreError::Busy { .. })),
        "{renewed:?}"
    );
    // The server's own limit is 50 seconds.
    assert!(began.elapsed() < LIMIT, "{:?}", began.elapsed());
    // What only reads waits for nothing.
    let other = store.claim(&claim(1)).await.unwrap();
    assert!(matches!(other, Claimed::InFlight { .. }), "{other:?}");
    drop(locks);
    let renewed = wait_for_renewal(&store, &Lease::of(&held, 1)).await;
    assert_eq!(renewed, Change::Applied);
}

async fn wait_for_renewal(store: &MySqlStore, lease: &Lease) -> Change {
    let began = Instant::now();
    loop {
        match store.renew(lease).await {
            Ok(change) => return change,
            Err(error) => assert!(began.elapsed() < LIMIT, "{error:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_a_pool_that_hang_are_ended_and_not_replaced_without_end() {
    let server = MariaDb::start();
    let pool = MySqlPoolOptions::new().max_connections(3);
    let pool = pool.connect(&server.url()).await.unwrap();
    // However long it takes on a busy machine.
    let url = format!("{}?timeout=20s&sweep=off", server.url());
    let patient = MySqlStore::connect(&url).await.unwrap();
    let held = claim(1);
    assert_eq!(patient.claim(&held).await.unwrap(), Claimed::acquired(1));
    drop(patient);
    wait_until("no session of another store", LIMIT, || {
        match sessions(&server) {
            // The pool's.
            ..=1 => Ok(()),
            more => Err(more.to_string()),
        }
    });
    let builder = MySqlStore::pool_builder(pool).sweep_every(None);
    let store = builder.timeout(Duration::from_millis(500)).build();
    let lease = Lease::of(&held, 1);
    let locks = Locks::take(&server);
    // The server's own limit for a lock is 50 seconds.
    for _ in 0..12 {
        let renewed = store.renew(&lease).await;
        let is_error = matches!(
            renewed,
            Err(StoreError::Unavailable { .. } | StoreError::NotSent { .. })
        );
        assert!(is_error, "{renewed:?}");
        // Those of the pool, the one that locks, and the one that ends sessions.
        assert!(sessions(&server) <= 5, "{}", sessions(&server));
    }
    wait_until("sessions that are ended", LIMIT, || {
        let waiting =
            "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE INFO LIKE 'UPDATE idem%'";
        match server.sql(waiting).as_str() {
            "0" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
    drop(locks);
    assert_eq!(wait_for_renewal(&store, &lease).await, Change::Applied);
}

#[tokio::test]
async fn a_deadlock_is_tried_again() {
    let server = MariaDb::start();
    let store = patient_at(&server.url()).await;
    // As many claims of as many records as there are connections, at once and again and again: inserts,
    // takeovers and deletions of the same places.
    let calls = (0..400_u16).map(|number| {
        let store = store.clone();
        async move {
            let claim = claim(u8::try_from(number % 5).unwrap());
            match store.claim(&claim).await.unwrap() {
                Claimed::Acquired { .. } => {
                    let released = store.release(&claim.id, &claim.token).await;
                    assert_eq!(released.unwrap(), Change::Applied);
                    1
                }
                _ => 0,
            }
        }
    });
    let acquired: u32 = futures_util::future::join_all(calls).await.iter().sum();
    assert!(acquired >= 5, "{acquired}");
    assert_eq!(server.sql("SELECT COUNT(*) FROM idem_records"), "0");
}
