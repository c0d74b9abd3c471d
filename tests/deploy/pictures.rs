//! Pictures of the dashboards for the docs, drawn from the answers of a real Prometheus:
//! `BELLWETHER_PICTURES=docs/images cargo test --test deploy every_query`.

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};

use crate::{files::root, lint};

const PAGE: &str = include_str!("pictures/draw.html");
/// Width of a picture, and height of a line of a dashboard, in pixels.
const WIDTH: i64 = 1464;
const LINE: i64 = 38;

/// Draws one dashboard into the folder. `answers` are those of each panel and query, `span` is the time shown, in Unix
/// seconds.
pub(crate) fn draw(folder: &str, name: &str, model: &Value, answers: &Value, span: (f64, f64)) {
    let scratch = tempfile::tempdir().unwrap();
    let data = json!({"model": model, "answers": answers, "span": [span.0, span.1]});
    let page = scratch.path().join("page.html");
    fs::write(&page, format!("{PAGE}<script>const DATA = {data};\ndraw();</script>\n")).unwrap();
    let lines = lint::panels(model)
        .into_iter()
        .map(|it| it["gridPos"]["y"].as_i64().unwrap() + it["gridPos"]["h"].as_i64().unwrap());
    let height = lines.max().unwrap() * LINE;
    let picture = root().join(folder).join(format!("dashboard-{name}.png"));
    screenshot(&page, &picture, (WIDTH, height));
}

fn screenshot(page: &Path, picture: &Path, (width, height): (i64, i64)) {
    let said = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"])
        .arg(format!("--window-size={width},{height}"))
        .arg(format!("--screenshot={}", picture.display()))
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    assert!(said.status.success() && picture.exists(), "{}", String::from_utf8_lossy(&said.stderr));
}
