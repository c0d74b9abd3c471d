use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use super::*;

/// Writer that keeps all log lines.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn logged(format: LogFormat, filter: &str, work: impl FnOnce()) -> String {
    let kept = Kept::default();
    let writer = kept.clone();
    let options = LogOptions { format, filter: filter.to_owned(), colour: false };
    let subscriber = subscriber(&options, move || writer.clone()).unwrap();
    tracing::subscriber::with_default(subscriber, work);
    let bytes = kept.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn json_lines_carry_message_level_and_fields_at_the_top() {
    let line = logged(LogFormat::Json, "info", || {
        tracing::info!(node = 3, term = "17", "role changed");
        tracing::debug!("not this");
    });
    let value: serde_json::Value = serde_json::from_str(&line).expect("one object, one line");
    assert_eq!(value["message"], "role changed");
    assert_eq!(value["level"], "INFO");
    assert_eq!(value["node"], 3);
    assert_eq!(value["term"], "17");
}

#[test]
fn a_term_that_is_not_there_and_spans_are_no_text_of_rust() {
    let line = logged(LogFormat::Json, "info", || {
        let (some, none): (Option<i64>, Option<i64>) = (Some(2), None);
        tracing::info!(some, none, elapsed_ms = 2_u64, "role");
    });
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&value["some"], value.get("none")), (&serde_json::json!(2), None));
    assert_eq!(value["elapsed_ms"], 2);
}

#[test]
fn libraries_that_handle_tokens_stay_above_debug_whatever_the_filter_says() {
    let text = logged(LogFormat::Text, "trace,h2=trace", || {
        tracing::trace!(target: "h2::codec", "authorization: secret");
        tracing::debug!(target: "hyper::proto", "authorization: secret");
        tracing::warn!(target: "h2::codec", "connection broke off");
        tracing::trace!(target: "bellwether::node", "own step");
    });
    assert!(!text.contains("secret"), "{text}");
    assert!(text.contains("connection broke off") && text.contains("own step"), "{text}");
}

#[test]
fn answers_of_an_api_server_are_never_printed() {
    let text = logged(LogFormat::Text, "trace", || {
        tracing::warn!(target: "kube_client::client", "{{\"kind\":\"Secret\",\"data\":\"hush\"}}");
        // Our own log line has the same content.
        tracing::warn!(target: "kube_runtime::watcher", "watcher error 403: Status {{ hush }}");
        tracing::debug!(target: "kube_client::client::builder", "hush");
        tracing::warn!(target: "kube_client::client::tls", "failed to reload CA bundle");
    });
    assert!(!text.contains("hush"), "{text}");
    assert!(text.contains("failed to reload CA bundle"), "{text}");
}

#[test]
fn text_cannot_steer_the_terminal() {
    let text = logged(LogFormat::Text, "info", || {
        tracing::info!(address = "\u{1b}[2Jgone", "joined");
    });
    assert!(!text.contains('\u{1b}'), "{text:?}");
}

#[test]
fn a_bad_filter_and_a_bad_format_are_named() {
    let options = LogOptions { filter: "bellwether=loud".to_owned(), ..LogOptions::default() };
    let error = subscriber(&options, io::sink).err().unwrap().to_string();
    assert!(error.contains("'bellwether=loud'") && error.contains("debug"), "{error}");
    let error = "yaml".parse::<LogFormat>().unwrap_err().to_string();
    assert!(error.contains("'yaml'") && error.contains("text, json"), "{error}");
}

#[test]
fn dropped_lines_are_shown_as_they_are_counted_at_each_scrape() {
    let ((), dropped) = Build::made_by(|b| computed(b, || 3));
    for _ in 0..2 {
        let shown = dropped[0].collect()[0].get_metric()[0].get_counter().get_value();
        assert!((shown - 3.0).abs() < f64::EPSILON, "{shown}");
    }
}

#[test]
fn a_line_that_standard_error_does_not_take_is_counted() {
    let (read, write) = rustix::pipe::pipe().unwrap();
    drop(read);
    let before = FAILED.load(Ordering::Relaxed);
    Output(File::from(write)).write_all(b"a line\n").unwrap_err();
    assert_eq!(FAILED.load(Ordering::Relaxed), before + 1);
}

#[test]
fn last_words_that_nobody_hears_hold_up_no_end() {
    let (ended, waits) = mpsc::channel();
    thread::spawn(move || {
        last_words(|| {
            loop {
                thread::park();
            }
        });
        let _ = ended.send(());
    });
    waits.recv_timeout(Duration::from_secs(60)).expect("it ends");
}
