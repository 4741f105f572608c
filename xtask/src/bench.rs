//! Everything that is measured, side by side, and the pages about it in `docs/bench`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::plots;
use crate::run::{Failure, cargo, program};
use crate::{compile_cost, servers, valkey};

const BENCHES: [&str; 2] = ["--manifest-path", "benches/Cargo.toml"];

/// The pages.
const DIRECTORY: &str = "docs/bench";

/// What is measured, in the order of the pages.
const PARTS: &[(&str, &str)] = &[
    ("instructions", "Instructions"),
    ("in_process", "In process"),
    ("socket", "Over a socket"),
    ("latency", "Latency"),
    ("load", "Load past saturation"),
    ("waiters", "Duplicates that wait"),
    ("store", "The memory store"),
    ("flat", "Many records"),
    ("allocations", "Memory"),
    ("macro_cost", "The attribute"),
    ("redis", "Redis"),
    (VALKEY, "Valkey"),
    ("redis_load", "Redis, more callers than it has room for"),
    ("postgres", "PostgreSQL"),
    ("mysql", "MySQL"),
    ("sqlite", "SQLite"),
    ("steps", "Steps"),
];

/// What is measured of Redis, over a server that sets what is equal.
const VALKEY: &str = "valkey";

/// Those that start servers.
const OVER_SERVERS: &[&str] = &[
    "latency",
    "load",
    "redis",
    "redis_load",
    VALKEY,
    "postgres",
    "mysql",
    "steps",
];

/// Measures what is named, or everything, and writes the pages.
pub(crate) fn run(only: &[String], quick: bool) -> Result<(), Failure> {
    servers::provide_valgrind()?;
    let is_asked = |name: &str| only.is_empty() || only.iter().any(|asked| asked == name);
    if OVER_SERVERS.iter().any(|name| is_asked(name)) {
        servers::provide()?;
    }
    fs::create_dir_all(DIRECTORY).map_err(|error| Failure(format!("{DIRECTORY}: {error}")))?;
    for (name, title) in PARTS {
        if is_asked(name) {
            // The peers ask for a newer compiler than they need.
            let peers = ["--features", "peers", "--ignore-rust-version"];
            let mut bench = cargo(&["bench"]).args(&BENCHES).args(&peers);
            bench = match *name {
                VALKEY => {
                    let Some(server) = valkey::newest() else {
                        println!("no Valkey runs here: it is not measured");
                        continue;
                    };
                    let server = server.display().to_string();
                    bench
                        .args(&["--bench", "redis"])
                        .env("IDEM_REDIS_SERVER", &server)
                }
                name => bench.args(&["--bench", name]),
            };
            if quick {
                bench = bench.args(&["--", "--quick"]);
            }
            write_page(name, title, &bench.output()?)?;
        }
    }
    if is_asked("compile_cost") {
        write_page("compile_cost", "Compile time", &compile_cost::measure()?)?;
    }
    write("README.md", &overview()?)
}

/// Fails where a first call or a replay takes a tenth more instructions than it may. What talks to
/// servers is not built.
pub(crate) fn check_budget() -> Result<(), Failure> {
    servers::provide_valgrind()?;
    cargo(&["bench", "--no-default-features"])
        .args(&BENCHES)
        .args(&["--bench", "instructions", "--", "--budget"])
        .run()
}

fn write_page(name: &str, title: &str, tables: &str) -> Result<(), Failure> {
    println!("{tables}");
    let mut page = format!("# {title}\n");
    for (number, plot) in plots::of_tables(tables).iter().enumerate() {
        let file = format!("{name}-{number}.svg");
        write(&file, &plot.svg)?;
        let _ = write!(page, "\n![{}]({file})\n", plot.title);
    }
    page.push_str(tables);
    write(&format!("{name}.md"), &page)
}

fn write(file: &str, content: &str) -> Result<(), Failure> {
    let path = Path::new(DIRECTORY).join(file);
    fs::write(&path, content).map_err(|error| Failure(format!("{}: {error}", path.display())))
}

/// Method, machine and versions, and which pages there are.
fn overview() -> Result<String, Failure> {
    let mut page = String::from(
        "# Benchmarks\n\n\
         `cargo xtask bench` writes these pages. Figures are **ratios from one run**: compare none with\n\
         the times of another. Instructions are the same in every run.\n\n\
         How it is measured, and what stands for what, is in [benches/README.md](../../benches/README.md).\n\n",
    );
    for (name, title) in PARTS.iter().chain([&("compile_cost", "Compile time")]) {
        if Path::new(DIRECTORY).join(format!("{name}.md")).is_file() {
            let _ = writeln!(page, "* [{title}]({name}.md)");
        }
    }
    page.push_str("\n## Machine\n\n| | |\n|---|---|\n");
    for (what, value) in machine()? {
        let _ = writeln!(page, "| {what} | {value} |");
    }
    page.push_str("\n## Versions\n\n| | |\n|---|---|\n");
    for (name, version) in versions()? {
        let _ = writeln!(page, "| `{name}` | {version} |");
    }
    Ok(page)
}

fn machine() -> Result<Vec<(&'static str, String)>, Failure> {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("", |model| model.trim_start_matches([' ', '\t', ':']));
    let cores = cpus
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let line = |path: &str, words: &[&str]| {
        let output = program(Path::new(path), words).output()?;
        Ok(output.lines().next().unwrap_or_default().to_owned())
    };
    Ok(vec![
        ("processor", format!("{model}, {cores} cores")),
        ("system", line("uname", &["-sr"])?),
        ("compiler", line("rustc", &["--version"])?),
        ("instructions", line("valgrind", &["--version"])?),
    ])
}

/// What is compared with, and what it stands on, as the benchmarks' lock file has it.
fn versions() -> Result<BTreeMap<String, String>, Failure> {
    const NAMED: &[&str] = &[
        "axum",
        "axum-idempotent",
        "cached",
        "durare",
        "idempotent",
        "moka",
        "redis",
        "sha2",
        "sqlx",
        "tokio",
    ];
    let lock = fs::read_to_string("benches/Cargo.lock")
        .map_err(|error| Failure(format!("benches/Cargo.lock: {error}")))?;
    let quoted = |line: &str| line.split('"').nth(1).unwrap_or_default().to_owned();
    let mut versions = BTreeMap::new();
    let mut lines = lock.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("name = ")
            && let Some(version) = lines.next()
        {
            let name = quoted(line);
            if NAMED.contains(&&*name) {
                versions.insert(name, quoted(version));
            }
        }
    }
    Ok(versions)
}
