use proptest::prelude::*;
use regex::Regex;
use tokio::time::timeout;

use super::*;

/// Runs a walk from its first to its last step, without waiting for turns.
fn walk(pattern: &str, text: &str) -> Result<bool, String> {
    let mut walk = Box::new(Walk::new(pattern, text.to_owned())?);
    loop {
        // Each slice ends as soon as it begins, so all state is carried from slice to slice.
        match walk.go_on(BootTime::default()) {
            Step::Ended(matched) => return matched,
            Step::GoesOn(Search::Walk(rest)) => walk = rest,
            Step::GoesOn(Search::New { .. }) => panic!("a walk does not begin anew"),
        }
    }
}

#[test]
fn a_walk_in_slices_finds_what_the_regex_crate_finds() {
    let long = format!("{}\"status\":  \"ok\"{}", "ü".repeat(5000), "y".repeat(5000));
    let texts = ["", "a", "all is well", "Grüße, Jürgen", "line\nok\n", &long, "x\u{1F600}y"];
    let patterns = [
        "",
        "a",
        "^$",
        "^all",
        "well$",
        "(?i)WELL",
        r"\bis\b",
        r"\bJürgen\b",
        r"(?-u:\b)is",
        "(?m)^ok$",
        r"\w{3,}",
        r"ü{5000}",
        r#""status":\s*"ok""#,
        r"y{4999}$",
        r"[^\x00-\x7F]",
        "(?s)x.y",
        r"\z",
        "z|$",
    ];
    for pattern in patterns {
        let regex = Regex::new(pattern).unwrap();
        for text in texts {
            let shown: String = text.chars().take(20).collect();
            assert_eq!(walk(pattern, text), Ok(regex.is_match(text)), "{pattern} in {shown}");
        }
    }
}

proptest! {
    #[test]
    fn a_walk_judges_as_the_regex_crate_over_random_expressions(
        pattern in r"(\^|\\b|\\B)?([abü]|\[ab\]|\\w|\.|a\{2,3\}|\(a\|b\)\+|b\*){1,4}(\$|\\b)?",
        text in "[abü \n]{0,40}",
    ) {
        let regex = Regex::new(&pattern).unwrap();
        prop_assert_eq!(walk(&pattern, &text), Ok(regex.is_match(&text)));
    }
}

/// Expression that takes minutes on a page of 1 MiB.
const COSTLY: &str = "(?-u:[aeiou][a-z ]{9000}[0-9])";

fn page() -> String {
    let mut seed = 1_u64;
    let mut letter = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b"abcdefghijklmnopqrstuvwxyz "[(seed >> 33) as usize % 27])
    };
    (0..1 << 20).map(|_| letter()).collect()
}

#[tokio::test]
async fn costly_matches_hold_up_neither_the_runtime_nor_cheap_ones_and_say_what_they_are() {
    let page = page();
    let ends_by = || clock::boot_now() + Duration::from_secs(3);
    let costly = (0..4).map(|_| is_match(COSTLY, page.clone(), ends_by()));
    let costly = futures::future::join_all(costly);
    let cheap = async {
        let mut well = 0;
        // The runtime has one thread here: a match that blocked it would block this loop, too.
        while well < 10 {
            let by = clock::boot_now() + Duration::from_secs(60);
            assert!(is_match("is w.ll$", "all is well".into(), by).await.unwrap());
            well += 1;
        }
        clock::boot_now()
    };
    let began = ends_by();
    let (costly, cheap) = tokio::join!(costly, cheap);
    assert!(cheap < began, "cheap ones waited for the costly ones to end");
    for matched in costly {
        let failure = matched.unwrap_err();
        assert!(failure.text.contains("within the timeout"), "{failure:?}");
    }
}

#[tokio::test]
async fn a_match_that_is_dropped_ends() {
    let by = clock::boot_now() + Duration::from_secs(3600);
    let page = page();
    for _ in 0..=MOST_MATCHES {
        let cut = timeout(Duration::from_millis(1), is_match(COSTLY, page.clone(), by)).await;
        assert!(cut.is_err());
    }
    assert!(is_match("a", "a".into(), by).await.unwrap());
}

#[test]
fn a_walk_that_needs_more_than_a_byte_to_look_at_is_made_at_once_or_refused_with_the_remedy() {
    let large = format!("{} ü", "word ".repeat(200_000));
    assert_eq!(walk(r"\bü\b", &large), Ok(true));
    let refused = walk(r"\bx\w{15}\b", &large).unwrap_err();
    assert!(refused.contains(r"(?-u:\b)"), "{refused}");
    assert_eq!(walk(r"(?-u:\b)x\w{15}", &large), Ok(false));
}

#[test]
fn what_cannot_be_used_says_why_without_the_expression() {
    let why = |pattern: &str| compiled(pattern).unwrap_err().to_string();
    assert_eq!(why("secret("), "unclosed group");
    assert!(why(r"\w{90}").contains("too large"), "{}", why(r"\w{90}"));
}

#[test]
fn what_is_kept_is_bounded_over_all_expressions_and_compiled_once() {
    let mut kept = Kept::new();
    let most = 200_000;
    let usable = |n: usize| Expression::new(&format!("{n}[a-z]{{100}}")).map(Arc::new);
    for n in 0..200 {
        kept.put(&n.to_string(), &usable(n), most);
        assert!(kept.get("0").is_some(), "it is asked for all the time");
        assert!(kept.bytes <= most, "{}", kept.bytes);
    }
    let sum: usize = kept.by_pattern.iter().map(|(pattern, (it, _))| bytes_of(pattern, it)).sum();
    assert_eq!(kept.bytes, sum);
    assert!(kept.by_pattern.len() > 2 && kept.get("1").is_none(), "{}", kept.by_pattern.len());
    let (one, other) = (compiled("once"), compiled("once"));
    assert!(Arc::ptr_eq(&one.unwrap(), &other.unwrap()));
}
