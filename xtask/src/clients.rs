//! Our client beside the official one of Stripe for Python, where Python and a way to its packages are.

use std::path::Path;

use crate::run::{Failure, cargo, program};

const REQUIREMENT: &str = "stripe==16.1.*";

/// A machine without Python, or without a way to its packages, goes without.
pub(crate) fn compare() -> Result<(), Failure> {
    let us = std::env::current_exe().map_err(|error| Failure(format!("where are we? {error}")))?;
    // target/debug/xtask
    let target = us.ancestors().nth(2).unwrap_or(Path::new("target"));
    let packages = target.join("servers").join("stripe-16");
    if let Err(Failure(why)) = provide(&packages) {
        println!("{why}\nStripe's client is not compared");
        return Ok(());
    }
    // Beside a test: without one cargo chooses other features of what both need.
    let programs = ["--bin", "compare", "--test", "tries"];
    cargo(&["build", "--workspace", "--all-features"])
        .args(&programs)
        .run()?;
    program(&us.with_file_name("compare"), &[])
        .args(&["--python", &packages.display().to_string()])
        .run()
}

fn provide(packages: &Path) -> Result<(), Failure> {
    if packages.join("stripe").is_dir() {
        return Ok(());
    }
    let install = ["-m", "pip", "install", "--quiet", "--target"];
    program(Path::new("python3"), &install)
        .args(&[&packages.display().to_string(), REQUIREMENT])
        .run()
}
