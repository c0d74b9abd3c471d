//! The page in a real browser.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::{
    browser::{self, Look},
    scene,
    served::{Script, Served, eventually},
};

/// Document without the contents of its scripts and styles: only the visible parts.
fn shown(dom: &str) -> String {
    let mut rest = dom;
    let mut kept = String::new();
    while let Some((before, after)) = rest.split_once("<script") {
        kept.push_str(before);
        rest = after.split_once("</script>").expect("a script ends").1;
    }
    kept.push_str(rest);
    let (head, tail) = kept.split_once("<style").expect("the page has a style");
    format!("{head}{}", tail.split_once("</style>").expect("a style ends").1)
}

/// Part of the document inside the element of that id.
fn part<'a>(dom: &'a str, id: &str) -> &'a str {
    let mark = format!("id=\"{id}\"");
    let from = dom.find(&mark).unwrap_or_else(|| panic!("no element has the id {id}"));
    let rest = &dom[from..];
    &rest[..rest.find("</section>").unwrap_or(rest.len())]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_leader_term_nodes_shards_and_checks() {
    let served = Served::new(Script::new(scene::demo())).await;
    let dom = shown(&browser::dom(&served.url("/")).await);

    assert!(dom.contains("<title>node 1 leads · demo · bellwether</title>"), "{dom}");
    assert!(part(&dom, "leader-who").starts_with("id=\"leader-who\">Node 1 leads<"));
    assert!(part(&dom, "leader-facts").contains("term 4711"));
    let spans = part(&dom, "spans");
    assert!(spans.contains("Authority") && spans.contains("Lease"), "{spans}");
    let reigns = part(&dom, "reign-rows");
    assert!(reigns.contains("fell silent") && reigns.contains("in office"), "{reigns}");
    let nodes = part(&dom, "node-rows");
    for node in ["127.0.0.1:9000", "127.0.0.1:9001", "127.0.0.1:9002", "★ leader"] {
        assert!(nodes.contains(node), "{node}");
    }
    assert_eq!(dom.matches("class=\"cell ").count(), 256);
    assert_eq!(dom.matches("class=\"cell none").count(), 1, "the shard without a holder");
    assert_eq!(part(&dom, "check-rows").matches("<tr").count(), 12);
    assert!(part(&dom, "check-rows").contains("no answer within 5 s"));
    assert!(part(&dom, "change-rows").contains("connection refused"));
    assert!(part(&dom, "problems").contains("checks/partners.yaml:31 spec.interval"));
    served.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_without_office_store_and_lease_says_so() {
    let served = Served::new(Script::new(scene::outage())).await;
    let dom = shown(&browser::dom(&served.url("/")).await);
    assert!(part(&dom, "leader-who").contains("Nobody leads"));
    let alarm = part(&dom, "alarm");
    assert!(!alarm.starts_with("id=\"alarm\" role=\"alert\" hidden"), "{alarm}");
    assert!(alarm.contains("node 2 has not joined the cluster: the lease ran out"), "{alarm}");
    assert!(alarm.contains("did not answer keepalive within 400ms"), "{alarm}");
    served.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_leader_is_shown_as_such() {
    let mut picture = scene::demo();
    picture["leader"]["suspended"] = serde_json::json!(true);
    let served = Served::new(Script::new(picture)).await;
    let dom = shown(&browser::dom(&served.url("/")).await);
    assert!(part(&dom, "leader-who").contains("Node 1 is suspended"));
    assert!(part(&dom, "leader-facts").contains("in office, and does not act"));
    served.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn markup_in_data_is_shown_as_text_and_never_runs() {
    let served = Served::new(Script::new(scene::hostile())).await;
    let dom = browser::dom(&served.url("/")).await;
    let shown = shown(&dom);
    assert!(!shown.contains("<img"), "an element was made of data");
    assert!(!shown.contains("<title>owned"), "a script of the data ran");
    // A title, an address, a cluster's name, a check, a message: the page shows each as text.
    assert!(shown.matches("&lt;/script&gt;&lt;img src=x onerror=").count() >= 10, "{shown}");
    assert!(part(&shown, "check-rows").matches("<tr").count() == 12);
    served.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn junk_in_the_picture_costs_its_own_part_only() {
    let served = Served::new(Script::new(scene::junk())).await;
    let dom = shown(&browser::dom(&served.url("/")).await);
    assert!(part(&dom, "store").contains("does not answer"), "the last part is drawn");
    assert_eq!(part(&dom, "check-rows").matches("<tr").count(), 2);
    served.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_page_listens_to_the_event_stream() {
    let served = Served::new(Script::new(scene::demo())).await;
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("status-open.png");
    browser::screenshot(&served.url("/"), &browser::DESKTOP, &file).await;
    let asked = || async {
        served
            .registry
            .gather()
            .iter()
            .filter(|f| f.name() == "bellwether_http_requests_total")
            .flat_map(prometheus::proto::MetricFamily::get_metric)
            .filter(|m| m.get_label().iter().any(|l| l.value() == "/events"))
            .map(|m| m.get_counter().get_value())
            .sum::<f64>()
    };
    eventually(asked, |count| *count >= 1.0).await;
    assert_eq!(size_of_png(&file), (browser::DESKTOP.width, browser::DESKTOP.height));
    assert!(std::fs::metadata(&file).unwrap().len() > 50_000, "something is drawn");
    served.stopped().await;
}

/// Screenshots of every scene in light, in dark and on a phone, for people to look at. The files stay in the
/// folder that `BELLWETHER_SCREENSHOTS` names, or in one in the target folder.
#[tokio::test(flavor = "multi_thread")]
async fn every_picture_is_drawn_in_each_look() {
    let folder = std::env::var_os("BELLWETHER_SCREENSHOTS")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("pictures"), PathBuf::from);
    std::fs::create_dir_all(&folder).unwrap();
    let pictures = [
        ("demo", scene::demo()),
        ("follower", scene::follower()),
        ("outage", scene::outage()),
        ("large", scene::large()),
        ("hostile", scene::hostile()),
        ("junk", scene::junk()),
    ];
    let looks = [
        ("light", Look { width: 1280, height: 2900, dark: false }),
        ("dark", Look { width: 1280, height: 2900, dark: true }),
        ("phone", Look { width: 360, height: 3600, dark: false }),
    ];
    let mut drawn = BTreeSet::new();
    for (name, picture) in pictures {
        let served = Served::new(Script::new(picture)).await;
        for (how, look) in &looks {
            let file = folder.join(format!("{name}-{how}.png"));
            // A file from an earlier run must not count.
            let _ = std::fs::remove_file(&file);
            browser::screenshot(&served.url("/"), look, &file).await;
            assert_eq!(size_of_png(&file), (look.width, look.height), "{name}, {how}");
            let bytes = std::fs::read(&file).unwrap();
            assert!(bytes.len() > 30_000, "{name}, {how}: hardly anything is drawn");
            assert!(drawn.insert(bytes), "{name}, {how}: it looks like another one");
        }
        served.stopped().await;
    }
}

/// Width and height, from a PNG's first chunk.
fn size_of_png(file: &Path) -> (u32, u32) {
    let bytes = std::fs::read(file).unwrap();
    let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    (number(16), number(20))
}
