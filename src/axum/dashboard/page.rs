//! The page itself: files within the program.

use std::sync::Arc;

use axum::Json;
use axum::extract::{OriginalUri, Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{Html, IntoResponse, Response};
use serde_json::json;

use super::guard::nothing_here;
use super::state::State as Shared;

const PAGE: &str = include_str!("page/page.html");

/// Stands in the page where its own folder does.
const FOLDER: &str = "{folder}";

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

const ASSETS: [(&str, &str, &str); 9] = [
    ("style.css", STYLE, include_str!("page/style.css")),
    ("app.js", SCRIPT, include_str!("page/app.js")),
    ("server.js", SCRIPT, include_str!("page/server.js")),
    ("elements.js", SCRIPT, include_str!("page/elements.js")),
    ("overview.js", SCRIPT, include_str!("page/overview.js")),
    ("chart.js", SCRIPT, include_str!("page/chart.js")),
    ("records.js", SCRIPT, include_str!("page/records.js")),
    ("record.js", SCRIPT, include_str!("page/record.js")),
    ("icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
];

pub(super) async fn page(OriginalUri(uri): OriginalUri) -> Html<String> {
    Html(PAGE.replace(FOLDER, &folder(uri.path())))
}

/// Where the page's files are, seen from the page: a path that ends with a slash is a folder, and of any
/// other the last part is missing. A proxy in front may have taken more away from its beginning.
fn folder(path: &str) -> String {
    let (_, last) = path.rsplit_once('/').unwrap_or_default();
    match last {
        "" => "./".to_owned(),
        last => format!("./{}/", escaped(last)),
    }
}

fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

pub(super) async fn asset(Path(name): Path<String>) -> Response {
    let mut assets = ASSETS.into_iter();
    match assets.find(|(known, ..)| *known == name) {
        Some((_, kind, text)) => ([(CONTENT_TYPE, kind)], text).into_response(),
        None => nothing_here().await.into_response(),
    }
}

/// What the script must know to begin with.
pub(super) async fn session(State(shared): State<Arc<Shared>>) -> Response {
    Json(json!({
        "token": shared.token,
        "allow_changes": shared.allow_changes,
        "show_bodies": shared.show_bodies,
        "store": shared.engine.store_name(),
        "version": env!("CARGO_PKG_VERSION"),
    }))
    .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_relative_and_escaped() {
        for (path, expected) in [
            ("/", "./"),
            ("", "./"),
            ("/admin/idem", "./idem/"),
            ("/admin/idem/", "./"),
            ("/a\"><script>", "./a&quot;&gt;&lt;script&gt;/"),
            ("/javascript:x", "./javascript:x/"),
        ] {
            assert_eq!(folder(path), expected, "{path}");
        }
    }

    #[test]
    fn every_script_that_is_imported_is_served() {
        let scripts = ASSETS.iter().filter(|(_, kind, _)| *kind == SCRIPT);
        for (name, _, text) in scripts {
            let imports = text
                .lines()
                .filter_map(|line| line.split_once(" from \"./"));
            for (_, import) in imports {
                let import = import.trim_end_matches("\";");
                assert!(
                    ASSETS.iter().any(|(known, ..)| *known == import),
                    "{name}: {import}"
                );
            }
        }
    }
}
