//! Rules for the sources in this repository: modules use only lower layers, one module names each client
//! library, files stay short enough to read, and no path of one machine is in them.

#![allow(clippy::unwrap_used, reason = "helpers of tests may unwrap as the tests do")]

mod arrows;
mod crds;
mod english;
mod features;
mod image;
mod protocol;
mod sources;
mod troubles;
mod tutorial;

use sources::Sources;

/// Files that may be longer than [`sources::MOST_LINES`], each with the reason.
const LONG_FILES: &[(&str, &str)] = &[
    (
        "src/engine/machine/session.rs",
        "one life of a node: read, grant, join, renew, lose, join again",
    ),
    ("src/engine/call.rs", "a catalogue of the protocol's calls, mostly their documentation"),
    ("src/node/driver/user_work.rs", "how every kind of user work begins and ends, side by side"),
    ("src/node/driver/mod.rs", "one loop over all inputs and effects of the engine, by name"),
    ("src/store/keys.rs", "the one catalogue of keys, with its table"),
    ("src/store/list_watch.rs", "one state machine with what proves it fresh"),
];

fn complain(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

#[test]
fn no_arrow_points_up() {
    let sources = Sources::of_the_crate();
    assert!(sources.files.len() > 10, "the sources were not found");
    complain(
        "these use a layer above their own (main, cli > operator > testing > k8s > telemetry > node > store > \
         engine)",
        &arrows::that_point_up(&sources),
    );
}

#[test]
fn each_client_library_is_named_in_one_place_only() {
    complain(
        "only the module beside it may name this crate",
        &arrows::foreign_names(&Sources::of_the_crate()),
    );
}

#[test]
fn files_stay_short_enough_to_read() {
    complain(
        "split these, or give a reason in LONG_FILES",
        &sources::too_long(&Sources::of_the_crate(), LONG_FILES),
    );
}

#[test]
fn nothing_of_one_machine_is_in_the_repository() {
    let everything = Sources::of_the_repository();
    assert!(everything.files.len() > 20, "the repository was not found");
    complain("paths of one machine", &sources::machine_paths(&everything));
}

#[test]
fn each_rule_each_transaction_and_each_attack_of_the_protocol_has_a_test_by_its_name() {
    complain("write it", &protocol::without_a_test(&Sources::of_the_repository()));
}

#[test]
fn the_engine_has_no_clock_no_io_and_no_async() {
    complain("the engine is pure", &arrows::impure_engine(&Sources::of_the_crate()));
}

#[test]
fn comments_and_documents_are_in_plain_english() {
    let is_prose = |path: &str| {
        let folders = ["src/", "docs/", "tests/", "benches/", "examples/"];
        // This file has planted text.
        path != "tests/repo/english.rs"
            && folders.iter().any(|it| path.starts_with(it))
            && ["rs", "md"].iter().any(|it| sources::has_extension(path, it))
    };
    let everything = Sources::of_the_repository();
    let prose = everything.files.iter().filter(|(path, _)| is_prose(path));
    let found: Vec<_> = prose.flat_map(|(path, text)| english::unclear(path, text)).collect();
    complain("write plain English", &found);
}
