//! The page for operators, as the tool serves it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};

use idem::Engine;
use serde_json::{Value, json};

use crate::changes::{crash, refunds, run};
use crate::long_work::interrupt;
use crate::tool::Tool;

/// `idem dashboard`, killed with the test.
struct Served {
    process: Child,
    address: SocketAddr,
}

impl Served {
    fn start(tool: &Tool, options: &[&str]) -> Self {
        let options = [&["dashboard", "--port", "0"], options].concat();
        let mut command = tool.command(&options);
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("http://").unwrap();
        let address = address.strip_suffix('/').unwrap().parse().unwrap();
        Self { process, address }
    }

    fn ask(&self, head: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let length = body.len();
        write!(
            stream,
            "{head}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        (status, body.to_owned())
    }

    fn get(&self, path: &str) -> Value {
        let head = format!("GET {path} HTTP/1.1\r\nhost: {}", self.address);
        let (status, body) = self.ask(&head, "");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let (address, session) = (self.address, self.get("/api/session"));
        let token = session["token"].as_str().unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\norigin: http://{address}\r\n\
             x-idem-token: {token}\r\ncontent-type: application/json"
        );
        let (status, body) = self.ask(&head, &body.to_string());
        (status, serde_json::from_str(&body).unwrap())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn resolution() -> Value {
    json!({
        "attempt": 1, "state": "crashed", "reason": "ticket 7",
        "answer": { "kind": "value", "json": "42" },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_resolved_on_the_page_and_the_audit_log_says_so() {
    let tool = Tool::over_sqlite();
    let engine: Engine = idem::connect(tool.url()).await.unwrap().build();
    crash(&engine).await;
    let served = Served::start(&tool, &["--allow-changes"]);
    assert!(served.address.ip().is_loopback());
    assert_eq!(served.get("/api/overview")["counts"], json!([1, 0, 0, 0]));
    let named = json!({ "operation": "refunds", "key": ["k"] });
    let (_, found) = served.post("/api/find", &named);
    let id = refunds(&engine).record_id("k").unwrap().to_string();
    assert_eq!(found["id"], id);

    let path = format!("/api/records/{id}/resolve");
    let (status, changed) = served.post(&path, &resolution());
    assert_eq!(status, 200, "{changed}");
    assert_eq!(run(&engine, 1).await.unwrap(), 42);
    let audited = tool.audited();
    assert_eq!(audited.len(), 2, "{audited:?}");
    assert_eq!(audited[0]["change"], audited[1]["change"]);
    for (field, value) in [
        ("entry", "intent"),
        ("command", "resolve"),
        ("reason", "ticket 7"),
        ("record", &*id),
        ("operation", "refunds"),
        ("store", "sqlite"),
    ] {
        assert_eq!(audited[0][field], value);
    }
    assert_eq!(audited[0]["answer_sha256"].as_str().unwrap().len(), 64);
    assert_eq!(audited[1]["result"], "done");

    let foreign = "GET / HTTP/1.1\r\nhost: evil.example";
    assert_eq!(served.ask(foreign, "").0, 421);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_changes_nothing_unless_it_may_and_is_logged() {
    let tool = Tool::over_sqlite();
    let engine: Engine = idem::connect(tool.url()).await.unwrap().build();
    crash(&engine).await;
    let id = refunds(&engine).record_id("k").unwrap();
    let path = format!("/api/records/{id}/resolve");
    let read_only = Served::start(&tool, &[]);
    let (status, refused) = read_only.post(&path, &resolution());
    assert_eq!((status, &refused["error"]), (403, &json!("read-only")));
    // A directory is no log.
    let directory = tool.path("").display().to_string();
    let unlogged = Served::start(&tool, &["--allow-changes", "--audit", &directory]);
    let (status, refused) = unlogged.post(&path, &resolution());
    assert_eq!((status, &refused["error"]), (500, &json!("not-logged")));
    let found = refunds(&engine).inspect("k").await.unwrap().unwrap();
    assert_eq!(found.attempt, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_with_ctrl_c() {
    let tool = Tool::over_sqlite();
    drop(idem::connect(tool.url()).await.unwrap().build());
    let mut served = Served::start(&tool, &[]);
    interrupt(served.process.id());
    assert_eq!(served.process.wait().unwrap().code(), Some(130));
}
