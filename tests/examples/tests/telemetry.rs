//! The example `telemetry`, as a process of its own: the figures of a scrape are what a script has done,
//! and what is in `docs/observability` speaks of metrics and decisions that there are.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Response};
use idem_examples::Example;
use idem_frameworks::{Server, is_replay};

const RULES: &str = include_str!("../../../docs/observability/rules.yml");
const DASHBOARD: &str = include_str!("../../../docs/observability/grafana.json");
/// Where metrics are made, and where decisions have their words.
const METRICS: &str = include_str!("../../../idem-core/src/observe.rs");
const DECISIONS: &str = include_str!("../../../idem-core/src/observer.rs");

/// In front of what a client's own trace is called.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

fn charge(key: Option<&str>, amount: u32) -> Request<Bytes> {
    let mut request = Request::post("/charges").header("content-type", "application/json");
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    let body = format!("{{\"amount\":{amount}}}");
    request.body(body.into()).unwrap()
}

/// What a client knows of what it has done.
#[derive(Default)]
struct Script {
    keys: BTreeSet<String>,
    requests: u64,
    with_a_key: u64,
    reused: u64,
    from_records: u64,
    conflicts: u64,
    executed: u64,
    in_flight: u64,
}

impl Script {
    fn sends(&mut self, key: &str) {
        self.with_a_key += 1;
        if !self.keys.insert(key.to_owned()) {
            self.reused += 1;
        }
    }

    fn got(&mut self, response: &Response<Bytes>) {
        self.requests += 1;
        match response.status().as_u16() {
            201 if is_replay(response) => self.from_records += 1,
            // A charge that failed half-way was carried out as well.
            201 | 500 => self.executed += 1,
            409 => self.in_flight += 1,
            422 => self.conflicts += 1,
            400 => {}
            other => panic!("{other}: {response:?}"),
        }
    }

    async fn charge(&mut self, server: Server, key: &str, amount: u32) -> u16 {
        self.sends(key);
        let response = server.send(charge(Some(key), amount)).await;
        self.got(&response);
        response.status().as_u16()
    }

    async fn charge_at_once(&mut self, server: Server, key: &str, times: usize) {
        (0..times).for_each(|_| self.sends(key));
        let all = (0..times).map(|_| server.send(charge(Some(key), 5)));
        for response in join_all(all).await {
            self.got(&response);
        }
    }
}

/// Every series of a scrape, by its name and labels.
struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    async fn of(server: Server) -> Self {
        let request = Request::get("/metrics").body(Bytes::new()).unwrap();
        let response = server.send(request).await;
        let text = String::from_utf8_lossy(response.body()).into_owned();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let series = lines.filter_map(|line| line.rsplit_once(' '));
        Self(
            series
                .map(|(series, value)| (series.to_owned(), value.parse().unwrap()))
                .collect(),
        )
    }

    /// The sum of a metric's series.
    fn sum(&self, name: &str) -> u64 {
        let of_it = |series: &&String| series.starts_with(&format!("{name}{{"));
        let values = self.0.iter().filter(|(series, _)| of_it(series));
        values.map(|(_, value)| *value as u64).sum()
    }

    fn decided(&self, decisions: &BTreeSet<&str>) -> u64 {
        let is_one = |series: &str| {
            decisions
                .iter()
                .any(|decision| series.contains(&format!("decision=\"{decision}\"")))
        };
        let requests = self
            .0
            .iter()
            .filter(|(series, _)| series.starts_with("idem_requests_total{") && is_one(series));
        requests.map(|(_, value)| *value as u64).sum()
    }
}

/// The decisions that a recording rule counts above its line, and below it.
fn counted(rule: &str) -> (BTreeSet<&'static str>, BTreeSet<&'static str>) {
    let begin = RULES.find(&format!("record: {rule}\n")).unwrap();
    let rule = &RULES[begin..];
    let rule = &rule[..rule.find("\n\n").unwrap()];
    let (above, below) = rule.split_once("\n          /\n").unwrap();
    let decisions = |text: &'static str| {
        let listed = text.split("decision=~\"").nth(1);
        let listed = listed.and_then(|listed| listed.split('"').next());
        listed.map_or_else(all_decisions, |listed| listed.split('|').collect())
    };
    (decisions(above), decisions(below))
}

/// What stands in quotes.
fn quoted(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.split('"').skip(1).step_by(2)
}

