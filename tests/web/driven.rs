//! Page in headless Chromium that the test controls over the browser's debugging pipe: messages of JSON, each
//! ended by a zero byte, on two named pipes.

use std::{fmt::Debug, process::Stdio};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::unix::pipe,
    process::{Child, Command},
};

use super::{
    browser,
    served::{LONG, POLL},
};

/// Page in a browser process of its own.
pub(crate) struct Page {
    to: pipe::Sender,
    from: BufReader<pipe::Receiver>,
    next: u64,
    session: Option<String>,
    browser: Child,
    _folder: tempfile::TempDir,
}

impl Page {
    /// Opens an empty page of that size.
    pub(crate) async fn open(width: u32, height: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (to, from) = (folder.path().join("to"), folder.path().join("from"));
        let made = Command::new("mkfifo").arg(&to).arg(&from).status().await.unwrap();
        assert!(made.success(), "mkfifo makes two pipes");
        // Each pipe is opened for both directions, so that neither side blocks on the other.
        let sender = pipe::OpenOptions::new().read_write(true).open_sender(&to).unwrap();
        let receiver = pipe::OpenOptions::new().read_write(true).open_receiver(&from).unwrap();
        // The browser reads at descriptor 3 and writes at 4.
        let browser = Command::new("sh")
            .args(["-c", r#"to=$1; from=$2; shift 2; exec "$@" 3<"$to" 4>"$from""#, "sh"])
            .args([&to, &from])
            .arg(browser::program())
            .args(browser::OPTIONS)
            .args(["--remote-debugging-pipe", "about:blank"])
            .arg(format!("--user-data-dir={}", folder.path().join("profile").display()))
            .env("TZ", "UTC")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let from = BufReader::new(receiver);
        let mut page = Self { to: sender, from, next: 0, session: None, browser, _folder: folder };
        let target = page.call("Target.createTarget", json!({ "url": "about:blank" })).await;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = page.call("Target.attachToTarget", attach).await;
        page.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700 });
        page.call("Emulation.setDeviceMetricsOverride", size).await;
        page
    }

    /// Loads a URL and waits until the document is complete.
    pub(crate) async fn go(&mut self, url: &str) {
        self.call("Page.navigate", json!({ "url": url })).await;
        self.until("document.readyState === 'complete' && location.href", |at| *at == url).await;
    }

    /// Value of an expression on the page.
    pub(crate) async fn eval(&mut self, expression: &str) -> Value {
        let ask = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.call("Runtime.evaluate", ask).await;
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Evaluates an expression until `holds`; fails after [`LONG`] with the last value.
    pub(crate) async fn until(
        &mut self,
        expression: &str,
        holds: impl Fn(&Value) -> bool,
    ) -> Value {
        let deadline = bellwether::clock::boot_now() + LONG;
        loop {
            let seen = self.eval(expression).await;
            if holds(&seen) {
                return seen;
            }
            let in_time = bellwether::clock::boot_now() < deadline;
            assert!(in_time, "{expression} stays {seen} for {LONG:?}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Text of the element of that id.
    pub(crate) async fn text(&mut self, id: &str) -> String {
        self.eval(&format!("document.getElementById('{id}').textContent"))
            .await
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// Closes the browser and waits for its process to end.
    pub(crate) async fn close(mut self) {
        self.session = None;
        self.call("Browser.close", json!({})).await;
        self.browser.wait().await.unwrap();
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let mut message = json!({ "id": self.next, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let asking = async {
            self.to.write_all(format!("{message}\0").as_bytes()).await.unwrap();
            loop {
                let mut bytes = Vec::new();
                self.from.read_until(0, &mut bytes).await.unwrap();
                let answer: Value = serde_json::from_slice(&bytes[..bytes.len() - 1]).unwrap();
                // Events may come before the answer; no test here waits for events.
                if answer["id"] == self.next {
                    assert!(answer.get("error").is_none(), "{method}: {answer}");
                    return answer["result"].clone();
                }
            }
        };
        let limit = std::time::Duration::from_secs(60);
        tokio::time::timeout(limit, asking)
            .await
            .unwrap_or_else(|_| panic!("no answer to {method}"))
    }
}

impl Debug for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Page").finish_non_exhaustive()
    }
}
