//! What a hundred annotated handlers cost the compiler, beside a hundred that are not annotated.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::run::{Failure, program};

const HANDLERS: usize = 100;

/// Builds both programs twice: what they depend on first, then they alone.
pub(crate) fn measure() -> Result<String, Failure> {
    let mut table = format!(
        "\n### {HANDLERS} handlers over axum, the program alone\n\n\
         | | CPU seconds | ratio | KB of program, each more than plain |\n|---|---:|---:|---:|\n"
    );
    for (profile, flags) in [("debug", ""), ("release", "--release")] {
        let plain = build("plain", profile, flags)?;
        let annotated = build("annotated", profile, flags)?;
        let more = (annotated.bytes - plain.bytes) / 1024.0 / HANDLERS as f64;
        let (before, after) = (plain.seconds, annotated.seconds);
        let _ = writeln!(table, "| plain, {profile} | {before:.1} | 1.00 | |");
        let ratio = after / before;
        let _ = writeln!(
            table,
            "| **idem, {profile}** | {after:.1} | {ratio:.2} | {more:.1} |"
        );
    }
    Ok(table)
}

struct Built {
    seconds: f64,
    bytes: f64,
}

fn build(form: &str, profile: &str, flags: &str) -> Result<Built, Failure> {
    let target = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".to_owned());
    let target = std::path::absolute(target).map_err(|error| Failure(error.to_string()))?;
    let directory = target.join("compile-cost").join(form);
    let source = directory.join("src/main.rs");
    let write = |path: &Path, text: &str| {
        let parent = path.parent().map_or(Ok(()), fs::create_dir_all);
        let written = parent.and_then(|()| fs::write(path, text));
        written.map_err(|error| Failure(format!("{}: {error}", path.display())))
    };
    let here = std::env::current_dir().map_err(|error| Failure(error.to_string()))?;
    write(&directory.join("Cargo.toml"), &manifest(form, &here))?;
    write(&source, &program_of(form))?;
    let lock = here.join("benches/Cargo.lock");
    let _ = fs::copy(lock, directory.join("Cargo.lock"));
    let script = format!(
        "cd {0} && export CARGO_TARGET_DIR={1} CARGO_INCREMENTAL=0 && cargo build -q {flags} && touch src/main.rs && \
         bash -c 'cargo build -q {flags} && times' | tail -1",
        directory.display(),
        target.join("compile-cost/target").display(),
    );
    let times = program(Path::new("bash"), &["-c", &script]).output()?;
    let binary = target.join("compile-cost/target").join(profile).join(form);
    let binary = fs::metadata(&binary).map_err(|error| Failure(error.to_string()))?;
    Ok(Built {
        seconds: times.split_whitespace().filter_map(seconds).sum(),
        bytes: binary.len() as f64,
    })
}

/// `1m2.345s`, as the shell writes it.
fn seconds(time: &str) -> Option<f64> {
    let (minutes, rest) = time.split_once('m')?;
    let seconds: f64 = rest.trim_end_matches('s').parse().ok()?;
    Some(minutes.parse::<f64>().ok()? * 60.0 + seconds)
}

fn manifest(form: &str, here: &Path) -> String {
    format!(
        "[workspace]\n\n[package]\nname = \"{form}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n\
         [dependencies]\naxum = \"0.8.9\"\nidem-rs = {{ path = \"{}\", features = [\"axum\"] }}\n\
         serde = {{ version = \"1\", features = [\"derive\"] }}\n\
         tokio = {{ version = \"1\", features = [\"full\"] }}\n\n[profile.release]\nstrip = true\n",
        here.display()
    )
}

/// Handlers with types of their own, as an API has them.
fn program_of(form: &str) -> String {
    let mut program = String::from(
        "use axum::routing::{Router, post};\nuse axum::extract::State;\nuse axum::Json;\n\
         use serde::{Deserialize, Serialize};\n\n",
    );
    let mut routes = String::new();
    for number in 0..HANDLERS {
        let attribute = match form {
            "annotated" => format!(
                "#[idem::axum::idempotent(name = \"operation.{number}\", key = header(\"Idempotency-Key\"), ttl = \"24h\")]\n"
            ),
            _ => String::new(),
        };
        let _ = write!(
            program,
            "#[derive(Deserialize)]\nstruct Order{number} {{ amount: u64, note: String }}\n\
             #[derive(Serialize)]\nstruct Receipt{number} {{ id: u64, note: String }}\n\
             {attribute}async fn handler{number}(State(bank): State<u64>, Json(order): Json<Order{number}>) -> Json<Receipt{number}> {{\n    \
             tokio::task::yield_now().await;\n    \
             Json(Receipt{number} {{ id: order.amount + bank + {number}, note: order.note }})\n}}\n\n"
        );
        let _ = writeln!(
            routes,
            "        .route(\"/{number}\", post(handler{number}))"
        );
    }
    let _ = write!(
        program,
        "#[tokio::main]\nasync fn main() {{\n    let listener = tokio::net::TcpListener::bind(\"127.0.0.1:0\").await.unwrap();\n    \
         let app = Router::new()\n{routes}        .with_state(7);\n    axum::serve(listener, app).await.unwrap();\n}}\n"
    );
    program
}
