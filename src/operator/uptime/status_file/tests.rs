use super::*;
use crate::operator::uptime::{
    resource::{HttpTarget, State, UptimeCheckStatus},
    testing,
    value::UnixMs,
};

fn text_of(check: super::super::Check) -> String {
    let status = UptimeCheckStatus {
        state: State::Down,
        last_run: Some(UnixMs(1_772_366_400_123)),
        message: "refused".into(),
        ..UptimeCheckStatus::default()
    };
    let key = check.key().clone();
    text(&Checks::of([check]), &[(key, Stored { status, ..Stored::default() })].into())
}

#[test]
fn a_status_file_reads_as_kubectl_shows_a_list() {
    let text = text_of(testing::check("a", 10));
    let list: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(list["kind"], "UptimeCheckList");
    let item = &list["items"][0];
    assert_eq!(
        (&item["metadata"]["name"], &item["metadata"]["namespace"]),
        (&"a".into(), &"default".into())
    );
    assert_eq!(item["status"]["state"], "down");
    assert_eq!(item["status"]["lastRun"], "2026-03-01T12:00:00.123Z");
    assert_eq!(item["spec"]["interval"], "10s");
}

#[test]
fn no_secret_of_a_check_is_in_the_status_file() {
    let mut resource = testing::check("a", 10).resource().clone();
    resource.spec.target = Target::Http(HttpTarget {
        headers: [("authorization".to_owned(), "secret".to_owned())].into(),
        body: Some("secret".to_owned()),
        ..HttpTarget::get("https://user:secret@shop.example/health?token=secret")
    });
    let applied = r#"{"spec":{"body":"secret"}}"#.to_owned();
    resource.metadata.annotations.insert(LAST_APPLIED.to_owned(), applied);
    let text = text_of(super::super::Check::new(resource).unwrap());
    assert!(text.contains("https://shop.example/health") && !text.contains("secret"), "{text}");
}

#[test]
fn a_file_is_replaced_as_a_whole_and_nothing_is_left_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("status.yaml");
    for text in ["one", "two"] {
        write(&path, text).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_file_that_cannot_be_written_is_named_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("status.yaml")).unwrap();
    let error = write(&dir.path().join("status.yaml"), "x").unwrap_err();
    assert!(error.to_string().contains("status.yaml"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    assert!(write(Path::new("/nowhere/at/all"), "x").is_err());
    assert!(write(Path::new("/"), "x").is_err());
}
