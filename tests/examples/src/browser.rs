//! A browser without a window, through WebDriver: plain HTTP with JSON.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use base64::Engine;
use http::{Method, Request};
use idem_frameworks::Server;
use serde_json::{Value, json};

/// What WebDriver calls an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// Ends with the test, and everything that it has started.
pub struct Browser {
    driver: Child,
    _said: BufReader<ChildStdout>,
    server: Server,
    session: String,
    profile: PathBuf,
}

impl Browser {
    pub async fn start() -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let profile = format!("idem-browser-{}-{number}", std::process::id());
        let profile = std::env::temp_dir().join(profile);
        std::fs::create_dir_all(&profile).unwrap();
        let program = std::env::var_os("IDEM_CHROMEDRIVER");
        let mut driver = Command::new(program.unwrap_or_else(|| "chromedriver".into()))
            .arg("--port=0")
            .stdout(Stdio::piped())
            // What it starts is of its group, and ends with it.
            .process_group(0)
            .spawn()
            .expect("chromedriver runs: `cargo xtask test` installs it");
        let mut said = BufReader::new(driver.stdout.take().unwrap());
        let port: u16 = loop {
            let mut line = String::new();
            assert!(said.read_line(&mut line).unwrap() > 0, "chromedriver ended");
            if let Some((_, port)) = line.split_once("successfully on port ") {
                break port.trim().trim_end_matches('.').parse().unwrap();
            }
        };
        let mut browser = Self {
            driver,
            _said: said,
            server: Server(([127, 0, 0, 1], port).into()),
            session: String::new(),
            profile,
        };
        let mut arguments = vec![
            "--headless=new".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--hide-scrollbars".to_owned(),
            "--window-size=1360,1000".to_owned(),
            format!("--user-data-dir={}", browser.profile.display()),
        ];
        if is_root() {
            arguments.push("--no-sandbox".to_owned());
        }
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
            "timeouts": { "script": 60_000 },
        } } });
        let session = browser.call(Method::POST, "/session", &wanted).await;
        browser.session = session["sessionId"].as_str().unwrap().to_owned();
        browser
    }

    async fn call(&self, method: Method, path: &str, body: &Value) -> Value {
        let request = Request::builder().method(method).uri(path);
        let request = request.header("content-type", "application/json");
        let answer = self
            .server
            .send(request.body(body.to_string()).unwrap())
            .await;
        let mut answer: Value = serde_json::from_slice(answer.body()).unwrap();
        let value = answer["value"].take();
        assert!(value["error"].is_null(), "{path}: {value}");
        value
    }

    async fn post(&self, command: &str, body: &Value) -> Value {
        let path = format!("/session/{}/{command}", self.session);
        self.call(Method::POST, &path, body).await
    }

    pub async fn open(&self, url: &str) {
        self.post("url", &json!({ "url": url })).await;
    }

    /// The value of an expression in the page.
    pub async fn value(&self, expression: &str) -> Value {
        let script = format!("return ({expression});");
        self.post("execute/sync", &json!({ "script": script, "args": [] }))
            .await
    }

    /// Waits in the page until the expression is true, and gives its value.
    pub async fn until(&self, expression: &str) -> Value {
        let script = format!(
            "const done = arguments[0];
             const end = Date.now() + 45000;
             const look = () => {{
               const value = ({expression});
               if (value || Date.now() > end) done(value || null);
               else setTimeout(look, 20);
             }};
             look();"
        );
        let value = self
            .post("execute/async", &json!({ "script": script, "args": [] }))
            .await;
        if value.is_null() {
            let page = self.value("location.href + document.body.innerText").await;
            panic!(
                "{expression} never became true; {:?}\n{page}",
                self.console().await
            );
        }
        value
    }

    async fn find(&self, selector: &str) -> String {
        self.until(&format!("document.querySelector({selector:?})"))
            .await;
        let by = json!({ "using": "css selector", "value": selector });
        let found = self.post("element", &by).await;
        found[ELEMENT].as_str().unwrap().to_owned()
    }

    pub async fn click(&self, selector: &str) {
        let element = self.find(selector).await;
        self.post(&format!("element/{element}/click"), &json!({}))
            .await;
    }

    /// Types into a field, after what is there.
    pub async fn write(&self, selector: &str, text: &str) {
        let element = self.find(selector).await;
        self.post(
            &format!("element/{element}/value"),
            &json!({ "text": text }),
        )
        .await;
    }

    /// Presses the mouse's button twice, as fast as that goes.
    pub async fn double_click(&self, selector: &str) {
        let element = self.find(selector).await;
        let there =
            json!({ "type": "pointerMove", "origin": { ELEMENT: element }, "x": 0, "y": 0 });
        let down = json!({ "type": "pointerDown", "button": 0 });
        let up = json!({ "type": "pointerUp", "button": 0 });
        let actions = json!({ "actions": [{
            "type": "pointer", "id": "mouse", "parameters": { "pointerType": "mouse" },
            "actions": [there, down, up, down, up],
        }] });
        self.post("actions", &actions).await;
    }

    /// Presses keys, one after the other.
    pub async fn press(&self, keys: &str) {
        let strokes: Vec<_> = keys
            .chars()
            .flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key })))
            .collect();
        let actions =
            json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": strokes }] });
        self.post("actions", &actions).await;
    }

    /// What the console has said since it was asked last.
    pub async fn console(&self) -> Vec<String> {
        let log = self.post("se/log", &json!({ "type": "browser" })).await;
        let entries = log.as_array().unwrap().iter();
        entries
            .map(|entry| entry["message"].as_str().unwrap().to_owned())
            .collect()
    }

    /// What the window shows, as a PNG.
    pub async fn screenshot(&self) -> Vec<u8> {
        let path = format!("/session/{}/screenshot", self.session);
        let shot = self.call(Method::GET, &path, &json!({})).await;
        let shot = shot.as_str().unwrap();
        base64::engine::general_purpose::STANDARD
            .decode(shot)
            .unwrap()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let group = format!("-{}", self.driver.id());
        let _ = Command::new("kill").args(["-9", "--", &group]).status();
        let _ = self.driver.wait();
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}

/// A browser refuses to lock itself in where it could unlock itself.
fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}
