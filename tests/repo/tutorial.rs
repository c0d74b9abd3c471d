//! Each block of code in the tutorial is a part of the project that it is about.

use std::{fs, path::Path};

const TUTORIAL: &str = "docs/tutorial/README.md";
const PROJECT: &str = "examples/website";

/// Lines of a text without indentation: a part of a function is quoted with less of it.
fn lines(text: &str) -> Vec<&str> {
    text.lines().map(str::trim).collect()
}

/// File and code of each block of Rust.
fn blocks(tutorial: &str) -> Vec<(&str, &str)> {
    let parts = tutorial.split("```").skip(1).step_by(2);
    let rust = parts.filter_map(|part| part.strip_prefix("rust\n// "));
    rust.filter_map(|part| part.split_once('\n')).collect()
}

fn is_part(code: &str, source: &str) -> bool {
    let (code, source) = (lines(code.trim_end()), lines(source));
    source.windows(code.len()).any(|part| part == code)
}

#[test]
fn the_code_of_the_tutorial_is_that_of_the_example() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tutorial = fs::read_to_string(root.join(TUTORIAL)).unwrap();
    let blocks = blocks(&tutorial);
    assert!(10 < blocks.len(), "the blocks were not found: {}", blocks.len());
    assert_eq!(blocks.len(), tutorial.matches("```rust").count(), "a block names no file");
    for (file, code) in blocks {
        let source = fs::read_to_string(root.join(PROJECT).join(file)).unwrap();
        assert!(is_part(code, &source), "{TUTORIAL}: {PROJECT}/{file} has no such lines:\n{code}");
    }
}

#[test]
fn a_line_that_differs_is_found() {
    assert!(is_part("b\n  c\n", "a\nb\nc\nd"));
    assert!(!is_part("b\nd\n", "a\nb\nc\nd"));
}

#[test]
fn the_tutorial_has_ten_steps() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tutorial = fs::read_to_string(root.join(TUTORIAL)).unwrap();
    for step in 1..=10 {
        assert!(tutorial.contains(&format!("\n## {step}. ")), "step {step}");
    }
}
