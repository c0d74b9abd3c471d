//! `/metrics` as Prometheus reads it.

use std::process::{Command, Stdio};

use super::{
    served::{Script, Served, client, empty},
    tools,
};

async fn scrape(served: &Served) -> String {
    client().get(served.url("/metrics")).send().await.unwrap().text().await.unwrap()
}

#[tokio::test]
async fn metrics_tell_the_build_the_process_and_the_server_itself() {
    let served = Served::new(Script::new(empty())).await;
    client().get(served.url("/livez")).send().await.unwrap();
    client().get(served.url("/no/such/path")).send().await.unwrap();
    let text = scrape(&served).await;
    for line in [
        &format!(
            "bellwether_build_info{{commit=\"unknown\",version=\"{}\"}} 1",
            env!("CARGO_PKG_VERSION")
        ),
        "# TYPE process_cpu_seconds_total counter",
        "process_resident_memory_bytes ",
        "bellwether_http_requests_total{code=\"200\",path=\"/livez\"} 1",
        "bellwether_http_requests_total{code=\"404\",path=\"other\"} 1",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
    assert!(!text.contains("no/such"), "what a client makes up is no label");
}

#[tokio::test]
async fn promtool_has_nothing_to_say_about_a_live_scrape() {
    let served = Served::new(Script::new(empty())).await;
    for path in ["/", "/status", "/livez", "/nowhere"] {
        client().get(served.url(path)).send().await.unwrap();
    }
    let said = promtool_check(&scrape(&served).await);
    assert_eq!(said, (true, String::new()));
    let (fine, said) = promtool_check("# TYPE bad_total gauge\nbad_total 1\n");
    assert!(!fine && said.contains("bad_total"), "promtool does look: {said}");
}

/// Whether promtool is content, and what it says.
fn promtool_check(text: &str) -> (bool, String) {
    use std::io::Write as _;
    let mut child = Command::new(tools::program("prometheus", "promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool runs");
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    let said = [out.stdout, out.stderr].concat();
    (out.status.success(), String::from_utf8(said).unwrap())
}