fn all_decisions() -> BTreeSet<&'static str> {
    let words = DECISIONS.split("pub const fn as_str(self)").nth(1).unwrap();
    quoted(words).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_figures_of_a_scrape_are_what_the_script_did() {
    let example = Example::start("telemetry", &[]);
    let server = example.server;
    let mut script = Script::default();
    for key in ["\"a\"", "\"b\"", "\"c\"", "\"d\""] {
        assert_eq!(script.charge(server, key, 5).await, 201);
    }
    for key in ["\"a\"", "\"b\"", "\"a\""] {
        assert_eq!(script.charge(server, key, 5).await, 201);
    }
    for key in ["\"a\"", "\"d\""] {
        assert_eq!(script.charge(server, key, 6).await, 422);
    }
    // A charge that fails half-way, its retry, and a replay of that.
    assert_eq!(script.charge(server, "\"e\"", 13).await, 500);
    assert_eq!(script.charge(server, "\"e\"", 13).await, 201);
    assert_eq!(script.charge(server, "\"e\"", 13).await, 201);
    script.charge_at_once(server, "\"f\"", 8).await;
    for key in [None, Some("\"g")] {
        script.got(&server.send(charge(key, 5)).await);
    }
    assert_eq!(script.executed, 7);

    let scrape = Scrape::of(server).await;
    assert_eq!(scrape.sum("idem_requests_total"), script.requests);
    assert_eq!(scrape.decided(&["executed"].into()), script.executed);
    assert_eq!(scrape.decided(&["in_flight"].into()), script.in_flight);
    assert_eq!(scrape.sum("idem_takeovers_total"), 1);
    assert_eq!(scrape.sum("idem_body_seconds_count"), script.executed);

    // How often are keys reused? As the rule has it: with what ran again after a crash.
    let (reused, known) = counted("idem:keys_reused:ratio5m");
    let again = scrape.sum("idem_takeovers_total");
    assert_eq!(scrape.decided(&reused) + again, script.reused);
    assert_eq!(scrape.decided(&known), script.with_a_key);
    // How many requests are answered from records?
    let (answered, all) = counted("idem:answered_from_records:ratio5m");
    assert_eq!(scrape.decided(&answered), script.from_records);
    assert_eq!(scrape.decided(&all), script.requests);
    // How many payloads conflict?
    let (conflicts, known) = counted("idem:payload_conflicts:ratio5m");
    assert_eq!(scrape.decided(&conflicts), script.conflicts);
    assert_eq!(scrape.decided(&known), script.with_a_key);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_a_span_of_its_callers_trace_and_names_the_record() {
    let mut example = Example::start("telemetry", &[]);
    for _ in 0..2 {
        let mut request = charge(Some("\"a\""), 5);
        let parent = format!("00-{TRACE}-b7ad6b7169203331-01");
        request
            .headers_mut()
            .insert("traceparent", parent.parse().unwrap());
        assert_eq!(example.server.send(request).await.status(), 201);
    }
    // Spans that are printed keep the reader below from waiting for ever.
    let server = example.server;
    let others = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            server.send(charge(Some("\"another\""), 5)).await;
        }
    });
    let mut spans = vec![String::new()];
    let is_request = |span: &String| {
        span.contains("Name         : request") && span.contains("http.response.status_code")
    };
    let begun = Instant::now();
    // The second one is whole when a third one has begun.
    while spans.iter().filter(|span| is_request(span)).count() < 3 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{spans:?}");
        let line = tokio::task::block_in_place(|| example.output.next());
        let line = line.unwrap().unwrap();
        if line.starts_with("Span #") {
            spans.push(String::new());
        }
        spans.last_mut().unwrap().push_str(&format!("{line}\n"));
    }
    others.abort();
    let requests: Vec<_> = spans.iter().filter(|span| is_request(span)).collect();
    let attribute = |span: &str, name: &str| {
        let line = span.split(&format!(" ->  {name}: ")).nth(1);
        let line = line.unwrap_or_else(|| panic!("no {name} in {span}"));
        line.lines().next().unwrap().to_owned()
    };
    for (span, decision) in requests.iter().zip(["executed", "replayed"]) {
        assert!(span.contains(&format!("TraceId      : {TRACE}")), "{span}");
        assert!(
            attribute(span, "idem.decision").contains(decision),
            "{span}"
        );
    }
    assert_eq!(
        attribute(requests[0], "idem.record"),
        attribute(requests[1], "idem.record")
    );
    let call = |span: &&String| span.contains("Name         : store call");
    // A claim and a completion, and a claim.
    assert!(spans.iter().filter(call).count() >= 3, "{spans:?}");
}

/// Names of metrics in a text, without what a histogram's series have in addition.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let is_of_a_name = |letter: char| letter.is_ascii_lowercase() || letter == '_';
    let words = text.split(|letter| !is_of_a_name(letter));
    let names = words.filter(|word| word.starts_with("idem_"));
    names
        .map(|name| {
            let series = ["_bucket", "_count", "_sum"];
            let short = series.iter().find_map(|end| name.strip_suffix(end));
            short.unwrap_or(name).to_owned()
        })
        .collect()
}

#[test]
fn the_dashboard_and_the_rules_name_what_there_is() {
    let calls = ["metrics::counter!(", "metrics::histogram!("];
    let made: BTreeSet<String> = calls
        .iter()
        .flat_map(|call| METRICS.split(call).skip(1))
        .filter_map(|call| quoted(call).next().map(str::to_owned))
        .collect();
    assert_eq!(made.len(), 8, "{made:?}");

    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap());
    let shown: String = targets
        .map(|target| target["expr"].as_str().unwrap())
        .collect::<Vec<_>>()
        .join("\n");
    // Nothing that is measured is shown nowhere.
    assert_eq!(metrics_in(&shown), made);
    let ruled = metrics_in(RULES);
    assert!(ruled.is_subset(&made), "{ruled:?}");

    let labels: BTreeSet<_> = ["operation", "decision", "store", "call"].into();
    let decisions = all_decisions();
    assert_eq!(decisions.len(), 12, "{decisions:?}");
    for text in [&*shown, RULES] {
        for (at, _) in text.match_indices("decision=") {
            let listed = &text[at..];
            let listed = listed.split('"').nth(1).unwrap();
            for decision in listed.split('|') {
                assert!(decisions.contains(decision), "{decision} in {listed}");
            }
        }
        for grouped in text.split(" by (").skip(1) {
            let grouped = &grouped[..grouped.find(')').unwrap()];
            for label in grouped.split(", ").filter(|label| *label != "le") {
                assert!(labels.contains(label), "{label}");
            }
        }
    }

    // A decision is about a key that was looked at, or it is one of these.
    let (_, known) = counted("idem:keys_reused:ratio5m");
    let unknown = [
        "key_missing",
        "key_invalid",
        "store_unavailable",
        "unprotected",
    ];
    let all: BTreeSet<_> = known.into_iter().chain(unknown).collect();
    assert_eq!(all, decisions);
}
