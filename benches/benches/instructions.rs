//! Instructions of one request in process, without SHA-256's: against the plain handler and the same
//! thing by hand, and by function.

use axum::routing::Router;
use idem_benches::by_hand::Sharded;
use idem_benches::callgrind::Profile;
use idem_benches::http::Keys::{self, Fresh, Known};
use idem_benches::http::{Client, by_hand_app, install_engine, plain_app, protected_app};
use idem_benches::runtime;

/// How many functions are printed.
const FUNCTIONS: usize = 30;

/// A first call and a replay may take so many instructions, and a tenth more.
const BUDGETS: [(&str, f64); 2] = [("first", 81_400.0), ("replay", 16_400.0)];

struct Path {
    argument: &'static str,
    title: &'static str,
    app: fn() -> Router,
    keys: Keys,
}

const PATHS: [Path; 5] = [
    Path {
        argument: "plain",
        title: "plain handler",
        app: plain_app,
        keys: Fresh,
    },
    Path {
        argument: "by-hand-first",
        title: "first, by hand, sharded map",
        app: by_hand,
        keys: Fresh,
    },
    Path {
        argument: "first",
        title: "**first, idem**",
        app: protected_app,
        keys: Fresh,
    },
    Path {
        argument: "by-hand-replay",
        title: "replay, by hand, sharded map",
        app: by_hand,
        keys: Known,
    },
    Path {
        argument: "replay",
        title: "**replay, idem**",
        app: protected_app,
        keys: Known,
    },
];

fn by_hand() -> Router {
    by_hand_app(Sharded::<false>::default())
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().position(|argument| argument == "--count") {
        Some(place) => count(&arguments[place + 1..]),
        None if arguments.iter().any(|argument| argument == "--budget") => check_budgets(),
        None => table(),
    }
}

/// # Panics
/// When a path takes a tenth more than its budget.
fn check_budgets() {
    for (argument, budget) in BUDGETS {
        let total = profile(argument).total();
        println!("{argument}: {total:.0} instructions, of {budget:.0}");
        assert!(
            total <= budget * 1.1,
            "{argument}: {total:.0} instructions are more than a tenth over {budget:.0}; \
             `cargo bench --bench instructions` shows where they are spent"
        );
    }
}

/// The instructions of one request, without what makes it.
fn profile(argument: &'static str) -> Profile {
    let counted = |what: &'static str| {
        Profile::per_operation(|requests| {
            let requests = requests.to_string();
            let arguments = ["--count", argument, &requests, what];
            arguments.map(str::to_owned).to_vec()
        })
    };
    counted("sends").without(&counted("makes"))
}

/// What callgrind runs: `PATH REQUESTS sends|makes`. Requests are made in either case.
fn count(arguments: &[String]) {
    let [argument, requests, sends, ..] = arguments else {
        panic!("--count PATH REQUESTS sends|makes");
    };
    let sends = sends == "sends";
    install_engine();
    let runtime = runtime();
    for path in PATHS {
        if path.argument == *argument {
            let client = Client::new(&runtime, (path.app)(), path.keys);
            let requests = requests.parse().expect("a number");
            match sends {
                true => drop(client.round(&runtime, requests)),
                false => drop(client.requests(requests)),
            }
        }
    }
}

fn table() {
    println!("\n### Instructions per request in process, without SHA-256's\n");
    println!("| | instructions | of the plain handler |");
    println!("|---|---:|---:|");
    let mut plain = None;
    let mut profiles = Vec::new();
    for path in PATHS {
        let profile = profile(path.argument);
        let total = profile.total();
        let plain = *plain.get_or_insert(total);
        println!("| {} | {total:.0} | {:.2} |", path.title, total / plain);
        if path.title.starts_with("**") {
            profiles.push((path.title, profile));
        }
    }
    for (title, profile) in profiles {
        println!("\n{title}, by function:\n");
        println!("| instructions | function |");
        println!("|---:|---|");
        for (function, instructions) in profile.functions().into_iter().take(FUNCTIONS) {
            println!("| {instructions:.0} | `{function}` |");
        }
    }
}
