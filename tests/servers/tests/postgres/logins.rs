//! Logins and URLs: they work, and credentials appear nowhere.

use std::error::Error;
use std::time::Duration;

use idem::store::{Claimed, Store};
use idem::stores::postgres::PostgresStore;
use idem::{ConnectError, Engine, Fingerprint, StoreError};
use idem_tests::{Postgres, wait_until};
use sqlx::PgPool;
use tracing_subscriber::filter::LevelFilter;

use crate::conformance::claim;
use crate::limits::patient_at;
use crate::log::listen_to;

const SECRET: &str = "s3cr3t-p@ss";

/// Everything that can be asked of a store, of records from this number on.
pub(crate) async fn exercise(store: &PostgresStore, number: u8) {
    let (first, second) = (claim(number), claim(number + 1));
    let acquired = store.claim(&first).await.unwrap();
    assert_eq!(acquired, Claimed::acquired(1));
    let answer = store.claim(&claim(number)).await.unwrap();
    assert!(matches!(answer, Claimed::InFlight { .. }));
    let watch = store.watch(&first.id).await.unwrap();
    let _ = store
        .renew(&idem::store::Lease::of(&first, 1))
        .await
        .unwrap();
    let outcome = bytes::Bytes::from_static(b"outcome");
    let _ = store
        .complete(&idem::store::Lease::of(&first, 1), outcome)
        .await
        .unwrap();
    watch.await;
    store.claim(&second).await.unwrap();
    let _ = store.abandon(&second.id, &second.token).await.unwrap();
    let next = claim(number + 1);
    assert_eq!(store.claim(&next).await.unwrap(), Claimed::acquired(2));
    let _ = store.release(&next.id, &next.token).await.unwrap();
    assert!(store.inspect(&next.id).await.unwrap().is_none());
}

#[tokio::test]
async fn a_login_of_the_url_is_enough() {
    let postgres = Postgres::builder().login("app", SECRET).start();
    exercise(&patient_at(&postgres.url()).await, 0).await;
    // By its other name, too.
    let url = postgres.url().replace("postgres://", "postgresql://");
    let store = idem::stores::connect(&url).await.unwrap();
    assert_eq!(store.name(), "postgres");
    let named = "SELECT DISTINCT application_name FROM pg_stat_activity WHERE usename = 'app'";
    assert_eq!(postgres.psql(named), "idem");
}

