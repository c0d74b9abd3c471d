use std::{fmt::Write as _, fs};

use tempfile::TempDir;

use super::*;

fn manifest(name: &str) -> String {
    format!(
        "apiVersion: bellwether.dev/v1alpha1\nkind: UptimeCheck\nmetadata:\n  name: {name}\n\
         spec:\n  target:\n    tcp:\n      host: localhost\n      port: 80\n"
    )
}

struct Dir {
    dir: TempDir,
    memory: Memory,
}

impl Dir {
    fn of(files: &[(&str, &str)]) -> Self {
        let dir = Self { dir: TempDir::new().unwrap(), memory: Memory::default() };
        for (name, text) in files {
            dir.write(name, text);
        }
        dir
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(name), text).unwrap();
    }

    fn read(&mut self) -> Checks {
        read_folder(self.dir.path(), &mut self.memory).unwrap()
    }
}

fn names(checks: &Checks) -> Vec<&str> {
    checks.checks.keys().map(|key| &*key.name).collect()
}

fn problems(checks: &Checks) -> Vec<String> {
    checks.problems.iter().map(ToString::to_string).collect()
}

/// All problems that are reported for one document.
fn said(text: &str) -> String {
    let checks = Dir::of(&[("a.yaml", text)]).read();
    assert_eq!(names(&checks), [""; 0], "{checks:?}");
    problems(&checks).join("\n")
}

#[test]
fn all_documents_of_all_yaml_files_are_read() {
    let both = format!("# first\n{}---\n{}...\n", manifest("a"), manifest("b"));
    let mut dir = Dir::of(&[
        ("one.yaml", &both),
        ("two.yml", &format!("---\n---\n# nothing\n---\n{}", manifest("c"))),
        ("empty.yaml", ""),
        ("comment.yaml", "# nothing\n"),
        ("notes.txt", "not: [yaml"),
        (".hidden.yaml", "not: [yaml"),
    ]);
    let checks = dir.read();
    assert_eq!(problems(&checks), [""; 0]);
    assert_eq!(names(&checks), ["a", "b", "c"]);
}

#[test]
fn other_kinds_are_passed_over_with_a_note() {
    let text = format!("kind: Service\nmetadata: [anything]\n---\n{}", manifest("a"));
    let only = "apiVersion: v1\nkind: Pod\n";
    let checks = Dir::of(&[("a.yaml", &text), ("b.yaml", only), ("c.yaml", "# nothing\n")]).read();
    assert_eq!(
        (checks.passed_over, checks.without_checks.as_slice()),
        (2, &["b.yaml".to_owned(), "c.yaml".to_owned()][..])
    );
    assert_eq!(problems(&checks), [""; 0]);
    assert_eq!(
        checks.skipped,
        [
            Skipped { file: "a.yaml".into(), line: 1, kind: "Service".into() },
            Skipped { file: "b.yaml".into(), line: 1, kind: "Pod".into() }
        ]
    );
    assert_eq!(names(&checks), ["a"]);
}

#[test]
fn a_malformed_document_is_named_with_file_line_and_field_and_the_rest_go_on() {
    let bad = manifest("bad").replace("port: 80", "port: eighty");
    let text = format!("{}---\n{bad}---\n{}", manifest("a"), manifest("b"));
    let checks = Dir::of(&[("checks.yaml", &text)]).read();
    assert_eq!(names(&checks), ["a", "b"]);
    let [problem] = checks.problems.as_slice() else { panic!("{checks:?}") };
    assert_eq!((problem.file.as_str(), problem.line), ("checks.yaml", Some(9 + 1 + 9)));
    assert_eq!(problem.field.as_deref(), Some("spec.target.tcp.port"));
    assert!(!problem.message.contains("line"), "{problem}");
}

#[test]
fn broken_yaml_does_not_take_the_documents_after_it_along() {
    let text = format!("kind: [\n---\n{}---\n a: b\nc: d\n---\n{}", manifest("a"), manifest("b"));
    let checks = Dir::of(&[("checks.yaml", &text)]).read();
    assert_eq!(names(&checks), ["a", "b"]);
    assert_eq!(checks.problems.len(), 2, "{checks:?}");
}

