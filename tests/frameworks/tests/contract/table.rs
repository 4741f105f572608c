//! The table of frameworks and cases in `docs/frameworks.md`.

use crate::Framework;
use crate::cases::all_cases;

/// Whether a case holds in a framework. One that does not is said to lack it, with the reason.
pub(crate) fn holds<F: Framework>(case: &str) -> bool {
    let lacks = F::LACKS.iter().find(|(lacking, _)| *lacking == case);
    if let Some((_, reason)) = lacks {
        println!("{} lacks this: {reason}", F::NAME);
    }
    lacks.is_none()
}

/// A framework.
pub(crate) struct Column {
    name: &'static str,
    lacks: &'static [(&'static str, &'static str)],
}

impl Column {
    pub(crate) const fn of<F: Framework>() -> Self {
        Self {
            name: F::NAME,
            lacks: F::LACKS,
        }
    }
}

macro_rules! titles {
    (_; $($group:ident { $($case:ident: $title:literal,)* })*) => {
        &[$($((stringify!($case), $title)),*),*]
    };
}

const CASES: &[(&str, &str)] = all_cases!(titles, _);

const BEGIN: &str = "<!-- frameworks: made by tests/frameworks/tests/contract -->\n";
const END: &str = "<!-- frameworks end -->";

/// Compares the table with the suite's; with `BLESS=1` writes it.
pub(crate) fn check(columns: &[Column]) {
    for column in columns {
        for (case, _) in column.lacks {
            let is_known = CASES.iter().any(|(known, _)| known == case);
            assert!(is_known, "{} lacks {case}, which is no case", column.name);
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/frameworks.md");
    let page = std::fs::read_to_string(path).unwrap();
    let begin = page.find(BEGIN).unwrap() + BEGIN.len();
    let end = page.find(END).unwrap();
    let table = table(columns);
    if std::env::var_os("BLESS").is_some() {
        let page = format!("{}{table}{}", &page[..begin], &page[end..]);
        std::fs::write(path, page).unwrap();
        return;
    }
    assert!(
        page[begin..end] == table,
        "the table in docs/frameworks.md is out of date: run this test with BLESS=1. It should be\n{table}"
    );
}

fn table(columns: &[Column]) -> String {
    let mut table = String::from("\n| |");
    for column in columns {
        table.push_str(&format!(" {} |", column.name));
    }
    table.push_str("\n|---|");
    table.push_str(&"---|".repeat(columns.len()));
    let mut reasons: Vec<&str> = Vec::new();
    for (case, title) in CASES {
        table.push_str(&format!("\n| {title} |"));
        for column in columns {
            let lacks = column.lacks.iter().find(|(lacking, _)| lacking == case);
            let cell = match lacks {
                None => "✓".to_owned(),
                Some((_, reason)) => {
                    let known = reasons.iter().position(|known| known == reason);
                    let number = known.unwrap_or_else(|| {
                        reasons.push(reason);
                        reasons.len() - 1
                    });
                    format!("– ({})", number + 1)
                }
            };
            table.push_str(&format!(" {cell} |"));
        }
    }
    table.push('\n');
    for (number, reason) in (1..).zip(reasons) {
        table.push_str(&format!("\n{number}. {reason}"));
    }
    table.push_str("\n\n");
    table
}
