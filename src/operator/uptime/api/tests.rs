use serde_json::json;

use super::*;

fn object(name: &str, spec: &serde_json::Value) -> UptimeCheck {
    serde_json::from_value(json!({
        "apiVersion": "bellwether.dev/v1alpha1",
        "kind": "UptimeCheck",
        "metadata": { "name": name, "namespace": "shop", "uid": name, "generation": 3 },
        "spec": spec,
    }))
    .unwrap()
}

fn good() -> UptimeCheck {
    object("good", &json!({ "target": { "tcp": { "host": "db", "port": 5432 } } }))
}

/// An object that the schema accepts but that cannot be run.
fn bad() -> UptimeCheck {
    object(
        "bad",
        &json!({ "target": { "http": { "url": "http://a/" } }, "expect": { "bodyMatches": "(" } }),
    )
}

fn errors(object: &UptimeCheck) -> Vec<FieldError> {
    Check::new(resource::UptimeCheck::from(object.clone())).unwrap_err()
}

fn judged(book: &Book) -> Checks {
    book.judge();
    book.snapshot()
}

fn added(object: UptimeCheck) -> Delta<UptimeCheck> {
    Delta::Added { object: Arc::new(object), is_listed: true }
}

#[test]
fn a_check_that_cannot_be_run_is_a_problem_and_the_rest_go_on() {
    let book = Book::default();
    book.on(&added(good()));
    book.on(&added(bad()));
    let checks = judged(&book);
    assert_eq!(checks.checks.keys().map(ToString::to_string).collect::<Vec<_>>(), ["shop/good"]);
    let problem = &checks.problems[0];
    assert_eq!(problem.file, "shop/bad");
    assert_eq!(problem.field.as_deref(), Some("spec.expect.bodyMatches"));

    book.on(&Delta::Deleted { object: Arc::new(bad()) });
    book.on(&Delta::Deleted { object: Arc::new(good()) });
    assert_eq!(judged(&book), Checks::default());
}

#[test]
fn a_check_that_was_changed_goes_on_as_it_was_until_it_is_judged() {
    let book = Book::default();
    book.on(&added(good()));
    assert_eq!(book.snapshot(), Checks::default(), "whoever tells of a change waits for nothing");
    let before = judged(&book);
    let mut changed = bad();
    changed.metadata = good().metadata;
    changed.metadata.generation = Some(4);
    book.on(&Delta::Changed { old: Arc::new(good()), new: Arc::new(changed) });
    assert_eq!(book.snapshot(), before);
    assert_eq!((judged(&book).checks.len(), judged(&book).problems.len()), (0, 1));
}

#[test]
fn a_status_that_was_written_makes_no_new_snapshot() {
    let book = Book::default();
    book.on(&added(good()));
    let mut touched = good();
    touched.status = Some(UptimeCheckStatus::default());
    touched.metadata.generation = Some(3);
    // The generation is the same, though the spec differs here: if the book judged it, the check would
    // differ.
    touched.spec = object("x", &json!({ "target": { "tcp": { "host": "x", "port": 1 } } })).spec;
    let before = judged(&book);
    book.on(&Delta::Changed { old: Arc::new(good()), new: Arc::new(touched) });
    assert_eq!(judged(&book), before);
}

#[test]
fn what_cannot_be_run_is_not_accepted_and_says_why() {
    let status = status_of(&bad(), Err(&errors(&bad())), None);
    let accepted = conditions::find(&status.conditions, condition::ACCEPTED).unwrap();
    assert_eq!((accepted.status.as_str(), accepted.observed_generation), ("False", Some(3)));
    assert!(accepted.message.contains("spec.expect.bodyMatches"), "{}", accepted.message);
    assert_eq!((status.up, status.state), (None, State::Unknown));
    assert!(
        status.message.starts_with("not accepted: spec.expect.bodyMatches"),
        "{}",
        status.message
    );
}

#[test]
fn a_result_is_told_as_state_as_yes_or_no_and_as_condition() {
    let known = |state| {
        Some(UptimeCheckStatus {
            state,
            message: "said".into(),
            observed_generation: Some(3),
            ..UptimeCheckStatus::default()
        })
    };
    for (state, up, holds) in [
        (State::Up, Some(true), "True"),
        (State::Down, Some(false), "False"),
        (State::Unknown, None, "Unknown"),
    ] {
        let status = status_of(&good(), Ok(()), known(state));
        assert_eq!(status.up, up);
        let told = conditions::find(&status.conditions, condition::UP).unwrap();
        assert_eq!((told.status.as_str(), told.message.as_str()), (holds, "said"));
    }
}

#[test]
fn a_new_leader_that_knows_nothing_yet_leaves_what_was_written() {
    let mut object = good();
    let first = status_of(
        &object,
        Ok(()),
        Some(UptimeCheckStatus { state: State::Up, ..Default::default() }),
    );
    object.status = Some(first.clone());
    assert_eq!(status_of(&object, Ok(()), None), first);
}

#[test]
fn a_status_that_another_cluster_overwrites_has_a_rival_and_one_that_was_left_has_none() {
    let writer = StatusWriter {
        statuses: watch::Sender::new(Arc::default()).subscribe(),
        cluster: "shop/one".into(),
        written: Mutex::default(),
    };
    let by = |cluster: &str| UptimeCheckStatus {
        cluster: Some(cluster.to_owned()),
        ..UptimeCheckStatus::default()
    };
    // The status was written by the cluster of a release that was removed.
    assert_eq!(writer.rival(&good(), &by("shop/two")), None);
    writer.note_written(&good());
    assert_eq!(writer.rival(&good(), &by("shop/one")), None);
    assert_eq!(writer.rival(&good(), &by("shop/two")), Some("shop/two"));
    assert_eq!(writer.rival(&good(), &UptimeCheckStatus::default()), None);
}

/// Objects that the schema accepts, each with a secret in a malformed field.
#[test]
fn a_status_shows_nothing_that_could_not_be_read_and_fits_into_the_api() {
    const SECRET: &str = "s3cr3t";
    let lost =
        format!("-----BEGIN CERTIFICATE----- {} -----END CERTIFICATE-----", SECRET.repeat(9000));
    let http = |fields: serde_json::Value| {
        let mut http = json!({ "url": "http://a/" });
        http.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        json!({ "target": { "http": http } })
    };
    let mut wrong = http(json!({
        "url": format!("http://{SECRET}:x/?{SECRET}"),
        "caBundle": lost,
        "headers": (0..64).map(|at| (format!("{at:063}"), json!(format!("{SECRET}\n")))).collect::<serde_json::Map<_, _>>(),
    }));
    wrong["expect"] = json!({ "bodyMatches": format!("({SECRET}") });
    let mut many = wrong.clone();
    many["interval"] = json!("1ms");
    for spec in [wrong, many] {
        let object = object("bad", &spec);
        let status = status_of(&object, Err(&errors(&object)), None);
        let text = serde_json::to_string(&status).unwrap();
        assert!(text.contains("caBundle") && !text.contains(SECRET), "{text}");
        assert!(!text.contains("115, 51, 99"), "{text}");
        assert!(status.conditions.iter().all(|it| it.message.chars().count() <= 32_768), "{text}");
    }
    // A message of this length is cut.
    let long = FieldError { path: "spec".into(), message: "x".repeat(100_000) };
    let status = status_of(&bad(), Err(&[long]), None);
    assert_eq!(status.conditions[0].message.chars().count(), 32_768);
}