#[test]
fn a_wrong_value_is_found_by_its_line() {
    let text = manifest("a") + "  interval: 10ms\n  expect:\n    # too much\n    status: [200]\n";
    let said = said(&text);
    assert!(said.contains("a.yaml:10: spec.interval: `10ms` is outside"), "{said}");
    assert!(
        said.contains("a.yaml:13: spec.expect.status: means nothing for a tcp target"),
        "{said}"
    );
}

#[test]
fn a_wrong_value_that_is_not_written_is_found_by_what_would_hold_it() {
    let text = manifest("a").replace(
        "tcp:\n      host: localhost\n      port: 80",
        "http: {url: 'http://x/', caBundle: ''}",
    );
    let said = said(&text);
    assert!(said.contains("a.yaml:7: spec.target.http.caBundle: holds no certificate"), "{said}");
}

#[test]
fn a_missing_an_unknown_and_a_mistyped_field_are_each_named() {
    let missing = said(&manifest("a").replace("      host: localhost\n", ""));
    assert!(missing.contains("spec.target.tcp.host: is missing"), "{missing}");
    let unknown = said(&manifest("a").replace("host:", "hots:"));
    assert!(
        unknown.contains("a.yaml:8: spec.target.tcp.hots: is not known: there are `host`, `port`"),
        "{unknown}"
    );
    let variant = said(&manifest("a").replace("tcp:", "udp:"));
    assert!(
        variant.contains("a.yaml:7: spec.target.udp: is not known") && variant.contains("`tcp`"),
        "{variant}"
    );
    let span = said(&(manifest("a") + "  interval: 30\n"));
    assert!(span.contains("a.yaml:10: spec.interval:") && span.contains("like `30s`"), "{span}");
    let nothing = said("metadata: {name: a}\n");
    assert!(nothing.contains("a.yaml:1: kind: is missing"), "{nothing}");
    let list = said("\n- a\n- b\n");
    assert!(list.contains("a.yaml:2"), "{list}");
}

#[test]
fn lists_are_taken_apart_as_kubectl_prints_them() {
    let item = |name: &str, header: &str| {
        format!(
            "- {header}\n  metadata: {{name: {name}}}\n  spec: {{target: {{tcp: {{host: a, port: 1}}}}}}\n"
        )
    };
    let ours = "apiVersion: bellwether.dev/v1alpha1\n  kind: UptimeCheck";
    let text = format!(
        "apiVersion: v1\nkind: List\nmetadata: {{resourceVersion: ''}}\nitems:\n{}{}- apiVersion: v1\n  kind: \
         Pod\n---\napiVersion: bellwether.dev/v1alpha1\nkind: UptimeCheckList\nitems:\n{}{}",
        item("one", ours),
        item("two", ours),
        item("three", ours),
        item("four", "{}").replace("- {}\n  ", "- "),
    );
    let mut dir = Dir::of(&[("a.yaml", &text)]);
    let checks = dir.read();
    assert_eq!(problems(&checks), [""; 0]);
    assert_eq!(names(&checks), ["four", "one", "three", "two"]);
    assert_eq!(checks.passed_over, 1);

    dir.write("a.yaml", &text.replacen("port: 1", "port: 0", 1));
    let said = problems(&dir.read()).join("\n");
    assert!(said.contains("a.yaml:8: items[0].spec.target.tcp.port: `0` is outside 1"), "{said}");
    for (items, says) in [("items: 1", "items: is no list"), ("# none", "items: is missing")] {
        let text = format!("apiVersion: v1\nkind: List\n{items}\n");
        let checks = Dir::of(&[("a.yaml", &text)]).read();
        assert!(problems(&checks).join("\n").contains(says), "{checks:?}");
    }
    let empty = Dir::of(&[("a.yaml", "apiVersion: v1\nkind: List\nitems: []\n")]).read();
    assert_eq!((problems(&empty).len(), empty.without_checks.len()), (0, 1));
}

