//! The page's buttons, pressed by the page and by foreign clients.

use bellwether::telemetry::Action;
use reqwest::RequestBuilder;
use serde_json::{Value, json};

use super::served::{Mood, Script, Served, client, empty};

fn press(served: &Served, name: &str) -> RequestBuilder {
    client().post(served.url(&format!("/actions/{name}"))).header("X-Bellwether-Action", "1")
}

async fn answer(request: RequestBuilder) -> (u16, Value) {
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), serde_json::from_str(&answer.text().await.unwrap()).unwrap())
}

#[tokio::test]
async fn a_press_on_the_page_is_done_and_told() {
    let served = Served::new(Script::new(empty())).await;
    let origin = format!("http://{}", served.address);
    let own =
        press(&served, "resign").header("Origin", origin).header("Sec-Fetch-Site", "same-origin");
    let done = json!({ "done": "node 1 resigned, term 4711 is over" });
    assert_eq!(answer(own).await, (200, done.clone()));
    let kill = press(&served, "kill").body(r#"{"node":"2"}"#);
    assert_eq!(answer(kill).await, (200, done));
    let expected = vec![(Action::Resign, None), (Action::Kill, Some("2".to_owned()))];
    assert_eq!(*served.script.done.lock().unwrap(), expected);
}

#[tokio::test]
async fn no_foreign_page_can_press_a_button() {
    let served = Served::new(Script::new(empty())).await;
    let bare = client().post(served.url("/actions/resign"));
    let foreign = [
        bare,
        press(&served, "resign").header("Origin", "http://evil.example"),
        press(&served, "resign").header("Sec-Fetch-Site", "cross-site"),
        press(&served, "resign").header("Host", "evil.example"),
    ];
    for request in foreign {
        assert_eq!(answer(request).await.0, 403);
    }
    // The server rejects the preflight request that a browser sends before it lets a foreign page set our
    // header.
    let asked = client().request(reqwest::Method::OPTIONS, served.url("/actions/resign"));
    let asked = asked.header("Origin", "http://evil.example").send().await.unwrap();
    assert!(!asked.status().is_success());
    assert!(!asked.headers().contains_key("access-control-allow-origin"));
    assert_eq!(*served.script.done.lock().unwrap(), vec![]);
}

#[tokio::test]
async fn what_the_node_does_not_offer_cannot_be_asked_for() {
    let mut script = Script::new(empty());
    script.actions.clear();
    let served = Served::new(script).await;
    for name in ["resign", "kill", "rm%20-rf", "../status"] {
        assert_eq!(press(&served, name).send().await.unwrap().status().as_u16() / 100, 4, "{name}");
    }
    assert_eq!(*served.script.done.lock().unwrap(), vec![]);
}

#[tokio::test]
async fn refusals_bad_bodies_and_panics_are_told_apart() {
    let served = Served::new(Script::new(empty())).await;
    let refused = press(&served, "kill").body(r#"{"node":"9"}"#);
    assert_eq!(answer(refused).await, (409, json!({ "error": "there is no node 9" })));
    for bad in ["{", "[]", r#"{"node":9}"#, r#"{"nod":"1"}"#] {
        assert_eq!(answer(press(&served, "kill").body(bad)).await.0, 400, "{bad}");
    }
    let long = press(&served, "kill").body("x".repeat(5000));
    assert_eq!(long.send().await.unwrap().status().as_u16(), 413);
    *served.script.mood.lock().unwrap() = Mood::Panics;
    assert_eq!(answer(press(&served, "resign")).await.0, 500);
}
