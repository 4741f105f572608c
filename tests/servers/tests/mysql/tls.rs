//! TLS: what is encrypted, whose certificate is taken, and what is said of one that is not.

use std::error::Error;

use idem::stores::mysql::MySqlStore;
use idem::{ConnectError, StoreError};
use idem_tests::MariaDb;
use sqlx::MySqlPool;

use crate::conformance::{claim, finish, patient_in};

const PASSWORD: &str = "s3cr3t-pass";

/// A server that offers TLS, with a certificate for 127.0.0.1.
fn with_tls() -> MariaDb {
    MariaDb::builder().login("app", PASSWORD).tls().start()
}

/// Its URL, for those who trust its authority and say so, in this mode.
fn trusting(server: &MariaDb, mode: &str) -> String {
    let ca = server.certificate("ca.pem");
    format!("{}?ssl-mode={mode}&ssl-ca={}", server.url(), ca.display())
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

/// No outage: somebody must set it right. Otherwise `fail_open` would let bodies run.
async fn is_rejected(url: &str, hint: &str) {
    let error = MySqlStore::connect(url).await.unwrap_err();
    assert!(
        matches!(error, ConnectError::Store(StoreError::Rejected { .. })),
        "{url}: {error:?}"
    );
    let said = chain(&error);
    assert!(said.contains(hint), "{url}: {said}");
    assert!(!said.contains("s3cr3t"), "{said}");
}

/// How the sessions of the login are encrypted.
fn ciphers(server: &MariaDb) -> Vec<String> {
    let ciphers = server.sql(
        "SELECT CONCAT('cipher ', variable_value) FROM performance_schema.status_by_thread \
         JOIN performance_schema.threads USING (thread_id) \
         WHERE variable_name = 'Ssl_cipher' AND processlist_user = 'app'",
    );
    ciphers.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn sessions_are_encrypted_where_the_server_offers_it_unless_the_url_says_no() {
    let server = MariaDb::builder()
        .login("app", PASSWORD)
        .tls()
        .setting("performance-schema", "ON")
        .start();
    for (number, mode) in [
        (1, ""),
        (2, "?ssl-mode=preferred"),
        (3, "?ssl-mode=required"),
    ] {
        let url = format!("{}{mode}", server.url());
        let store = MySqlStore::connect(&url).await.unwrap();
        finish(&store, &claim(number), b"done").await;
        let ciphers = ciphers(&server);
        assert!(!ciphers.is_empty(), "{mode}");
        for cipher in ciphers {
            assert!(cipher.starts_with("cipher TLS_"), "{mode}: {cipher:?}");
        }
    }
    let url = format!("{}?ssl-mode=required", server.url());
    let pool = MySqlPool::connect(&url).await.unwrap();
    let (_, cipher): (String, String) = sqlx::query_as("SHOW STATUS LIKE 'Ssl_cipher'")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert!(cipher.starts_with("TLS_"), "{cipher:?}");
    finish(&patient_in(pool.clone()), &claim(4), b"done").await;
    pool.close().await;

    // Those of before may still be there.
    let url = format!("{}?ssl-mode=disabled", server.url());
    let plain = MySqlStore::connect(&url).await.unwrap();
    finish(&plain, &claim(5), b"done").await;
    assert!(ciphers(&server).contains(&"cipher ".to_owned()));
}

#[tokio::test]
async fn a_certificate_that_is_trusted_is_taken_and_none_that_is_not() {
    let (server, other) = (with_tls(), with_tls());
    for (number, mode) in [(1, "verify_ca"), (2, "verify_identity")] {
        let trusting = trusting(&server, mode);
        let store = MySqlStore::connect(&trusting).await.unwrap();
        finish(&store, &claim(number), b"done").await;
        // The system knows neither authority, and another one vouches for nothing here.
        is_rejected(&format!("{}?ssl-mode={mode}", server.url()), "ertificate").await;
        let ca = other.certificate("ca.pem");
        let wrong = format!("{}?ssl-mode={mode}&ssl-ca={}", server.url(), ca.display());
        is_rejected(&wrong, "ertificate").await;
    }
}

#[tokio::test]
async fn a_certificate_for_another_host_is_taken_only_where_the_host_is_not_asked_for() {
    let server = MariaDb::builder()
        .login("app", PASSWORD)
        .tls_for(&["db.example"])
        .start();
    let store = MySqlStore::connect(&trusting(&server, "verify_ca")).await;
    finish(&store.unwrap(), &claim(1), b"done").await;
    is_rejected(&trusting(&server, "verify_identity"), "ertificate").await;
}

#[tokio::test]
async fn a_store_that_must_encrypt_refuses_a_server_that_cannot() {
    let server = MariaDb::builder().login("app", PASSWORD).start();
    for mode in ["required", "verify_ca", "verify_identity"] {
        let url = format!("{}?ssl-mode={mode}", server.url());
        is_rejected(&url, "does not support TLS").await;
    }
    let url = format!("{}?ssl-mode=preferred", server.url());
    finish(
        &MySqlStore::connect(&url).await.unwrap(),
        &claim(1),
        b"done",
    )
    .await;
}

#[tokio::test]
async fn a_server_that_must_encrypt_is_reached_unless_the_url_says_no() {
    let server = MariaDb::builder()
        .login("app", PASSWORD)
        .tls()
        .setting("require-secure-transport", "ON")
        .start();
    for (number, mode) in [(1, ""), (2, "?ssl-mode=required")] {
        let store = MySqlStore::connect(&format!("{}{mode}", server.url())).await;
        finish(&store.unwrap(), &claim(number), b"done").await;
    }
    let url = format!("{}?ssl-mode=disabled", server.url());
    is_rejected(&url, "Access denied").await;
}

#[tokio::test]
async fn a_login_that_needs_a_certificate_has_that_of_the_url() {
    let server = with_tls();
    server.sql("ALTER USER 'app'@'127.0.0.1' REQUIRE X509");
    let url = trusting(&server, "verify_identity");
    is_rejected(&url, "Access denied").await;
    let [certificate, key] = ["client.pem", "client.key"].map(|file| server.certificate(file));
    let url = format!("{url}&ssl-cert={}", certificate.display());
    is_rejected(&url, "given together").await;
    let url = format!("{url}&ssl-key={}", key.display());
    let store = MySqlStore::connect(&url).await.unwrap();
    finish(&store, &claim(1), b"done").await;
}

#[test]
fn an_authority_that_nothing_would_be_checked_by_is_refused() {
    for options in [
        "ssl-ca=/ca.pem",
        "ssl-ca=/ca.pem&ssl-mode=preferred",
        "sslca=/ca.pem&ssl-mode=required",
    ] {
        let url = format!("mysql://app:s3cr3t@db.example/shop?{options}");
        let error = MySqlStore::builder(&url).unwrap_err();
        assert!(matches!(error, ConnectError::BadOption { .. }), "{error:?}");
        let said = chain(&error);
        assert!(said.contains("verify_ca or verify_identity"), "{said}");
        assert!(!said.contains("s3cr3t"), "{said}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_a_mistake_and_no_outage() {
    for option in ["ssl-ca", "sslca", "ssl-cert", "ssl-key"] {
        let url = format!(
            "mysql://app:s3cr3t@db.example/shop?ssl-mode=verify_ca&{option}=/s3cr3t/is%20not%20there.pem"
        );
        let error = MySqlStore::builder(&url).unwrap_err();
        assert!(matches!(error, ConnectError::BadOption { .. }), "{error:?}");
        let said = chain(&error);
        assert!(said.contains("can read"), "{said}");
        assert!(!said.contains("s3cr3t"), "{said}");
    }
}
