use super::*;
use crate::operator::uptime::manifests::Folder;

#[tokio::test]
async fn the_samples_are_good_and_the_folder_holds_no_others() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/checks");
    let (_, checks) = Folder::open(folder).await.unwrap();
    let checks = checks.borrow().clone();
    assert_eq!(
        (checks.problems.as_slice(), checks.skipped.as_slice()),
        ([].as_slice(), [].as_slice())
    );
    let names: Vec<_> = checks.checks.keys().map(|key| key.name.to_string()).collect();
    assert_eq!(names, ["down-on-purpose", "metrics", "name", "port", "status-page"]);
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort_unstable();
    assert_eq!(files, SAMPLES.map(|(name, _)| name));
}

#[tokio::test]
async fn the_samples_are_written_for_any_address_of_the_page() {
    for (address, url, port) in [
        (SAMPLE_ADDRESS, "GET http://127.0.0.1:8080/livez", "tcp 127.0.0.1:8080"),
        ("[::1]:9090", "GET http://[::1]:9090/livez", "tcp [::1]:9090"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        write_samples(dir.path(), address).unwrap();
        let (_, checks) = Folder::open(dir.path()).await.unwrap();
        let checks = checks.borrow().clone();
        assert_eq!(checks.problems, []);
        let targets: Vec<_> =
            checks.checks.values().map(|check| check.spec().target.to_string()).collect();
        assert!(
            targets.contains(&url.to_owned()) && targets.contains(&port.to_owned()),
            "{targets:?}"
        );
        assert!(targets.contains(&"tcp 127.0.0.1:1".to_owned()), "{targets:?}");
    }
}
