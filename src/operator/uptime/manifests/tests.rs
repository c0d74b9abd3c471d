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

/// What is said of one document.
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
    let checks = Dir::of(&[("a.yaml", &text)]).read();
    assert_eq!(problems(&checks), [""; 0]);
    assert_eq!(
        checks.skipped,
        [Skipped { file: "a.yaml".into(), line: 1, kind: "Service".into() }]
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
    assert!(missing.contains("spec.target.tcp.host: missing field `host`"), "{missing}");
    let unknown = said(&manifest("a").replace("host:", "hots:"));
    assert!(unknown.contains("a.yaml:8: spec.target.tcp.hots: unknown field `hots`"), "{unknown}");
    let variant = said(&manifest("a").replace("tcp:", "udp:"));
    assert!(
        variant.contains("a.yaml:7: spec.target") && variant.contains("http, tcp, dns"),
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
fn nothing_of_the_file_is_shown_but_the_wrong_value() {
    let text = manifest("a").replace(
        "tcp:\n      host: localhost\n      port: 80",
        "http: {url: 'http://x/', headers: {a: secret, b: [}, method: NO}",
    );
    assert!(!said(&text).contains("secret"));
    let text = manifest("a").replace(
        "tcp:\n      host: localhost\n      port: 80",
        "http: {url: 'http://x/', headers: {a: secret}, method: NO}",
    );
    let said = said(&text);
    assert!(said.contains("spec.target.http.method") && !said.contains("secret"), "{said}");
}

#[test]
fn the_second_of_two_checks_of_one_name_is_a_problem_that_names_the_first() {
    let mut dir =
        Dir::of(&[("b.yaml", &manifest("a")), ("a.yaml", &format!("\n{}", manifest("a")))]);
    let checks = dir.read();
    assert_eq!(names(&checks), ["a"]);
    let said = problems(&checks).join("\n");
    assert!(said.contains("b.yaml:1: metadata.name: `default/a` is in a.yaml:1 already"), "{said}");
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
    // A change of any file is seen, also one that leaves all lengths as they were.
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
