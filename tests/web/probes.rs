//! `/livez`, `/readyz`, `/leader`: what a kubelet and a load balancer rely on.

use std::time::Duration;

use bellwether::telemetry::{Leadership, Probe, ServerConfig};
use serde_json::{Value, json};

use super::served::{Mood, Script, Served, client, empty};

async fn get(served: &Served, path: &str) -> (u16, String) {
    let answer = client().get(served.url(path)).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test]
async fn probes_pass_and_fail_as_the_node_says_and_tell_why() {
    let served = Served::new(Script::new(empty())).await;
    assert_eq!(
        get(&served, "/livez").await,
        (200, "ok: the driver stepped 12 ms ago\n".to_owned())
    );
    assert_eq!(get(&served, "/readyz").await, (200, "ok: joined and synced\n".to_owned()));

    *served.script.liveness.lock().unwrap() =
        Probe::Fail("the driver last stepped 31 s ago".to_owned());
    *served.script.readiness.lock().unwrap() = Probe::Fail("the election is stuck".to_owned());
    let stuck = (503, "not ok: the driver last stepped 31 s ago\n".to_owned());
    assert_eq!(get(&served, "/livez").await, stuck);
    assert_eq!(get(&served, "/readyz").await, (503, "not ok: the election is stuck\n".to_owned()));
}

#[tokio::test]
async fn only_the_leader_answers_200_and_everybody_else_names_it() {
    let served = Served::new(Script::new(empty())).await;
    let (code, body) = get(&served, "/leader").await;
    let leader = json!({ "id": "1", "address": "127.0.0.1:9001", "term": "4711" });
    let expected = json!({ "here": false, "leader": leader });
    assert_eq!((code, serde_json::from_str::<Value>(&body).unwrap()), (503, expected));

    served.script.leadership.lock().unwrap().here = true;
    assert_eq!(get(&served, "/leader").await.0, 200);

    *served.script.leadership.lock().unwrap() = Leadership::default();
    let (code, body) = get(&served, "/leader").await;
    let expected = json!({ "here": false, "leader": null });
    assert_eq!((code, serde_json::from_str::<Value>(&body).unwrap()), (503, expected));
}

#[tokio::test]
async fn a_node_that_hangs_fails_its_probes_and_the_server_goes_on() {
    let config =
        ServerConfig { answer_timeout: Duration::from_millis(50), ..ServerConfig::default() };
    let served = Served::with(Script::new(empty()), config).await;
    *served.script.mood.lock().unwrap() = Mood::Hangs;
    for path in ["/livez", "/readyz", "/leader", "/status"] {
        let (code, body) = get(&served, path).await;
        assert_eq!(code, 503, "{path}");
        assert!(body.contains("did not answer within 50ms"), "{path}: {body}");
    }
    let (code, page) = get(&served, "/").await;
    assert_eq!(code, 200, "the page is most wanted when things are bad");
    assert!(page.contains(r#"id="picture">null</script>"#));
    assert_eq!(get(&served, "/metrics").await.0, 200);
}

#[tokio::test]
async fn a_node_that_panics_fails_its_probes_and_the_server_goes_on() {
    let served = Served::new(Script::new(empty())).await;
    *served.script.mood.lock().unwrap() = Mood::Panics;
    assert_eq!(get(&served, "/livez").await.0, 503);
    assert_eq!(get(&served, "/status").await.0, 500);
    *served.script.mood.lock().unwrap() = Mood::Well;
    assert_eq!(get(&served, "/livez").await.0, 200);
}
