//! Pictures of the dashboards for the docs, drawn from the answers of a real Prometheus:
//! `BELLWETHER_PICTURES=docs/images cargo test --test deploy every_query`.

use std::fs;

use serde_json::{Value, json};

use crate::{
    browser::{self, Look},
    files::root,
    lint,
};

const PAGE: &str = include_str!("pictures/draw.html");
/// Width of a picture, and height of a line of a dashboard, in pixels.
const WIDTH: u32 = 1464;
const LINE: u64 = 38;

/// Draws one dashboard into the folder. `answers` are those of each panel and query, `span` is the time shown, in Unix
/// seconds.
pub(crate) async fn draw(
    folder: &str,
    name: &str,
    model: &Value,
    answers: &Value,
    span: (f64, f64),
) {
    let scratch = tempfile::tempdir().unwrap();
    let data = json!({"model": model, "answers": answers, "span": [span.0, span.1]});
    let page = scratch.path().join("page.html");
    fs::write(&page, format!("{PAGE}<script>const DATA = {data};\ndraw();</script>\n")).unwrap();
    let lines = lint::panels(model)
        .into_iter()
        .map(|it| it["gridPos"]["y"].as_u64().unwrap() + it["gridPos"]["h"].as_u64().unwrap());
    let height = u32::try_from(lines.max().unwrap() * LINE).unwrap();
    let look = Look { width: WIDTH, height, dark: true };
    let picture = root().join(folder).join(format!("dashboard-{name}.png"));
    browser::screenshot(&format!("file://{}", page.display()), &look, &picture).await;
    assert!(picture.exists(), "{}", picture.display());
}
