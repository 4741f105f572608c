//! pgbench, PostgreSQL's own client in C, with the statements of the store: what the server can
//! do at most.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Stdio;

use idem_tests::Postgres;

/// The store's statement for a claim.
pub const CLAIM: &str = include_str!("../../idem-stores/src/postgres/statements/claim.sql");

/// The same in a script, for a record named by the variable `n`.
///
/// What is the same in every call stands in the text: pgbench has less to send than the store.
pub fn claim() -> String {
    let fingerprint = format!(r"'\x{}'::bytea", "01".repeat(33));
    filled(
        CLAIM,
        &[
            "'claim 2'",
            ID,
            &fingerprint,
            TOKEN,
            "30000000",
            DAY,
            "true",
            r"'\x6f70'::bytea",
        ],
    )
}

/// The one for a completion, with the outcome in a variable of that name.
pub fn complete() -> String {
    const COMPLETE: &str = include_str!("../../idem-stores/src/postgres/statements/complete.sql");
    filled(
        COMPLETE,
        &["'complete 2'", ID, TOKEN, ":outcome::bytea", DAY],
    )
}

/// The least that a replay could be.
pub fn select() -> String {
    format!("SELECT outcome FROM idem_records WHERE id = {ID};\n")
}

/// The record that `n` names: see [`id_of`].
const ID: &str = "sha256(int8send(:n))";
const TOKEN: &str = r"'\x02020202020202020202020202020202'::bytea";

/// In microseconds.
const DAY: &str = "86400000000";

/// How long a run is.
const SECONDS: f64 = 2.0;

fn filled(statement: &str, values: &[&str]) -> String {
    let lines = statement
        .lines()
        .filter(|line| !line.trim_start().starts_with("--"));
    let mut text = lines.collect::<Vec<_>>().join("\n");
    for (number, value) in values.iter().enumerate() {
        text = text.replace(&format!("${}", number + 1), value);
    }
    text + ";\n"
}

/// Runs a script with so many clients for two seconds. The first, in which each of them connects,
/// prepares and plans, is not counted. Returns the nanoseconds from one end of a transaction to the
/// next.
///
/// # Panics
/// When pgbench is not installed, or fails.
pub fn paced(postgres: &Postgres, clients: usize, script: &str) -> f64 {
    let mut command = postgres.pgbench_command();
    let outcome = crate::store::OUTCOME_BYTES;
    let mut variable = r"outcome=\x".to_owned();
    for _ in 0..outcome {
        let _ = write!(variable, "07");
    }
    command
        .args(["--no-vacuum", "--protocol", "prepared", "--file", "-"])
        .args(["--client", &clients.to_string()])
        .args(["--jobs", &clients.min(2).to_string()])
        .args(["--time", &SECONDS.to_string(), "--progress", "1"])
        .args(["--define", &variable, "postgres"])
        // As the store's own connections.
        .env("PGOPTIONS", "-c enable_seqscan=off -c jit=off")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("pgbench is installed");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(script.as_bytes()).expect("it reads");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "pgbench: {told}");
    let said = String::from_utf8_lossy(&output.stdout);
    let counted = told.lines().find_map(of_the_first_second).zip(all(&said));
    let ((seconds, first), all) = counted.unwrap_or_else(|| panic!("pgbench: {told}{said}"));
    assert!(all > first, "pgbench: {told}{said}");
    (SECONDS - seconds) * 1e9 / (all - first)
}

/// When the first report was made, and how many transactions there were until then:
/// `progress: 1.0 s, 5234.5 tps, lat …`.
fn of_the_first_second(line: &str) -> Option<(f64, f64)> {
    let rest = line.strip_prefix("progress: ")?;
    let (seconds, rest) = rest.split_once(" s, ")?;
    let (rate, _) = rest.split_once(" tps")?;
    let (seconds, rate): (f64, f64) = (seconds.parse().ok()?, rate.parse().ok()?);
    Some((seconds, seconds * rate))
}

/// How many there were: `number of transactions actually processed: 10469`.
fn all(output: &str) -> Option<f64> {
    let line = output
        .lines()
        .find_map(|line| line.strip_prefix("number of transactions actually processed: "));
    line?.trim().parse().ok()
}
