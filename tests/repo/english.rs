//! Counts places where comments and documents are hard to read: sentences without a named subject, doc lines
//! without content, and words that this project once used in an unusual sense.

use std::sync::LazyLock;

use regex::Regex;

use super::sources::has_extension;

/// Words that begin a sentence without a named subject.
static FIRST: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"^(?:And |But |So )?(?:Who|Whoever|What|Whatever|Which|That|One|It|Those|Whose|Nobody|Somebody|Theirs|Its|Why|None)\b",
    )
});

/// Words that have a more usual word in their place.
static LEFT_OUT: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"(?i)\b(?:anew|mend(?:s|ed|ing)?|told|tells?|is none|nobody's|somebody's|whoever|whatever|somebody|nobody|for good|passed over|lack(?:s|ed)?|junk|is said|says so)\b",
    )
});

/// Code and quotations are not prose.
static NOT_PROSE: LazyLock<Regex> = LazyLock::new(|| regex("`[^`]*`|\"[^\"]*\""));
static COMMENT: LazyLock<Regex> = LazyLock::new(|| regex(r"^\s*(///|//!|//)(?:\s(.*))?$"));
static ITEM: LazyLock<Regex> = LazyLock::new(|| regex(r"^\s*(?:[-*]+|\d+\.)\s+"));
static END: LazyLock<Regex> = LazyLock::new(|| regex(r"[.!?]\s+"));

/// Smallest number of words of a useful doc line.
const LEAST_WORDS: usize = 4;

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).unwrap()
}

/// Lines of prose that belong together, and the line number of the first one.
struct Block {
    is_doc: bool,
    line: usize,
    lines: Vec<String>,
}

/// Places in a file that break the rule, as `path:line: what`.
pub(crate) fn unclear(path: &str, text: &str) -> Vec<String> {
    let blocks = if has_extension(path, "md") { vec![whole(text)] } else { comments(text) };
    let mut found = Vec::new();
    for block in blocks {
        let paragraphs = paragraphs(&block.lines);
        let mut complain = |at: usize, what: String| {
            found.push(format!("{path}:{}: {what}", block.line + at));
        };
        if let [(at, text)] = paragraphs.as_slice()
            && block.is_doc
            && text.split_whitespace().count() < LEAST_WORDS
        {
            complain(*at, format!("says too little: {text}"));
        }
        for (at, text) in paragraphs {
            let prose = NOT_PROSE.replace_all(&text, "`x`");
            for sentence in sentences(&prose) {
                if FIRST.is_match(sentence) && !sentence.ends_with('?') {
                    complain(at, format!("its subject has no name: {sentence}"));
                }
            }
            for word in LEFT_OUT.find_iter(&prose) {
                complain(at, format!("`{}` has a usual word in its place", word.as_str()));
            }
        }
    }
    found
}

fn whole(text: &str) -> Block {
    Block { is_doc: false, line: 1, lines: text.lines().map(str::to_owned).collect() }
}

/// Comments of Rust code, each kind separately.
fn comments(code: &str) -> Vec<Block> {
    let mut found: Vec<(String, Block)> = Vec::new();
    for (line, text) in (1..).zip(code.lines()) {
        let Some(comment) = COMMENT.captures(text) else { continue };
        let (kind, words) = (&comment[1], comment.get(2).map_or("", |it| it.as_str()));
        match found.last_mut() {
            Some((last, block)) if last == kind && block.line + block.lines.len() == line => {
                block.lines.push(words.to_owned());
            }
            _ => {
                let block = Block { is_doc: kind == "///", line, lines: vec![words.to_owned()] };
                found.push((kind.to_owned(), block));
            }
        }
    }
    found.into_iter().map(|(_, block)| block).collect()
}

/// Paragraphs and items of lists, each with its first line number. Code, tables and headings are left out.
fn paragraphs(lines: &[String]) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let (mut is_code, mut goes_on) = (false, false);
    for (at, line) in lines.iter().enumerate() {
        let text = line.trim();
        let is_fence = text.starts_with("```");
        is_code ^= is_fence;
        if is_code || is_fence || text.is_empty() || text.starts_with(['|', '#']) {
            goes_on = false;
            continue;
        }
        let begins = ITEM.is_match(line);
        let words = ITEM.replace(line, "");
        match found.last_mut().filter(|_| goes_on && !begins) {
            Some((_, paragraph)) => {
                paragraph.push(' ');
                paragraph.push_str(words.trim());
            }
            None => found.push((at, words.trim().to_owned())),
        }
        goes_on = true;
    }
    found
}

fn sentences(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut from = 0;
    for end in END.find_iter(text) {
        if text[end.end()..].starts_with(|it: char| it.is_uppercase() || "`[\"*(".contains(it)) {
            found.push(&text[from..end.end()]);
            from = end.end();
        }
    }
    found.push(&text[from..]);
    found.into_iter().map(|it| it.trim().trim_matches(['*', '_', '('])).collect()
}

#[test]
fn hidden_subjects_short_docs_and_coined_words_are_found() {
    let code = "\
/// Theirs.
fn a() {}
/// Lease that the candidate key names. It lives.
// Nobody's. Why does `whatever` count?
/// - anew, in a list
/// ```
/// // Whoever: this is code
/// ```
";
    let found = unclear("a.rs", code);
    let places: Vec<_> =
        found.iter().map(|it| it.split(": ").take(2).collect::<Vec<_>>()).collect();
    assert_eq!(
        places,
        [
            ["a.rs:1", "says too little"],
            ["a.rs:1", "its subject has no name"],
            ["a.rs:3", "its subject has no name"],
            ["a.rs:4", "its subject has no name"],
            ["a.rs:4", "`Nobody's` has a usual word in its place"],
            ["a.rs:5", "`anew` has a usual word in its place"],
        ],
        "{found:#?}"
    );
    assert_eq!(unclear("a.md", "The driver retries.\n\n| Which | table |\n"), [""; 0]);
}
