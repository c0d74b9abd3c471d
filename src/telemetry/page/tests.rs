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

/// The colours of one scheme, by name, as red, green and blue from 0 to 1.
fn colours(block: &str) -> std::collections::BTreeMap<&str, [f64; 3]> {
    let pairs = block.split(';').filter_map(|line| line.split_once("--")?.1.split_once(": #"));
    let channel = |hex: &str| u8::from_str_radix(hex, 16).map(|value| f64::from(value) / 255.0);
    let pairs = pairs.filter_map(|(name, hex)| {
        let hex = if hex.len() == 3 {
            hex.chars().flat_map(|c| [c, c]).collect()
        } else {
            hex.to_owned()
        };
        let [r, g, b] = [0, 2, 4].map(|at| channel(hex.get(at..at + 2)?).ok());
        Some((name, [r?, g?, b?]))
    });
    pairs.collect()
}

/// The contrast of two colours as WCAG 2 defines it.
fn contrast(a: [f64; 3], b: [f64; 3]) -> f64 {
    let linear = |c: f64| if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) };
    let luminance =
        |[r, g, b]: [f64; 3]| 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    let (a, b) = (luminance(a), luminance(b));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

#[test]
fn text_and_marks_can_be_told_from_their_ground_by_day_and_by_night() {
    let blocks: Vec<&str> =
        CSS.split(":root {").skip(1).map(|rest| rest.split('}').next().unwrap()).collect();
    let (day, night) = (colours(blocks[0]), colours(blocks[1]));
    assert!((contrast([0.0; 3], [1.0; 3]) - 21.0).abs() < 1e-9, "black on white");
    for (scheme, colours) in [("day", day), ("night", night)] {
        let text = ["ink", "quiet", "brass", "up", "down", "warn"];
        for name in text {
            let ratio = contrast(colours[name], colours["paper"]);
            assert!(ratio >= 4.5, "{scheme}: {name} on paper has {ratio:.2}");
        }
        for (name, ground) in [("ink", "raised"), ("ink", "down-wash"), ("ink", "warn-wash")] {
            let ratio = contrast(colours[name], colours[ground]);
            assert!(ratio >= 4.5, "{scheme}: {name} on {ground} has {ratio:.2}");
        }
        for node in ["n0", "n1", "n2", "n3", "n4", "n5", "n6", "n7"] {
            let on = contrast(colours["on-node"], colours[node]);
            assert!(on >= 4.5, "{scheme}: a number on {node} has {on:.2}");
            let ground = contrast(colours[node], colours["paper"]);
            assert!(ground >= 3.0, "{scheme}: {node} on paper has {ground:.2}");
        }
    }
}
