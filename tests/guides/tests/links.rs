//! The guides are read as files and as pages of rustdoc. A link between them leads somewhere in both.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Every guide's text by its file's name, without `links.md`.
fn guides() -> BTreeMap<String, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../src/guide");
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap());
    let named = files.map(|file| (file.file_name().into_string().unwrap(), file.path()));
    named
        .filter(|(name, _)| name.ends_with(".md") && name != "links.md")
        .map(|(name, path)| (name, fs::read_to_string(path).unwrap()))
        .collect()
}

/// The definitions of links to guides: `[guide:…]: where`.
fn definitions(text: &str) -> BTreeMap<&str, &str> {
    let defined = |line| str::strip_prefix(line, "[guide:")?.split_once("]: ");
    text.lines().filter_map(defined).collect()
}

/// What a text links to as `[words][guide:…]`.
fn uses(text: &str) -> impl Iterator<Item = &str> {
    let after = text.split("][guide:").skip(1);
    after.filter_map(|rest| rest.split_once(']').map(|(used, _)| used))
}

/// A heading as the anchor that is made of it.
fn anchor(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = words
        .chars()
        .filter(|c| c.is_alphanumeric() || "_- ".contains(*c));
    kept.collect::<String>().replace(' ', "-")
}

#[test]
fn links_between_guides_lead_to_files_pages_and_headings() {
    let guides = guides();
    let pages = include_str!("../../../src/guide/links.md");
    let pages = definitions(pages);
    for (name, text) in &guides {
        let files = definitions(text);
        for used in uses(text) {
            assert!(files.contains_key(used), "{name}: no file for {used}");
            assert!(pages.contains_key(used), "{name}: no page for {used}");
        }
        for (link, file) in files {
            let (file, heading) = file.split_once('#').unwrap_or((file, ""));
            let Some(text) = guides.get(file) else {
                panic!("{name}: {link} leads to {file}, which is no guide");
            };
            let mut headings = text.lines().filter(|line| line.starts_with('#'));
            assert!(
                heading.is_empty() || headings.any(|line| anchor(line) == heading),
                "{name}: {file} has no heading {heading}"
            );
        }
    }
    for (link, page) in pages {
        let (guide, heading) = link.split_once('#').unwrap_or((link, ""));
        assert!(guides.contains_key(&format!("{guide}.md")), "{link}");
        let expected = match heading {
            "" => format!("crate::guide::{guide}"),
            heading => format!("crate::guide::{guide}#{heading}"),
        };
        assert_eq!(page, expected);
    }
}
