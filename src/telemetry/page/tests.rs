use serde_json::json;

use super::*;

#[test]
fn embedded_json_holds_no_markup_and_reads_back_the_same() {
    let nasty = json!({ "id": "</script><script>alert(1)</script>", "x": "<!-- & \u{2028}" });
    let text = embedded(&nasty);
    assert!(!text.contains(['<', '>', '&']), "{text}");
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), nasty);
}

#[test]
fn marks_inside_data_are_left_alone() {
    let page = html(&json!({ "id": "{{js}} {{nonce}} {{css}}" }), "abc");
    assert!(page.contains(r#""{{js}} {{nonce}} {{css}}""#));
    assert_eq!(page.matches("nonce=\"abc\"").count(), 2, "one style, one script");
}

#[test]
fn the_page_loads_nothing_from_elsewhere() {
    for file in [HTML, CSS, JS] {
        for outside in ["http://", "https://", "//cdn", "@import", "url("] {
            let allowed = file.replace("http://www.w3.org/", "");
            assert!(!allowed.contains(outside), "{outside}");
        }
    }
}

#[test]
fn the_script_never_makes_markup_from_data() {
    for sink in
        ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"]
    {
        assert!(!JS.contains(sink), "{sink}");
    }
}
