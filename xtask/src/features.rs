//! Each feature compiles alone, and pulls in nothing that nobody asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::run::{Failure, cargo};

/// A feature of a package, and the foreign crates that it alone may pull in.
struct Feature {
    name: &'static str,
    brings: &'static [&'static str],
}

const FEATURES: &[Feature] = &[
    Feature {
        name: "memory",
        brings: &[],
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
        name: "mysql",
        brings: &["sqlx", "sqlx-core", "sqlx-mysql"],
    },
    Feature {
        name: "mysql-tls",
        brings: &["sqlx", "sqlx-core", "sqlx-mysql", "rustls"],
    },
    Feature {
        name: "sqlite",
        brings: &["sqlx", "sqlx-core", "sqlx-sqlite", "libsqlite3-sys"],
    },
    Feature {
        name: "dynamodb",
        brings: &[
            "aws-config",
            "aws-sdk-dynamodb",
            "http",
            "http-body",
            "hyper",
            "rustls",
            "tower",
            "tower-layer",
            "tower-service",
        ],
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
        name: "dashboard",
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

/// Of `idem-client`; the first one is none.
const CLIENT_FEATURES: &[Feature] = &[
    Feature {
        name: "",
        brings: &["http"],
    },
    Feature {
        name: "reqwest-middleware",
        brings: &[
            "http",
            "http-body",
            "hyper",
            "reqwest",
            "tower",
            "tower-layer",
            "tower-service",
        ],
    },
    Feature {
        name: "tower",
        brings: &["http", "http-body", "tower-layer", "tower-service"],
    },
    Feature {
        name: "journal",
        brings: &["http", "sqlx", "sqlx-core", "sqlx-sqlite", "libsqlite3-sys"],
    },
];

/// What `idem-cli` has of the heavy crates without any feature: the HTTP contract for the answers that it
/// shows, axum for its page, and hyper and rustls for `probe`.
const TOOL_BRINGS: &[&str] = &[
    "axum",
    "axum-core",
    "http",
    "http-body",
    "hyper",
    "rustls",
    "tower",
    "tower-layer",
    "tower-service",
];

/// What its features bring beside that; the first one is none.
const TOOL_FEATURES: &[Feature] = &[
    Feature {
        name: "",
        brings: &[],
    },
    Feature {
        name: "redis",
        brings: &["redis"],
    },
    Feature {
        name: "postgres",
        brings: &["sqlx", "sqlx-core", "sqlx-postgres"],
    },
    Feature {
        name: "mysql",
        brings: &["sqlx", "sqlx-core", "sqlx-mysql"],
    },
    Feature {
        name: "sqlite",
        brings: &["sqlx", "sqlx-core", "sqlx-sqlite", "libsqlite3-sys"],
    },
    Feature {
        name: "dynamodb",
        brings: &["aws-config", "aws-sdk-dynamodb"],
    },
    Feature {
        name: "grpc",
        brings: &["prost", "tonic"],
    },
];

/// Of `idem-probe`; the first one is none.
const PROBE_FEATURES: &[Feature] = &[
    Feature {
        name: "",
        brings: &["http", "http-body", "hyper", "rustls"],
    },
    Feature {
        name: "clap",
        brings: &["http", "http-body", "hyper", "rustls"],
    },
];

const SERVER: &str = "idem-rs";
const CLIENT: &str = "idem-client";
const TOOL: &str = "idem-cli";
const PROBE: &str = "idem-probe";

/// The server half, of which the client half and the probe have nothing.
const SERVER_HALF: &[&str] = &["idem-core", "idem-macros", "idem-rs", "idem-stores"];

/// Crates that belong to one feature: stores, drivers and frameworks.
const HEAVY: &[&str] = &[
    "actix-web",
    "axum",
    "aws-config",
    "aws-lc-rs",
    "aws-sdk-dynamodb",
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

fn lint(package: &str, features: &[&str]) -> Result<(), Failure> {
    cargo(&["clippy", "--quiet", "--package", package, "--lib"])
        .args(features)
        .args(&["--", "-D", "warnings"])
        .run()
}

pub(crate) fn lint_defaults() -> Result<(), Failure> {
    lint(SERVER, &[])?;
    lint(CLIENT, &[])
}

pub(crate) fn check_each() -> Result<(), Failure> {
    lint(SERVER, &["--no-default-features"])?;
    // What its stores' features compile is `idem-rs`'s: with none it is another program.
    lint(TOOL, &["--no-default-features"])?;
    for (package, features) in [
        (SERVER, FEATURES),
        (CLIENT, CLIENT_FEATURES),
        (PROBE, PROBE_FEATURES),
    ] {
        for Feature { name, .. } in features {
            println!("{package}, {name:?}");
            lint(package, &["--no-default-features", "--features", name])?;
        }
    }
    Ok(())
}

/// The README's first command builds no more crates than this.
const FIRST_COMMAND: (&str, usize) = ("checkout", 120);

/// Each example compiles with what its own manifest asks for, and the first one soon.
pub(crate) fn check_examples() -> Result<(), Failure> {
    let failure = |error: std::io::Error| Failure(format!("examples: {error}"));
    for entry in fs::read_dir("examples").map_err(failure)? {
        let entry = entry.map_err(failure)?;
        if entry.path().is_dir() {
            let example = entry.file_name().to_string_lossy().into_owned();
            println!("{example}");
            cargo(&["check", "--quiet", "--package", &example]).run()?;
        }
    }
    let (example, most) = FIRST_COMMAND;
    let edges = ["--edges", "normal,build", "--prefix", "none"];
    let tree = cargo(&["tree", "--package", example])
        .args(&edges)
        .output()?;
    let crates: BTreeSet<_> = tree
        .lines()
        .map(|line| line.trim_end_matches(" (*)"))
        .filter(|line| !line.is_empty())
        .collect();
    println!("{example}: {} crates", crates.len());
    match crates.len() <= most {
        true => Ok(()),
        false => Err(Failure(format!(
            "{example} compiles {} crates, more than {most}",
            crates.len()
        ))),
    }
}

/// What identifies a request is the same under every feature, alone and with all others.
pub(crate) fn check_identities() -> Result<(), Failure> {
    const PACKAGE: &str = "idem-identity";
    const FORMS: &[&str] = &[
        "", "http", "tower", "axum", "actix", "poem", "salvo", "rocket", "warp", "tonic",
    ];
    let print = |features: &str| {
        cargo(&["run", "--quiet", "--package", PACKAGE])
            .arg("--no-default-features")
            .arg("--features")
            .arg(features)
            .output()
    };
    let mut known: BTreeMap<String, (String, String)> = BTreeMap::new();
    for features in FORMS
        .iter()
        .map(|form| (*form).to_owned())
        .chain([FORMS.join(" ")])
    {
        let printed = print(&features)?;
        for line in printed.lines() {
            let Some((request, fingerprint)) = line.split_once('\t') else {
                return Err(Failure(format!("{PACKAGE} prints {line:?}")));
            };
            let found = (fingerprint.to_owned(), features.clone());
            let (first, under) = known.entry(request.to_owned()).or_insert(found);
            if first != fingerprint {
                return Err(Failure(format!(
                    "{request} is {first} under {under:?}, and {fingerprint} under {features:?}"
                )));
            }
        }
        println!("{features:?}: {} requests", printed.lines().count());
    }
    Ok(())
}

pub(crate) fn check_trees() -> Result<(), Failure> {
    for feature in FEATURES {
        check_tree(SERVER, feature, HEAVY)?;
    }
    let foreign = [HEAVY, SERVER_HALF].concat();
    for feature in CLIENT_FEATURES {
        check_tree(CLIENT, feature, &foreign)?;
    }
    let of_stores = HEAVY.iter().filter(|heavy| !TOOL_BRINGS.contains(heavy));
    let of_stores: Vec<_> = of_stores.copied().collect();
    for feature in TOOL_FEATURES {
        check_tree(TOOL, feature, &of_stores)?;
    }
    for feature in PROBE_FEATURES {
        check_tree(PROBE, feature, &foreign)?;
    }
    Ok(())
}

fn check_tree(package: &str, feature: &Feature, heavy: &[&str]) -> Result<(), Failure> {
    let edges = ["--edges", "normal", "--prefix", "none"];
    let tree = cargo(&["tree", "--package", package])
        .args(&edges)
        .args(&["--no-default-features", "--features", feature.name])
        .output()?;
    let crates: BTreeSet<_> = tree
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let foreign: Vec<_> = heavy
        .iter()
        .filter(|heavy| crates.contains(**heavy) && !feature.brings.contains(heavy))
        .collect();
    let name = feature.name;
    println!("{package}, {name:?}: {} crates", crates.len());
    match foreign.is_empty() {
        true => Ok(()),
        false => Err(Failure(format!(
            "the feature {name:?} of {package} pulls in {foreign:?}"
        ))),
    }
}