#[test]
fn what_may_be_meant_to_be_ours_is_a_problem_and_other_groups_are_passed_over() {
    let with = |of: &str, by: &str| manifest("a").replace(of, by);
    for (text, says) in [
        (with("UptimeCheck", "Uptimecheck"), "a.yaml:2: kind: is not known in `bellwether.dev`"),
        (with("UptimeCheck", "UptimeChecks"), "kind: is not known in `bellwether.dev`"),
        (
            with("v1alpha1", "v1"),
            "a.yaml:1: apiVersion: is not known: write `bellwether.dev/v1alpha1`",
        ),
        (with("bellwether.dev", "Bellwether.dev"), "apiVersion: is not known"),
        (with("apiVersion: bellwether.dev/v1alpha1\n", ""), "apiVersion: is missing"),
        (
            with("apiVersion: bellwether.dev/v1alpha1\nkind: UptimeCheck", "kind: uptimechecks"),
            "apiVersion: is missing",
        ),
    ] {
        let said = said(&text);
        assert!(said.contains(says), "{says}: {said}");
    }
    for text in [
        with("bellwether.dev/v1alpha1", "monitoring.example/v1"),
        with("UptimeCheck", "Election"),
        with("UptimeCheck", "ElectionList").replace("spec:", "items: []\nspec:"),
    ] {
        let checks = Dir::of(&[("a.yaml", &text)]).read();
        assert_eq!((names(&checks), problems(&checks)), (vec![], vec![]), "{text}");
        assert_eq!(checks.without_checks, ["a.yaml"], "{text}");
    }
}

#[test]
fn values_are_of_the_kinds_that_the_api_server_takes() {
    let spec = |spec: &str| {
        format!(
            "apiVersion: bellwether.dev/v1alpha1\nkind: UptimeCheck\nmetadata: {{name: a}}\nspec:\n  {spec}\n"
        )
    };
    let tcp = |port: &str| spec(&format!("target: {{tcp: {{host: a, port: {port}}}}}"));
    let http = |more: &str| spec(&format!("target: {{http: {{url: 'http://a/'{more}}}}}"));
    let expect = |fields: &str| {
        spec(&format!("target: {{http: {{url: 'http://a/'}}}}\n  expect: {{{fields}}}"))
    };
    let quotes = "put it in quotes";
    for (text, says) in [
        (manifest("no"), quotes),
        (manifest("123"), quotes),
        (manifest("y"), quotes),
        (tcp("\"18080\""), "spec.target.tcp.port: is a text: write a whole number, without quotes"),
        (tcp("70000"), "`70000` is outside 1 to 65535"),
        (tcp("1.5"), "is no whole number"),
        (tcp(""), "spec.target.tcp.port: is missing: write it"),
        (http(", headers: {X: 1.10}"), "spec.target.http.headers.X: is a number: put it in quotes"),
        (http(", headers: {X: ~}"), "spec.target.http.headers.X: has no value"),
        (http(", insecureSkipTlsVerify: 'true'"), "write `true` or `false`, without quotes"),
        (expect("bodyContains: 200"), "spec.expect.bodyContains: is a number: put it in"),
        (expect("bodyContains: no"), "spec.expect.bodyContains: is true or false"),
        (expect("status: 200"), "spec.expect.status: is a number: write a list"),
        (
            expect("status: [2x]"),
            "spec.expect.status[0]: is not what this field holds: write it like",
        ),
        (http(", method: get"), "spec.target.http.method: is none of `GET`"),
        (
            spec("target: {tcp: {host: a, port: 1}, dns: {name: a}}"),
            "spec.target: must name exactly",
        ),
        (spec("target: {}"), "spec.target: must name exactly one of `dns`, `http`, `tcp`"),
        (
            spec("target: {tcp: {host: a, port: 1}}\n  interval: soon"),
            "spec.interval: is no span of",
        ),
        (manifest("a") + "extra: 1\n", "a.yaml:10: extra: is not known"),
    ] {
        let said = said(&text);
        assert!(said.contains(says), "{says}: {said}");
    }
    for (text, target) in [
        (tcp("043240"), "tcp a:18080"),
        (tcp("0x50"), "tcp a:80"),
        (tcp("80}, http: {").replace("{}", ""), "tcp a:80"),
        (tcp("80").replace("{name: a}", "{name: a, labels: , annotations: {b: ~}}"), "tcp a:80"),
        (http(", followRedirects: off"), "GET http://a/"),
        (
            expect("status: ['404', 2xx, 301]").replace("  expect", "  interval: ~\n  expect"),
            "GET http://a/",
        ),
    ] {
        let checks = Dir::of(&[("a.yaml", &text)]).read();
        assert_eq!(problems(&checks), [""; 0], "{text}");
        assert_eq!(checks.checks.values().next().unwrap().spec().target.to_string(), target);
    }
}

