//! The page's client half, run by Node: what the checkout example serves.

use std::path::Path;
use std::process::Stdio;

use http::{HeaderMap, HeaderValue, StatusCode};
use idem_client::{Policy, Problem, Refusal, Verdict};
use idem_client_tests::{Fault, Network, Nobody, Shop, Step};
use idem_tests::TempDir;
use tokio::process::{Child, Command};

fn node(storage: &Path, words: &[&str]) -> Command {
    let here = env!("CARGO_MANIFEST_DIR");
    let node = std::env::var_os("IDEM_NODE").unwrap_or_else(|| "node".into());
    let mut node = Command::new(node);
    node.arg(format!("{here}/tests/page.mjs"))
        .arg(storage)
        .args(words)
        .env("OUTBOX_JS", format!("{here}/../../src/guide/outbox.js"))
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    node
}

async fn output(child: Child) -> Vec<String> {
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_double_click_over_a_network_that_fails_is_one_charge() {
    let directory = TempDir::new("page");
    let storage = directory.path().join("storage");
    let shop = Shop::open().await;
    let faults = [
        Fault::DropRequest,
        Fault::CutRequest,
        Fault::CutAnswer,
        Fault::DropAnswer,
    ];
    let network = Network::with(shop.address, faults).await;
    let page = node(&storage, &["send", &network.url("/charges")])
        .spawn()
        .unwrap();
    let lines = output(page).await;
    assert_eq!(lines[0], lines[1]);
    assert!(lines[0].starts_with("answered 201 replayed"), "{lines:?}");
    assert_eq!((lines[2].as_str(), shop.charged()), ("left 0", 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_closed_while_it_pays_goes_on_when_it_is_opened_again() {
    let directory = TempDir::new("page");
    let storage = directory.path().join("storage");
    let shop = Shop::open().await;
    let mut stops = shop.stop_charges().await;
    let mut page = node(&storage, &["send", &shop.url("/charges")])
        .spawn()
        .unwrap();
    let stop = stops.recv().await.unwrap();
    page.kill().await.unwrap();
    stop.send(Step::Charge).unwrap();
    let lines = output(node(&storage, &["resume"]).spawn().unwrap()).await;
    assert!(lines[0].starts_with("answered 201 replayed"), "{lines:?}");
    assert_eq!((lines[1].as_str(), shop.charged()), ("left 0", 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_without_an_answer_is_unknown_and_stays_in_the_storage() {
    let directory = TempDir::new("page");
    let storage = directory.path().join("storage");
    let nobody = Nobody::bind();
    let url = format!("http://{}/charges", nobody.address);
    let mut page = node(&storage, &["send", &url]);
    let lines = output(page.env("DEADLINE", "300").spawn().unwrap()).await;
    assert!(lines[0].starts_with("unknown - first"), "{lines:?}");
    assert_eq!(lines[2], "left 1");
}

/// The two tables are one: every status, problem, hint and past.
#[tokio::test]
async fn an_answer_means_the_same_in_a_browser() {
    let mut cases = Vec::new();
    let mut verdicts = Vec::new();
    let kinds = Refusal::ALL.into_iter().map(Some).chain([None]);
    let statuses = [
        200, 303, 400, 401, 404, 407, 408, 409, 413, 422, 425, 429, 500, 501, 503, 505, 524,
    ];
    for kind in kinds {
        for status in statuses {
            for retryable in [None, Some(true), Some(false)] {
                for bits in 0..16 {
                    let [after, replayed, retry_after, hint] =
                        [1, 2, 4, 8].map(|bit| bits & bit != 0);
                    let mut lines = vec![];
                    if retry_after {
                        lines.push(("retry-after", "1"));
                    }
                    if hint {
                        lines.push((
                            "stripe-should-retry",
                            if status % 2 == 0 { "true" } else { "false" },
                        ));
                    }
                    let mut headers: HeaderMap = lines
                        .iter()
                        .map(|(name, value)| {
                            (name.parse().unwrap(), HeaderValue::from_static(value))
                        })
                        .collect();
                    if replayed {
                        headers.insert("idempotent-replayed", HeaderValue::from_static("true"));
                    }
                    let problem = problem(kind, retryable);
                    let status_code = StatusCode::from_u16(status).unwrap();
                    verdicts.push(
                        match Policy::judge(status_code, &headers, Some(&problem), after) {
                            Verdict::Answered => "answered",
                            Verdict::Refused(_) => "refused",
                            Verdict::Unknown(_) => "unknown",
                            Verdict::Retry { .. } => "retry",
                            _ => unreachable!(),
                        },
                    );
                    let case = serde_json::json!({
                        "status": status, "headers": lines, "replayed": replayed,
                        "kind": kind.map(Refusal::as_str), "retryable": retryable, "after": after,
                    });
                    cases.push(case.to_string());
                }
            }
        }
    }
    let directory = TempDir::new("page");
    let file = directory.path().join("cases");
    std::fs::write(&file, cases.join("\n")).unwrap();
    let judged = output(node(&file, &["judge"]).spawn().unwrap()).await;
    assert_eq!(judged.len(), cases.len());
    for ((judged, verdict), case) in judged.iter().zip(verdicts).zip(cases) {
        assert_eq!(judged, verdict, "{case}");
    }
}

fn problem(kind: Option<Refusal>, retryable: Option<bool>) -> Problem {
    let kind = kind.map_or("about:blank".to_owned(), |it| {
        format!("urn:idem:problem:{}", it.as_str())
    });
    let mut body = serde_json::json!({ "type": kind });
    if let Some(retryable) = retryable {
        body["retryable"] = retryable.into();
    }
    let value = HeaderValue::from_static("application/problem+json");
    let headers = HeaderMap::from_iter([(http::header::CONTENT_TYPE, value)]);
    Problem::read(&headers, body.to_string().as_bytes(), "urn:idem:problem:").unwrap()
}
