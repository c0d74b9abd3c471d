use super::*;

fn panel(title: &'static str) -> Panel {
    Panel::new(Kind::Lines, title, Unit::Seconds, "What it shows.")
        .query("{{instance}}", Series::of("a_seconds").now())
}

fn places(dashboard: &Value) -> Vec<(String, u64, u64)> {
    let number = |panel: &Value, axis: &str| panel["gridPos"][axis].as_u64().unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    panels
        .iter()
        .map(|it| (it["title"].as_str().unwrap().to_owned(), number(it, "x"), number(it, "y")))
        .collect()
}

#[test]
fn panels_are_laid_out_from_left_to_right_and_rows_below_each_other() {
    let dashboard = Dashboard::new("uid", "Title", "What for.", "info")
        .row(Row::open("First", vec![panel("a"), panel("b"), panel("c")]))
        .row(Row::open("Second", vec![panel("d")]));
    let at = |title: &str, x, y| (title.to_owned(), x, y);
    assert_eq!(
        places(&dashboard.to_json()),
        [
            at("First", 0, 0),
            at("a", 0, 1),
            at("b", 12, 1),
            at("c", 0, 9),
            at("Second", 0, 17),
            at("d", 0, 18)
        ]
    );
}

#[test]
fn a_collapsed_row_holds_its_panels_and_every_id_is_one_panels() {
    let dashboard = Dashboard::new("uid", "Title", "What for.", "info")
        .row(Row::collapsed("Folded", vec![panel("a")]))
        .row(Row::open("Open", vec![panel("b")]))
        .to_json();
    let panels = dashboard["panels"].as_array().unwrap();
    assert_eq!(panels[0]["panels"][0]["title"], "a");
    let ids: Vec<u64> = panels
        .iter()
        .flat_map(|it| std::iter::once(it).chain(it["panels"].as_array().into_iter().flatten()))
        .map(|it| it["id"].as_u64().unwrap())
        .collect();
    assert_eq!(ids, [1, 2, 3, 4]);
}

#[test]
fn every_series_is_narrowed_to_what_the_reader_chose() {
    let series = Series::of("calls_total").without("result", "done");
    assert_eq!(
        series.rate().sum_by(&["kind"]).as_str(),
        "sum by (kind) (rate(calls_total{cluster=~\"$cluster\", namespace=~\"$namespace\", \
         job=~\"$job\", instance=~\"$instance\", result!=\"done\"}[$__rate_interval]))"
    );
}

#[test]
fn a_variable_offers_what_the_outer_ones_leave() {
    let dashboard = Dashboard::new("uid", "Title", "What for.", "info").to_json();
    let list = dashboard["templating"]["list"].as_array().unwrap();
    let job = list.iter().find(|it| it["name"] == "job").unwrap();
    assert_eq!(
        job["definition"],
        "label_values(info{cluster=~\"$cluster\", namespace=~\"$namespace\"}, job)"
    );
}