#[test]
fn no_problem_shows_what_it_could_not_read_and_all_are_ours_in_their_words() {
    const SECRET: &str = "s3cr3t-hunter2";
    let whole = format!(
        "{}  interval: 30s\n  timeout: 5s\n  failureThreshold: 1\n  expect:\n    maxLatency: 1s\n",
        manifest("a")
    );
    let http = "http:\n      url: http://x/\n      method: GET\n      headers:\n        a: b\n      body: c\n      \
                followRedirects: true\n      insecureSkipTlsVerify: false";
    let http = whole.replace("tcp:\n      host: localhost\n      port: 80", http);
    let dns = "dns:\n      name: a\n      recordType: A\n      server: 10.0.0.1";
    let dns = whole.replace("tcp:\n      host: localhost\n      port: 80", dns);
    let mut tried = 0;
    for text in [whole, http, dns] {
        let lines: Vec<&str> = text.lines().collect();
        for at in 0..lines.len() {
            let Some((name, _)) = lines[at].split_once(':') else { continue };
            let indent = " ".repeat(name.len() - name.trim_start().len());
            for instead in [
                format!("{name}: {SECRET}"),
                format!("{name}: \"{SECRET} \\n\""),
                format!("{name}: [{SECRET}]"),
                format!("{name}: {{{SECRET} x: {SECRET}}}"),
                format!("{name}: !{SECRET} x"),
                format!("{name}: *{SECRET}"),
                format!("{name}: [{SECRET}"),
                format!("{name}: \"{SECRET}"),
                format!("{indent}{SECRET} x: 1"),
                format!("{indent}{SECRET}"),
                format!("{name} {SECRET}"),
            ] {
                tried += 1;
                let mut changed = lines.clone();
                changed[at] = &instead;
                let mut dir = Dir::of(&[("a.yaml", &changed.join("\n"))]);
                let checks = dir.read();
                let said = format!("{:?} {:?}", checks.problems, checks.skipped);
                assert!(!said.contains("s3cr3t"), "{instead}: {said}");
                for words in ["expected", "DeserializeError", "serde", "Options", "invalid", "u16"]
                {
                    assert!(!said.contains(words), "{instead}: {said}");
                }
            }
        }
    }
    assert!(tried > 300, "{tried}");
}

#[test]
fn the_second_of_two_checks_of_one_name_is_a_problem_that_names_the_first() {
    let mut dir =
        Dir::of(&[("b.yaml", &manifest("a")), ("a.yaml", &format!("\n{}", manifest("a")))]);
    let checks = dir.read();
    assert_eq!(names(&checks), ["a"]);
    let said = problems(&checks).join("\n");
    assert!(said.contains("b.yaml:1: metadata.name: `default/a` is in a.yaml:2 already"), "{said}");
}

#[test]
fn a_check_is_kept_as_it_was_while_its_file_is_malformed() {
    let mut dir = Dir::of(&[("a.yaml", &format!("{}---\n{}", manifest("a"), manifest("b")))]);
    let before = dir.read();
    dir.write(
        "a.yaml",
        &format!("{}---\n{}", manifest("a").replace("80", "eighty"), manifest("b")),
    );
    for _ in 0..3 {
        let after = dir.read();
        assert_eq!(after.checks, before.checks);
        assert!(problems(&after)[0].contains("still run as last read: default/a"), "{after:?}");
    }
    dir.write("a.yaml", &manifest("b"));
    assert_eq!(names(&dir.read()), ["b"]);
}

#[test]
fn a_folder_that_was_not_changed_is_not_parsed_again() {
    let mut folder = Dir::of(&[("a.yaml", &manifest("a")), ("b.yaml", "kind: UptimeCheck")]);
    let (first, second) = (folder.read(), folder.read());
    assert_eq!(first, second);
    let same = |one: &Checks, other: &Checks| {
        one.checks.iter().zip(&other.checks).all(|((_, one), (_, other))| Arc::ptr_eq(one, other))
    };
    assert!(same(&first, &second));
    // Every change of a file is detected, also one that leaves all lengths as they were.
    folder.write("a.yaml", &manifest("c"));
    let third = folder.read();
    assert_eq!((names(&third), third.problems.len()), (vec!["c"], first.problems.len()));
}

