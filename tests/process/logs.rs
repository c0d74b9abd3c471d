//! The target of the logs, and the behaviour of a node that cannot write them.

use std::{
    fs::File,
    io::{ErrorKind, Write as _},
};

use bellwether::store::keys::Keys;
use rustix::{fs::OFlags, process::Signal};

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
