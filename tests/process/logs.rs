//! The target of the logs, and the behaviour of a node that cannot write them.

use std::{
    fs::File,
    io::{ErrorKind, Write as _},
};

use bellwether::store::keys::Keys;
use rustix::{fs::OFlags, process::Signal};
use serde_json::Value;

use crate::{
    binary::{LONG, Process},
    cluster::Shop,
    support::eventually,
};

/// Both ends of a full pipe: every write to it blocks.
fn full_pipe() -> (File, File) {
    let (read, write) = rustix::pipe::pipe().unwrap();
    let mut write = File::from(write);
    let flags = rustix::fs::fcntl_getfl(&write).unwrap();
    rustix::fs::fcntl_setfl(&write, flags | OFlags::NONBLOCK).unwrap();
    let full = loop {
        if let Err(full) = write.write(&[b'-'; 4096]) {
            break full;
        }
    };
    assert_eq!(full.kind(), ErrorKind::WouldBlock);
    rustix::fs::fcntl_setfl(&write, flags).unwrap();
    (File::from(read), write)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_log_is_not_read_goes_on_leading_and_leaves_when_it_is_told_to() {
    let shop = Shop::open().await;
    let (_unread, log) = full_pipe();
    let args = ["run", "--id", "1", "--listen", "127.0.0.1:0", "--log", "trace"];
    let mut node = Process::saying_all_to(shop.command(&args), &log);
    shop.leader(1, None).await;
    let mut client = shop.etcd.client().await;
    let record = Keys::new("shop").unwrap().record();
    let mut beat = async || client.get(record.clone(), None).await.unwrap().kvs()[0].version();
    let first = beat().await;
    eventually("ten more beats", LONG, async || (first + 10 < beat().await).then_some(())).await;
    node.signal(Signal::TERM);
    assert_eq!(node.status().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn terms_nodes_and_spans_of_json_lines_are_numbers_and_no_field_is_an_option_of_rust() {
    let args = ["run", "--standalone", "--listen", "127.0.0.1:0", "--log-format", "json"];
    let mut node = Process::start(args);
    node.says(r#""role":"Leader""#).await;
    node.signal(Signal::TERM);
    assert_eq!(node.status().await.code(), Some(0));
    let log = node.err();
    let lines: Vec<Value> = log.lines().map(|it| serde_json::from_str(it).unwrap()).collect();
    let roles: Vec<&Value> = lines.iter().filter(|it| it["message"] == "role").collect();
    assert!(roles.iter().any(|it| it["term"].is_i64()) && roles.iter().all(|it| it["node"] == 0));
    for line in &lines {
        for (name, value) in line.as_object().unwrap() {
            let is_number = ["term", "node"].contains(&&**name) || name.ends_with("_ms");
            assert!(!is_number || value.is_number(), "{name} of {line}");
            let is_debug = value.as_str().is_some_and(|it| it.starts_with("Some(") || it == "None");
            assert!(!is_debug, "{name} of {line}");
        }
    }
}
