//! A node whose driver panics, in the built binary. A file requests the panic; only a build with the feature
//! `mutants` looks for that file.

use std::{path::PathBuf, time::Duration};

use rustix::process::Signal;

use crate::{
    binary::{LONG, Process, bellwether},
    cluster::Shop,
    supervise::{supervised_command, when},
    support::eventually,
};

const PANIC_FILE_ENV: &str = "BELLWETHER_MUTANT_PANIC_FILE";

/// Node under its supervisor, and the file whose existence makes the node's driver panic.
fn breakable(shop: &Shop, id: &str, folder: &tempfile::TempDir) -> (Process, PathBuf) {
    let file = folder.path().join(id);
    let mut command = supervised_command(shop, id, &[]);
    // Printing a backtrace takes longer in an unoptimised program than a leader may be silent.
    command.env(PANIC_FILE_ENV, &file).env("RUST_BACKTRACE", "0");
    (Process::of(command), file)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_driver_panics_ends_with_exit_code_10_and_another_leads_at_once() {
    let shop = Shop::open().await;
    let folder = tempfile::tempdir().unwrap();
    let mut nodes: Vec<_> =
        ["1", "2", "3"].map(|id| (id.to_owned(), breakable(&shop, id, &folder))).into();
    let (first, term) = shop.leader(3, None).await;
    let at = nodes.iter().position(|(id, _)| *id == first).unwrap();
    let (_, (mut leader, file)) = nodes.remove(at);
    std::fs::write(file, "").unwrap();
    assert_eq!(leader.status().await.code(), Some(10), "{}", leader.err());
    let said = leader.err();
    assert!(said.contains("the node's driver panicked"), "{said}");
    assert!(said.contains("sabotaged by a test"), "the log has the panic: {said}");
    assert!(said.contains("bellwether: running the node: the node's driver has failed"), "{said}");
    let ended = leader.says("ended the incarnation").await;
    assert!(ended.contains("in_office=true"), "{ended}");
    let (second, next) = shop.leader(2, Some(&first)).await;
    assert!(term < next);
    // The successor does not wait: it led before a timeout could have detected the silent leader.
    let successor = &nodes.iter().find(|(id, _)| *id == second).unwrap().1.0;
    let took_over = when(&successor.says("role=Leader").await);
    let gap = took_over.saturating_sub(when(&ended));
    assert!(gap < Duration::from_millis(3300), "{gap:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_panics_while_its_node_leaves_ends_the_process_too() {
    let shop = Shop::open().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("panic");
    let args = ["run", "--id", "1", "--listen", "127.0.0.1:0", "--grace", "50s"];
    let mut command = shop.command(&args);
    command.env(PANIC_FILE_ENV, &file);
    let mut node = Process::of(command);
    shop.leader(1, None).await;
    // The process cannot leave while etcd is frozen.
    shop.etcd.freeze(0);
    node.signal(Signal::TERM);
    node.says("leaving; for 1s every signal counts as this one").await;
    std::fs::write(&file, "").unwrap();
    assert_eq!(node.status().await.code(), Some(10), "{}", node.err());
    shop.etcd.thaw(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_whose_driver_panics_end_with_exit_code_10_whatever_the_store_is() {
    let folder = tempfile::tempdir().unwrap();
    let programs: [&[&str]; 2] =
        [&["run", "--standalone", "--listen", "127.0.0.1:0"], &["demo", "--listen", "127.0.0.1:0"]];
    for (number, program) in programs.iter().enumerate() {
        let file = folder.path().join(number.to_string());
        let mut command = bellwether(*program);
        command.env(PANIC_FILE_ENV, &file);
        let mut process = Process::of(command);
        eventually("a leader", LONG, || async {
            let said = process.err() + &process.out();
            (said.contains("role=Leader") || said.contains("leads")).then_some(())
        })
        .await;
        std::fs::write(&file, "").unwrap();
        assert_eq!(process.status().await.code(), Some(10), "{program:?}: {}", process.err());
    }
}
