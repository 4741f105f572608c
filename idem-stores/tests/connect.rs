//! What is said of a URL that gives no store.

use idem_stores::{ConnectError, connect};

/// What the standard library prints where `main` returns the error.
async fn shown(url: &str) -> String {
    let error = connect(url).await.map(drop).unwrap_err();
    format!("Error: {error:?}")
}

#[tokio::test]
async fn a_main_that_returns_the_error_says_which_urls_there_are() {
    for url in ["no url", "mssql://host", "memory://?max_bytes=x"] {
        assert!(shown(url).await.contains("memory://"), "{url}");
    }
}

#[test]
fn a_main_that_returns_the_error_says_what_the_store_said() {
    let refused = std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "refused");
    let error = ConnectError::Store(idem_core::StoreError::unavailable("redis", refused));
    let shown = format!("{error:?}");
    assert_eq!(shown, "the redis store cannot be reached: refused");
}