/// A server that encrypts, with a certificate for 127.0.0.1 that vouches for itself.
fn with_tls() -> (Postgres, String) {
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (certificate, key) = (certified.cert.pem(), certified.signing_key.serialize_pem());
    let postgres = Postgres::start();
    for (name, pem) in [("server.crt", &certificate), ("server.key", &key)] {
        // By the server: a key is to be its own. A row is a line.
        postgres.psql(&format!(
            "COPY (SELECT string_to_table('{}', E'\n')) \
             TO PROGRAM 'umask 077; cat >{name}'",
            pem.trim()
        ));
    }
    postgres.psql("ALTER SYSTEM SET ssl = on");
    postgres.psql("SELECT pg_reload_conf()");
    wait_until("encryption", Duration::from_secs(20), || {
        match &*postgres.psql("SHOW ssl") {
            "on" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
    (postgres, certificate)
}

#[tokio::test]
async fn over_tls_with_a_certificate_that_is_trusted_and_none_that_is_not() {
    let (postgres, certificate) = with_tls();
    let file = std::env::temp_dir().join(format!("idem-postgres-{}.pem", std::process::id()));
    std::fs::write(&file, certificate).unwrap();
    let verified = format!("{}?sslmode=verify-full", postgres.url());
    let trusted = format!("{verified}&sslrootcert={}", file.display());
    exercise(&PostgresStore::connect(&trusted).await.unwrap(), 0).await;
    let encrypted = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
        WHERE application_name = 'idem'";
    assert_eq!(postgres.psql(encrypted), "t");
    let error = PostgresStore::connect(&verified).await.unwrap_err();
    assert!(chain(&error).contains("ertificate"), "{}", chain(&error));
    // No outage: it will be refused again.
    assert!(
        matches!(error, ConnectError::Store(StoreError::Rejected { .. })),
        "{error:?}"
    );
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn an_authority_that_nothing_would_be_checked_by_is_refused() {
    for options in [
        "sslrootcert=/ca.pem&sslmode=prefer",
        "sslrootcert=/ca.pem&sslmode=require",
        "ssl-ca=/ca.pem&ssl-mode=require",
    ] {
        let url = format!("postgres://app:hunter2@db.example/shop?{options}");
        let error = PostgresStore::builder(&url).unwrap_err();
        assert!(matches!(error, ConnectError::BadOption { .. }), "{error:?}");
        let said = chain(&error);
        assert!(said.contains("verify-ca or verify-full"), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_a_mistake_and_no_outage() {
    for option in ["sslrootcert", "ssl-ca", "sslcert", "sslkey"] {
        let url = format!(
            "postgres://app:s3cr3t@db.example/shop?sslmode=verify-full&{option}=/s3cr3t/is%20not%20there.pem"
        );
        let error = PostgresStore::builder(&url).unwrap_err();
        assert!(matches!(error, ConnectError::BadOption { .. }), "{error:?}");
        let said = chain(&error);
        assert!(said.contains("can read"), "{said}");
        assert!(!said.contains("s3cr3t"), "{said}");
    }
}

/// An error with all its sources, both as they are displayed and as they are debugged.
fn chain(error: &dyn Error) -> String {
    let mut text = format!("{error} {error:?}");
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(" {error} {error:?}"));
        source = error.source();
    }
    text
}

#[tokio::test]
async fn urls_are_told_what_is_wrong_with_them_and_never_repeated() {
    let wrong = [
        ("postgres://app:hunter2@host:notaport", "postgres://[user"),
        (
            "postgres://app:hunter2@host/db?speed=hunter2",
            "max_connections, max_waiting, timeout, pooler, migrate, sweep",
        ),
        (
            "postgres://app:hunter2@host/db?timeout=hunter2",
            "2s or 500ms",
        ),
        (
            "postgres://app:hunter2@host/db?max_connections=1",
            "whole number from 2",
        ),
        (
            "postgres://app:hunter2@host/db?max_waiting=hunter2",
            "whole number",
        ),
        (
            "postgres://app:hunter2@host/db?pooler=hunter2",
            "session or transaction",
        ),
        (
            "postgres://app:hunter2@host/db?max_connections=hunter2",
            "whole number",
        ),
        (
            "postgres://app:hunter2@host/db?migrate=hunter2",
            "on or off",
        ),
        (
            "postgres://app:hunter2@host/db?sweep=hunter2",
            "60s, or off",
        ),
        (
            "postgres://app:hunter2@host/db?sslmode=hunter2",
            "postgres://[user",
        ),
        (
            "postgres://app:hunter2@host/db?port=hunter2",
            "postgres://[user",
        ),
        (
            "postgres://app:hunter2@host/db?statement-cache-capacity=0",
            "from 16",
        ),
        ("postgres://app:%ff@host/db", "postgres://[user"),
        ("postgress://app:hunter2@host/db", "no store"),
        ("postgres:app:hunter2@host/db", "no scheme"),
    ];
    let (log, _guard) = listen_to(LevelFilter::INFO);
    for (url, hint) in wrong {
        let Err(error) = idem::connect(url).await else {
            panic!("{url} is no store");
        };
        let message = chain(&error);
        assert!(message.contains(hint), "{url}: {message}");
        assert!(!message.contains("hunter2"), "{message}");
    }
    let log = log.take();
    assert!(!log.contains("hunter2"), "{log}");
}

#[tokio::test]
async fn credentials_are_in_no_log_error_or_debug_form() {
    let (log, _guard) = listen_to(LevelFilter::TRACE);

    let postgres = Postgres::builder().login("app", SECRET).start();
    let right = postgres.url();
    let wrong = right.replace("s3cr3t", "wr0ng");
    let mut seen = chain(&PostgresStore::connect(&wrong).await.unwrap_err());
    let builder = PostgresStore::builder(&right).unwrap();
    seen.push_str(&format!("{builder:?}"));
    let store = builder.connect().await.unwrap();
    let pooled = PostgresStore::from_pool(PgPool::connect(&right).await.unwrap());
    seen.push_str(&format!("{store:?} {pooled:?}"));
    let engine = Engine::new(store.clone());
    let operation = engine.operation("op");
    seen.push_str(&format!("{engine:?} {operation:?}"));
    exercise(&store, 0).await;
    exercise(&pooled, 2).await;
    // Bad times are talkative.
    postgres.kill();
    let fingerprint = Fingerprint::of("request").unwrap();
    let body = async { Ok::<_, idem::Error>(1) };
    let refused = operation.run("the client's key", fingerprint, body).await;
    seen.push_str(&chain(&refused.unwrap_err()));
    for store in [&store, &pooled] {
        seen.push_str(&chain(&store.claim(&claim(1)).await.unwrap_err()));
        seen.push_str(&chain(&store.watch(&claim(1).id).await.unwrap_err()));
    }

    let log = log.take();
    assert!(log.contains("store call failed"), "{log}");
    seen.push_str(&log);
    for secret in [SECRET, "s3cr3t", "wr0ng", "the client's key"] {
        assert!(!seen.contains(secret), "{secret} in {seen}");
    }
}

#[tokio::test]
async fn a_server_that_may_lose_records_is_warned_of() {
    let (log, _guard) = listen_to(LevelFilter::INFO);
    let warned = async |settings: &[(&str, &str)]| {
        let builder = settings
            .iter()
            .fold(Postgres::builder(), |builder, (name, value)| {
                builder.setting(name, value)
            });
        let postgres = builder.start();
        patient_at(&postgres.url()).await;
        log.take()
    };
    let text = warned(&[("synchronous_commit", "off")]).await;
    assert!(text.contains("set synchronous_commit to on"), "{text}");
    assert!(!text.contains("fsync"), "{text}");
    let text = warned(&[("fsync", "off")]).await;
    assert!(text.contains("set fsync to on"), "{text}");
    assert!(!text.contains("synchronous_commit"), "{text}");
    assert_eq!(warned(&[]).await, "");
}
