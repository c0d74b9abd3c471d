//! The event stream as a page reads it, and its cost in bytes.

use std::time::Duration;

use bellwether::telemetry::ServerConfig;
use flate2::write::GzDecoder;
use reqwest::header;
use serde_json::{Value, json};

use super::served::{LONG, Script, Served, client};

/// How often the server sends an update to the page.
const PICTURES_PER_SECOND: usize = 2;
/// Most bytes per second that a viewer may cost.
const BYTES_PER_SECOND: usize = 50_000;

/// Event of the stream, parsed.
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) data: Value,
    /// Length of the event on the wire, uncompressed.
    pub(crate) bytes: usize,
}

/// Reader of events that maintains the current picture, as the page does.
pub(crate) struct Reader {
    stream: reqwest::Response,
    text: String,
    pub(crate) picture: Value,
}

impl Reader {
    pub(crate) async fn of(served: &Served) -> Self {
        // The stream has no end, so its client has no timeout, unlike the client of the other tests.
        drop(client());
        let client = reqwest::Client::builder().tls_certs_only([]).build().unwrap();
        let stream = client.get(served.url("/events")).send().await.unwrap();
        assert_eq!(stream.headers()[header::CONTENT_TYPE], "text/event-stream");
        assert!(!stream.headers().contains_key(header::CONTENT_ENCODING));
        Self { stream, text: String::new(), picture: Value::Null }
    }

