//! `idem dashboard`: served on this machine alone, with the tool's audit log.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::changes::{crash, engine, refunds, run};
use crate::tool::Tool;

/// The page, until it is dropped.
struct Served {
    child: Child,
    host: String,
}

impl Served {
    fn start(tool: &Tool, more: &[&str]) -> Self {
        let arguments = [&["dashboard", "--port", "0", "--json"], more].concat();
        let mut command = tool.command(&arguments);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let said = child.stdout.as_mut().unwrap();
        BufReader::new(said).read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap();
        let url = said["url"].as_str().unwrap();
        let host = url.strip_prefix("http://").unwrap().trim_end_matches('/');
        assert!(host.starts_with("127.0.0.1:"), "{host}");
        Self {
            host: host.to_owned(),
            child,
        }
    }

    /// The status, and what is said.
    fn ask(&self, request: &str, host: &str, headers: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.host).unwrap();
        let length = body.len();
        write!(
            stream,
            "{request} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{headers}\
             content-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }

    fn release(&self, id: &str) -> u16 {
        let (_, session) = self.ask("GET /api/session", &self.host, "", "");
        let session: Value = serde_json::from_str(&session).unwrap();
        let token = session["token"].as_str().unwrap();
        let headers = format!(
            "origin: http://{}\r\ncontent-type: application/json\r\nx-idem-token: {token}\r\n",
            self.host
        );
        let body = json!({"attempt": 1, "state": "crashed", "reason": "ticket 7"}).to_string();
        let request = format!("POST /api/records/{id}/release");
        self.ask(&request, &self.host, &headers, &body).0
    }

    /// How it ends when somebody presses Ctrl-C.
    fn interrupt(mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-INT", &pid]).status().unwrap();
        assert!(sent.success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_released_on_the_page_and_the_audit_log_says_so() {
    let tool = Tool::over_sqlite();
    let engine = engine(&tool).await;
    crash(&engine).await;
    let id = refunds(&engine).record_id("k").unwrap().to_string();

    let served = Served::start(&tool, &[]);
    let (status, page) = served.ask("GET /", &served.host, "", "");
    assert_eq!((status, page.contains("<html")), (200, true), "{page}");
    // A name that somebody's DNS points here.
    assert_eq!(served.ask("GET /", "evil.example", "", "").0, 421);
    assert_eq!(served.release(&id), 403, "nobody has allowed changes");
    assert!(tool.audited().is_empty());
    assert_eq!(served.interrupt(), Some(0));

    let served = Served::start(&tool, &["--allow-changes"]);
    assert_eq!(served.release(&id), 200);
    assert_eq!(run(&engine, 2).await.unwrap(), 2);
    let audited = tool.audited();
    let [intent, result] = &audited[..] else {
        panic!("{audited:?}");
    };
    assert_eq!(intent["entry"], "intent");
    assert_eq!(intent["command"], "release");
    assert_eq!(intent["record"], id);
    assert_eq!(intent["reason"], "ticket 7");
    assert_eq!(result["entry"], "result");
    assert_eq!(result["result"], "done");
    assert_eq!(result["change"], intent["change"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_audit_log_the_page_changes_nothing() {
    let tool = Tool::over_sqlite();
    let engine = engine(&tool).await;
    crash(&engine).await;
    let id = refunds(&engine).record_id("k").unwrap().to_string();
    // A file, where the log's directory would be.
    std::fs::write(tool.path("state"), "").unwrap();

    let served = Served::start(&tool, &["--allow-changes"]);
    assert_eq!(served.release(&id), 500);
    run(&engine, 2).await.unwrap_err();
}
