//! Instructions, counted by function: `valgrind --tool=callgrind` over runs of this program.
//!
//! They are the same on a busy machine. Under valgrind SHA-256 runs without the processor's
//! instructions for it, so that its share says nothing: [`Profile::total`] leaves it out.

use std::collections::HashMap;
use std::process::Command;

/// Instructions of one operation, by function.
#[derive(Clone, Debug, Default)]
pub struct Profile(HashMap<String, f64>);

impl Profile {
    /// The difference of two runs of different length, per operation. `run` makes the arguments of a
    /// run of this program for a number of operations.
    ///
    /// # Panics
    /// When valgrind is not installed, or the program fails under it.
    pub fn per_operation(run: impl Fn(u32) -> Vec<String>) -> Self {
        let (few, many) = (1000, 3000);
        let mut profile = counted(&run(many));
        for (function, instructions) in counted(&run(few)).0 {
            *profile.0.entry(function).or_default() -= instructions;
        }
        for instructions in profile.0.values_mut() {
            *instructions /= f64::from(many - few);
        }
        profile
    }

    /// What remains beside another profile.
    #[must_use]
    pub fn without(mut self, other: &Self) -> Self {
        for (function, instructions) in &other.0 {
            *self.0.entry(function.clone()).or_default() -= instructions;
        }
        self
    }

    /// All instructions but those of SHA-256.
    pub fn total(&self) -> f64 {
        self.0
            .iter()
            .filter(|(function, _)| !is_sha256(function))
            .map(|(_, instructions)| instructions)
            .sum()
    }

    /// What the most is spent in, beside SHA-256, the most first.
    pub fn functions(&self) -> Vec<(&str, f64)> {
        let mut functions: Vec<_> = self
            .0
            .iter()
            .filter(|(function, _)| !is_sha256(function))
            .map(|(function, instructions)| (&**function, *instructions))
            .collect();
        functions.sort_by(|one, other| other.1.total_cmp(&one.1));
        functions
    }
}

fn is_sha256(function: &str) -> bool {
    function.contains("sha2::") || function.contains("sha256")
}

fn counted(arguments: &[String]) -> Profile {
    let out = std::env::temp_dir().join(format!("idem-callgrind-{}", std::process::id()));
    let this = std::env::current_exe().expect("this program's path");
    let output = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(this)
        .args(arguments)
        .output()
        .expect("valgrind is installed");
    assert!(
        output.status.success(),
        "callgrind: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let profile = std::fs::read_to_string(&out).expect("callgrind's profile");
    let _ = std::fs::remove_file(out);
    by_function(&profile)
}

/// Reads callgrind's format: `fn=(number) name`, where the name stands once, then lines of a position
/// and a cost. The line after `calls=` is the cost of the function that is called.
fn by_function(profile: &str) -> Profile {
    let mut names = HashMap::new();
    let mut costs = HashMap::<String, f64>::new();
    let (mut function, mut is_call) = (String::new(), false);
    for line in profile.lines() {
        let named = ["fn=", "cfn="].iter().find_map(|kind| {
            let name = line.strip_prefix(kind)?;
            let (number, name) = name.split_once(')').unwrap_or((name, ""));
            if !name.is_empty() {
                names.insert(number.to_owned(), name.trim().to_owned());
            }
            Some((*kind, number))
        });
        if let Some((kind, number)) = named {
            if kind == "fn=" {
                function = names.get(number).cloned().unwrap_or_default();
            }
        } else if line.starts_with("calls=") {
            is_call = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            let cost = line.split_whitespace().nth(1);
            if let Some(cost) = cost.and_then(|cost| cost.parse::<f64>().ok())
                && !is_call
            {
                *costs.entry(function.clone()).or_default() += cost;
            }
            is_call = false;
        }
    }
    Profile(costs)
}
