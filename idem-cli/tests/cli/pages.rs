//! What the pages say is what the tool takes.

use std::fs;
use std::path::Path;

use crate::tool::Tool;

/// The commands of a page's samples for a shell, each as its words.
fn commands(page: &str) -> Vec<Vec<String>> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    let text = fs::read_to_string(&page).unwrap_or_else(|error| panic!("{page:?}: {error}"));
    let samples = text
        .split("```sh\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next());
    let samples = samples.map(|sample| sample.replace("\\\n", " "));
    let lines = samples.flat_map(|sample| sample.lines().map(str::to_owned).collect::<Vec<_>>());
    lines
        .filter_map(|line| Some(words(line.trim().strip_prefix("idem ")?)))
        .collect()
}

/// As a shell splits a line without variables.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                word.get_or_insert_default();
                quote = Some(c);
            }
            (None, '#') if word.is_none() => break,
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[test]
fn every_command_of_the_pages_is_one_of_the_tool() {
    // Where the command is understood, there is no store to ask.
    let tool = Tool::over_sqlite();
    for page in ["README.md", "../README.md", "../src/guide/operating.md"] {
        let commands = commands(page);
        assert!(commands.len() >= 3, "{page}: {commands:?}");
        for command in commands {
            let mut words: Vec<_> = command.iter().map(String::as_str).collect();
            let expected = match words[0] {
                "doctor" => 5,
                "probe" => {
                    // Whoever listens there is not asked.
                    words.extend(["--max-requests", "0"]);
                    6
                }
                _ => 4,
            };
            assert_eq!(tool.run(&words).status, expected, "{words:?}");
        }
    }
}

#[test]
fn completions_and_manual_pages_are_written() {
    let tool = Tool::over_sqlite();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(
            tool.text(&["completions", shell]).contains("resolve"),
            "{shell}"
        );
    }
    assert!(tool.text(&["man"]).contains(".TH idem"));
    let directory = tool.path("man").display().to_string();
    tool.text(&["man", &directory]);
    let page = fs::read_to_string(tool.path("man/idem-resolve.1")).unwrap();
    assert!(
        page.contains("key\\-json") && page.contains("audit"),
        "{page}"
    );
}
