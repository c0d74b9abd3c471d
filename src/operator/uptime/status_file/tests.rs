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
    let annotations = ["kubectl.kubernetes.io/last-applied-configuration", "deploy.example/token"];
    for name in annotations {
        resource.metadata.annotations.insert(name.to_owned(), r#"{"body":"secret"}"#.to_owned());
    }
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

#[test]
fn a_symbolic_link_is_followed_and_the_mode_is_kept() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let (real, link) = (dir.path().join("real"), dir.path().join("link"));
    fs::write(&real, "old").unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink("real", &link).unwrap();
    for path in [&real, &link] {
        write(path, "new").unwrap();
        assert_eq!(fs::read_to_string(&real).unwrap(), "new");
        assert!(link.is_symlink());
        assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
        fs::write(&real, "old").unwrap();
    }
    // Writing through a dangling link creates the link's target.
    fs::remove_file(&real).unwrap();
    write(&link, "new").unwrap();
    assert_eq!(fs::read_to_string(&real).unwrap(), "new");
    assert!(link.is_symlink());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn a_file_of_two_names_keeps_both() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    fs::write(&one, "a longer text than the new one").unwrap();
    fs::hard_link(&one, &two).unwrap();
    write(&one, "new").unwrap();
    assert_eq!(fs::read_to_string(&two).unwrap(), "new");
}

/// A device would be rejected the same way, but a failure of this test would replace it.
#[test]
fn what_is_no_regular_file_is_refused_and_stays() {
    use std::os::unix::fs::FileTypeExt as _;
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink("socket", &link).unwrap();
    for path in [socket.as_path(), link.as_path(), dir.path()] {
        let error = write(path, "x").unwrap_err();
        assert!(error.source.to_string().contains("name a regular file"), "{error:?}");
        assert!(check(path).is_err());
    }
    assert!(fs::metadata(&socket).unwrap().file_type().is_socket());
    assert!(link.is_symlink());
}

#[test]
fn a_file_that_cannot_be_replaced_is_written_in_place() {
    let refused = [
        io::ErrorKind::ResourceBusy,
        io::ErrorKind::PermissionDenied,
        io::ErrorKind::ReadOnlyFilesystem,
    ];
    assert!(refused.into_iter().all(|kind| only_in_place(&kind.into())));
    assert!(!only_in_place(&io::ErrorKind::StorageFull.into()));
    // The rename over a mounted file fails with EBUSY.
    assert!(only_in_place(&io::Error::from_raw_os_error(16)));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("status.yaml");
    fs::write(&path, "a longer text than the new one").unwrap();
    in_place(&path, "new").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "new");
}

#[tokio::test]
async fn a_failure_is_said_once_a_minute_and_so_is_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("missing/status.yaml");
    let mut file = StatusFile::default();
    file.write(path.clone(), "x".to_owned()).await;
    let said = file.said.expect("the first failure is said");
    file.write(path.clone(), "x".to_owned()).await;
    assert_eq!(file.said, Some(said), "the second one is not");
    assert!(!file.holds("x"));
    fs::create_dir(dir.path().join("missing")).unwrap();
    file.write(path, "x".to_owned()).await;
    assert!(file.holds("x") && file.said.is_none());
}