#[test]
fn a_check_of_a_malformed_file_goes_with_the_file() {
    let mut dir = Dir::of(&[("a.yaml", &manifest("a"))]);
    dir.read();
    dir.write("a.yaml", "{");
    assert_eq!(names(&dir.read()), ["a"]);
    fs::remove_file(dir.dir.path().join("a.yaml")).unwrap();
    assert_eq!(names(&dir.read()), [""; 0]);
}

#[test]
fn a_check_that_moved_to_another_file_is_not_kept_in_the_malformed_one() {
    let mut dir = Dir::of(&[("a.yaml", &manifest("a"))]);
    dir.read();
    dir.write("a.yaml", "{");
    let moved = manifest("a").replace("80", "81");
    dir.write("b.yaml", &moved);
    let checks = dir.read();
    assert_eq!(
        checks.checks.values().next().unwrap().spec().target.to_string(),
        "tcp localhost:81"
    );
}

#[test]
fn a_file_that_is_too_large_no_utf8_or_no_file_is_a_problem() {
    let mut dir = Dir::of(&[("a.yaml", &manifest("a"))]);
    dir.write("large.yaml", &"#".repeat(MOST_FILE_BYTES as usize + 1));
    fs::write(dir.dir.path().join("latin.yaml"), b"# caf\n# caf\xe9\n").unwrap();
    fs::create_dir(dir.dir.path().join("dir.yaml")).unwrap();
    let checks = dir.read();
    assert_eq!(names(&checks), ["a"]);
    let said = problems(&checks).join("\n");
    assert!(said.contains("large.yaml: is larger than"), "{said}");
    assert!(said.contains("latin.yaml: is no UTF-8 in line 2"), "{said}");
    assert!(said.contains("dir.yaml: is no file"), "{said}");
}

#[test]
fn aliases_that_multiply_are_refused() {
    let mut text = String::from("kind: UptimeCheck\na0: &a0 [x]\n");
    for n in 1..40 {
        let before = n - 1;
        writeln!(text, "a{n}: &a{n} [*a{before}, *a{before}]").unwrap();
    }
    assert!(!said(&text).is_empty());
}

#[tokio::test]
async fn a_change_of_the_folder_is_published() {
    let dir = Dir::of(&[("a.yaml", &manifest("a"))]);
    let (folder, mut checks) = Folder::open(dir.dir.path()).await.unwrap();
    assert_eq!(names(&checks.borrow_and_update()), ["a"]);
    let cancel = CancellationToken::new();
    let mut tasks = crate::tasks::Tasks::new();
    tasks.spawn("folder", folder.run(cancel.clone()));
    dir.write("b.yaml", &manifest("b"));
    let both = checks.wait_for(|checks| checks.checks.len() == 2);
    tokio::time::timeout(Duration::from_secs(30), both).await.unwrap().unwrap();
    fs::remove_file(dir.dir.path().join("a.yaml")).unwrap();
    let one = checks.wait_for(|checks| names(checks) == ["b"]);
    tokio::time::timeout(Duration::from_secs(30), one).await.unwrap().unwrap();
    cancel.cancel();
    tasks.join_all().await;
    assert!(checks.changed().await.is_err(), "nothing is published any more");
}

#[tokio::test]
async fn a_folder_that_vanishes_stops_no_check() {
    let dir = Dir::of(&[("a.yaml", &manifest("a"))]);
    let (mut folder, checks) = Folder::open(dir.dir.path()).await.unwrap();
    fs::remove_dir_all(dir.dir.path()).unwrap();
    assert!(!folder.read().await);
    assert_eq!(names(&checks.borrow()), ["a"]);
    assert!(problems(&checks.borrow())[0].contains("the folder cannot be read"));
    fs::create_dir(dir.dir.path()).unwrap();
    dir.write("b.yaml", &manifest("b"));
    assert!(folder.read().await);
    assert_eq!(names(&checks.borrow()), ["b"]);
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_an_error_that_names_it() {
    let error = Folder::open("/nowhere/at/all").await.unwrap_err();
    assert!(error.to_string().contains("`/nowhere/at/all`"), "{error}");
}