    pub(crate) async fn next(&mut self) -> Event {
        while !self.text.contains("\n\n") {
            let chunk = tokio::time::timeout(LONG, self.stream.chunk()).await.expect("it goes on");
            let chunk = chunk.unwrap().expect("the stream goes on");
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
        let (event, rest) = self.text.split_once("\n\n").unwrap();
        let bytes = event.len() + 2;
        let (name, data) = event.split_once('\n').unwrap();
        let name = name.strip_prefix("event: ").unwrap().to_owned();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        self.text = rest.to_owned();
        self.picture = match &*name {
            "status" => data.clone(),
            _ => applied(&self.picture, &data),
        };
        Event { name, data, bytes }
    }
}

impl Reader {
    /// Next event that contains a change.
    pub(crate) async fn next_change(&mut self) -> Event {
        loop {
            let event = self.next().await;
            assert_eq!(event.name, "change");
            if event.data != json!({}) {
                return event;
            }
        }
    }
}

/// A picture with a change applied.
fn applied(old: &Value, change: &Value) -> Value {
    let Value::Object(change) = change else { return change[0].clone() };
    let mut fresh = old.clone();
    for (key, part) in change {
        match &mut fresh {
            Value::Array(items) if key == "+" => {
                let number = |at: usize| usize::try_from(part[at].as_u64().unwrap()).unwrap();
                items.splice(number(0)..number(0) + number(1), part[2].as_array().unwrap().clone());
            }
            Value::Array(items) => {
                let item = &mut items[key.parse::<usize>().unwrap()];
                *item = applied(item, part);
            }
            Value::Object(fields) if *part == json!([]) => {
                fields.remove(key);
            }
            Value::Object(fields) => {
                let before = fields.get(key).cloned().unwrap_or_default();
                fields.insert(key.clone(), applied(&before, part));
            }
            other => panic!("{other} has no {key}"),
        }
    }
    fresh
}

/// Picture with so many checks, as a node of a cluster shows them.
fn with_checks(count: usize) -> Value {
    let check = |number: usize| {
        json!({
            "namespace": "shop", "name": format!("check-number-{number}"), "kind": "http",
            "target": format!("GET https://host-{number}.shop.example/health"), "state": "up",
            "message": "200 OK", "latency_ms": 12.5, "checked_by": "2", "shard": number % 256,
            "interval_ms": 30_000, "last_run_unix_ms": 1_772_366_400_123_u64,
            "last_change_unix_ms": 1_772_300_000_000_u64,
        })
    };
    let checks: Vec<Value> = (0..count).map(check).collect();
    json!({ "cluster": "shop", "at_unix_ms": 0, "checks": { "checks": checks, "changes": [] } })
}

/// Advances the picture by half a second: the checks that are due in it, of those that run every 30 s, have
/// run.
fn run_some(picture: &mut Value, step: usize) {
    picture["at_unix_ms"] = json!(1_772_366_400_123_u64 + 500 * step as u64);
    let checks = picture["checks"]["checks"].as_array_mut().unwrap();
    let due = checks.len() / (30 * PICTURES_PER_SECOND);
    for at in step * due..(step + 1) * due {
        let at = at % checks.len();
        checks[at]["last_run_unix_ms"] =
            json!(1_772_366_400_123_u64 + at as u64 + 500 * step as u64);
        checks[at]["latency_ms"] = json!((at * 7 + step) as f64 / 8.0);
    }
}

#[tokio::test]
async fn five_thousand_checks_cost_a_viewer_less_than_50_kb_a_second() {
    const STEPS: usize = 20;
    let mut picture = with_checks(5000);
    let served = Served::new(Script::new(picture.clone())).await;
    let mut reader = Reader::of(&served).await;
    let whole = reader.next().await.bytes;
    assert!(1_000_000 < whole, "{whole} bytes are no picture of 5,000 checks");

    let mut bytes = 0;
    for step in 0..STEPS {
        run_some(&mut picture, step);
        *served.script.status.lock().unwrap() = picture.clone();
        served.script.changed.notify_one();
        bytes += reader.next_change().await.bytes;
    }
    let per_second = bytes / STEPS * PICTURES_PER_SECOND;
    assert!(per_second < BYTES_PER_SECOND, "{per_second} bytes a second");
    // Delayed changes arrive later: changes of single checks have a rate limit of their own.
    while reader.picture["checks"] != picture["checks"] {
        reader.next().await;
    }
}

#[tokio::test]
async fn checks_that_all_change_at_once_are_held_back_for_a_while_and_come_then() {
    let mut picture = with_checks(5000);
    let served = Served::new(Script::new(picture.clone())).await;
    let mut reader = Reader::of(&served).await;
    reader.next().await;
    let mut changed = async |step: usize| {
        picture["at_unix_ms"] = json!(step);
        for check in picture["checks"]["checks"].as_array_mut().unwrap() {
            check["message"] = json!(format!("{step}: this server has no time for anybody"));
        }
        *served.script.status.lock().unwrap() = picture.clone();
        served.script.changed.notify_one();
        (reader.next_change().await.data, picture.clone())
    };
    changed(1).await;
    assert_eq!(changed(2).await.0, json!({ "at_unix_ms": [2] }), "what costs little comes at once");
    let (_, last) = changed(3).await;
    while reader.picture["checks"] != last["checks"] {
        reader.next().await;
    }
}

#[tokio::test]
async fn the_stream_is_packed_event_by_event_for_a_reader_that_takes_gzip() {
    let config =
        ServerConfig { picture_every: Duration::from_millis(150), ..ServerConfig::default() };
    let served = Served::with(Script::new(with_checks(5000)), config).await;
    let ask = client().get(served.url("/events")).header(header::ACCEPT_ENCODING, "br, gzip;q=0.8");
    let mut stream = ask.send().await.unwrap();
    assert_eq!(stream.headers()[header::CONTENT_ENCODING], "gzip");
    let (mut unpacked, mut packed) = (GzDecoder::new(Vec::new()), 0);
    loop {
        let chunk = stream.chunk().await.unwrap().expect("the stream goes on");
        packed += chunk.len();
        std::io::Write::write_all(&mut unpacked, &chunk).unwrap();
        std::io::Write::flush(&mut unpacked).unwrap();
        let text = String::from_utf8_lossy(unpacked.get_ref());
        // The first change has arrived although the stream continues.
        if text.ends_with("event: change\ndata: {}\n\n") {
            assert!(text.starts_with("event: status\n") && packed * 5 < text.len(), "{packed}");
            return;
        }
    }
}

#[tokio::test]
async fn pages_and_pictures_are_packed_for_those_that_take_gzip() {
    let served = Served::new(Script::new(with_checks(5000))).await;
    for path in ["/", "/status", "/metrics"] {
        let plain = client().get(served.url(path)).send().await.unwrap();
        assert!(!plain.headers().contains_key(header::CONTENT_ENCODING), "{path}");
        let plain = plain.bytes().await.unwrap().len();
        let ask = client().get(served.url(path)).header(header::ACCEPT_ENCODING, "gzip");
        let packed = ask.send().await.unwrap();
        assert_eq!(packed.headers()[header::CONTENT_ENCODING], "gzip", "{path}");
        let packed = packed.bytes().await.unwrap().len();
        assert!(packed * 2 < plain, "{path}: {packed} of {plain}");
    }
}

#[tokio::test]
async fn a_reader_that_was_too_slow_for_the_changes_gets_a_whole_picture_again() {
    // More than any socket buffer holds, and more changes than are kept for a reader.
    const CHANGES: usize = 60;
    let mut picture = json!({ "steps": {} });
    let served = Served::new(Script::new(picture.clone())).await;
    let (mut slow, mut prompt) = (Reader::of(&served).await, Reader::of(&served).await);
    slow.next().await;
    prompt.next().await;
    for step in 0..CHANGES {
        picture["filler"] = json!(format!("{step}{}", "x".repeat(400_000)));
        picture["steps"][step.to_string()] = json!(step);
        *served.script.status.lock().unwrap() = picture.clone();
        served.script.changed.notify_one();
        prompt.next_change().await;
    }
    assert_eq!(prompt.picture["steps"], picture["steps"]);
    while slow.picture["filler"] != picture["filler"] {
        slow.next().await;
    }
    assert_eq!(slow.picture["steps"], picture["steps"], "no change is missing");
}

#[tokio::test]
async fn a_reader_that_comes_later_begins_with_the_picture_of_then() {
    let config =
        ServerConfig { picture_every: Duration::from_secs(3600), ..ServerConfig::default() };
    let served = Served::with(Script::new(json!({ "cluster": "one" })), config).await;
    let mut first = Reader::of(&served).await;
    assert_eq!(first.next().await.data["cluster"], "one");
    *served.script.status.lock().unwrap() = json!({ "cluster": "two" });
    let mut later = Reader::of(&served).await;
    assert_eq!(later.next().await.data["cluster"], "two");
}

#[tokio::test]
async fn no_proxy_holds_the_stream_back_or_hands_its_packed_form_to_others() {
    let served = Served::new(Script::new(json!({}))).await;
    for (accepted, coding) in [("gzip;q=0, br", None), ("GZIP", Some("gzip"))] {
        let ask = client().get(served.url("/events")).header(header::ACCEPT_ENCODING, accepted);
        let answer = ask.send().await.unwrap();
        let value = |name: &str| answer.headers().get(name).map(|it| it.to_str().unwrap());
        let values = ["content-encoding", "vary", "x-accel-buffering"].map(value);
        assert_eq!(values, [coding, Some("accept-encoding"), Some("no")], "{accepted}");
    }
}
