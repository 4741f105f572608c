//! Each feature compiles alone, and pulls in nothing that nobody asked for.

use std::collections::BTreeSet;

use crate::run::{Failure, cargo};

/// A feature of `idem-rs`, and the foreign crates that it alone may pull in.
struct Feature {
    name: &'static str,
    brings: &'static [&'static str],
}

const FEATURES: &[Feature] = &[
    Feature {
        name: "memory",
        brings: &["moka"],
    },
    Feature {
        name: "redis",
        brings: &["redis"],
    },
    Feature {
        name: "redis-tls",
        brings: &["redis", "rustls"],
    },
    Feature {
        name: "postgres",
        brings: &["sqlx", "sqlx-core", "sqlx-postgres"],
    },
    Feature {
        name: "postgres-tls",
        brings: &["sqlx", "sqlx-core", "sqlx-postgres", "rustls"],
    },
    Feature {
        name: "sqlite",
        brings: &["sqlx", "sqlx-core", "sqlx-sqlite", "libsqlite3-sys"],
    },
    Feature {
        name: "cache",
        brings: &["moka"],
    },
    Feature {
        name: "axum",
        brings: &[
            "axum",
            "axum-core",
            "http",
            "http-body",
            "tower",
            "tower-layer",
            "tower-service",
        ],
    },
    Feature {
        name: "http",
        brings: &["http", "http-body"],
    },
    Feature {
        name: "tower",
        brings: &["http", "http-body", "tower-layer", "tower-service"],
    },
    Feature {
        name: "actix",
        brings: &["actix-web", "http", "http-body"],
    },
    Feature {
        name: "poem",
        brings: &["http", "http-body", "hyper", "poem"],
    },
    Feature {
        name: "salvo",
        brings: &["http", "http-body", "hyper", "salvo_core"],
    },
    Feature {
        name: "rocket",
        brings: &["rocket", "hyper", "http", "http-body"],
    },
    Feature {
        name: "warp",
        brings: &["warp", "http", "http-body", "tower-service"],
    },
    Feature {
        name: "tonic",
        brings: &[
            "tonic",
            "prost",
            "http",
            "http-body",
            "tower-layer",
            "tower-service",
        ],
    },
    Feature {
        name: "metrics",
        brings: &["metrics"],
    },
    Feature {
        name: "conformance",
        brings: &[],
    },
];

/// Crates that belong to one feature: stores, drivers and frameworks.
const HEAVY: &[&str] = &[
    "actix-web",
    "axum",
    "axum-core",
    "deadpool",
    "diesel",
    "fred",
    "http",
    "http-body",
    "hyper",
    "libsqlite3-sys",
    "metrics",
    "moka",
    "openssl",
    "poem",
    "prost",
    "redis",
    "reqwest",
    "rocket",
    "rusqlite",
    "rustls",
    "salvo",
    "salvo_core",
    "sqlx",
    "sqlx-core",
    "sqlx-mysql",
    "sqlx-postgres",
    "sqlx-sqlite",
    "tokio-postgres",
    "tonic",
    "tower",
    "tower-layer",
    "tower-service",
    "warp",
];

pub(crate) fn check_each() -> Result<(), Failure> {
    let check = |features: &str| {
        cargo(&[
            "clippy",
            "--quiet",
            "--package",
            "idem-rs",
            "--lib",
            "--no-default-features",
        ])
        .arg("--features")
        .arg(features)
        .arg("--")
        .arg("-D")
        .arg("warnings")
        .run()
    };
    check("")?;
    for feature in FEATURES {
        println!("{}", feature.name);
        check(feature.name)?;
    }
    Ok(())
}

pub(crate) fn check_trees() -> Result<(), Failure> {
    for feature in FEATURES {
        let tree = cargo(&[
            "tree",
            "--package",
            "idem-rs",
            "--edges",
            "normal",
            "--prefix",
            "none",
        ])
        .arg("--no-default-features")
        .arg("--features")
        .arg(feature.name)
        .output()?;
        let crates: BTreeSet<_> = tree
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        let foreign: Vec<_> = HEAVY
            .iter()
            .filter(|heavy| crates.contains(**heavy) && !feature.brings.contains(heavy))
            .collect();
        println!("{}: {} crates", feature.name, crates.len());
        if !foreign.is_empty() {
            return Err(Failure(format!(
                "the feature {} pulls in {foreign:?}",
                feature.name
            )));
        }
    }
    Ok(())
}
