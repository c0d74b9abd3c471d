//! Signals as service managers, containers and terminals send them: to one process or to several, once or in
//! copies.

use std::{process::Command, time::Duration};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::{
    binary::{Process, bellwether},
    cluster::Shop,
    supervise::{child_of, supervised_command, when},
};

/// Copies of one signal, far enough apart that the kernel does not merge all of them.
const COPIES: usize = 20;
const APART: Duration = Duration::from_millis(1);

fn kill(pid: Pid, signal: Signal) {
    kill_process(pid, signal).expect("it runs");
}

/// The same command, started by `env` of the coreutils, which sets how the process handles signals.
fn through_env(how: &str, command: &Command) -> Command {
    let mut through = Command::new("env");
    through.arg(how).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => through.env(name, value),
            None => through.env_remove(name),
        };
    }
    through.stdin(std::process::Stdio::null());
    through
}

async fn leaves_cleanly(mut process: Process, what: &str) {
    assert_eq!(process.status().await.code(), Some(0), "{what}: {}", process.err());
    let said = process.err();
    assert!(said.contains("left cleanly") && !said.contains("ending at once"), "{what}: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_to_the_supervisor_and_to_its_program_is_one_request_in_whatever_order() {
    let shop = Shop::open().await;
    for round in 0..6 {
        let node = Process::of(supervised_command(&shop, "1", &[]));
        shop.leader(1, None).await;
        let mut both = [child_of(&node).await, node.pid()];
        if round % 2 == 1 {
            both.reverse();
        }
        for pid in &both {
            kill(*pid, Signal::TERM);
        }
        leaves_cleanly(node, "both").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_is_late_with_the_same_request_does_not_end_its_program_at_once() {
    let shop = Shop::open().await;
    let node = Process::of(supervised_command(&shop, "1", &["--grace", "50s"]));
    shop.leader(1, None).await;
    let child = child_of(&node).await;
    // The node cannot leave while etcd is frozen, so it is still leaving when the supervisor's signal comes.
    shop.etcd.freeze(0);
    kill(node.pid(), Signal::STOP);
    kill(child, Signal::TERM);
    kill(node.pid(), Signal::TERM);
    node.says("a second signal ends at once").await;
    kill(node.pid(), Signal::CONT);
    node.says("the signal is not passed on").await;
    shop.etcd.thaw(0);
    leaves_cleanly(node, "late").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_request_through_the_supervisor_ends_the_program_at_once() {
    let shop = Shop::open().await;
    let mut node = Process::of(supervised_command(&shop, "1", &["--grace", "50s"]));
    shop.leader(1, None).await;
    shop.etcd.freeze(0);
    let both = [child_of(&node).await, node.pid()];
    for pid in &both {
        kill(*pid, Signal::TERM);
    }
    let said = node.says("a second signal ends at once").await;
    let first = when(&node.says("for 1s every signal counts as this one").await);
    assert!(bellwether::signals::SAME_REQUEST <= when(&said).saturating_sub(first), "{said}");
    node.signal(Signal::TERM);
    assert_eq!(node.status().await.code(), Some(143), "{}", node.err());
    shop.etcd.thaw(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_in_every_group_of_a_terminal_is_one_request() {
    use std::os::unix::process::CommandExt as _;
    let shop = Shop::open().await;
    let mut command = supervised_command(&shop, "1", &[]);
    command.process_group(0);
    let node = Process::of(command);
    shop.leader(1, None).await;
    let child = child_of(&node).await;
    for _ in 0..COPIES {
        for group in [node.pid(), child] {
            // The first signal may have ended the process already.
            let _ = kill_process_group(group, Signal::INT);
        }
        tokio::time::sleep(APART).await;
    }
    leaves_cleanly(node, "Ctrl-C").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_asks_a_node_to_leave_and_never_ends_it_at_once() {
    let shop = Shop::open().await;
    let args = ["run", "--id", "1", "--listen", "127.0.0.1:0", "--grace", "50s"];
    let node = Process::of(through_env("--default-signal=HUP", &shop.command(&args)));
    shop.leader(1, None).await;
    shop.etcd.freeze(0);
    node.signal(Signal::HUP);
    node.says("a second signal ends at once").await;
    // A terminal that closes sends SIGHUP several times.
    node.signal(Signal::HUP);
    shop.etcd.thaw(0);
    leaves_cleanly(node, "HUP").await;
    assert_eq!(shop.ask(&["nodes", "-o", "json"]).out.trim(), "[]");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervised_node_leaves_on_sighup_too() {
    let shop = Shop::open().await;
    let command = supervised_command(&shop, "1", &[]);
    let node = Process::of(through_env("--default-signal=HUP", &command));
    shop.leader(1, None).await;
    node.signal(Signal::HUP);
    leaves_cleanly(node, "HUP").await;
}

/// Signals that end a process by default.
const ASK_FOR_NOTHING: [(Signal, &str); 8] = [
    (Signal::USR1, "SIGUSR1"),
    (Signal::USR2, "SIGUSR2"),
    (Signal::ALARM, "SIGALRM"),
    (Signal::STKFLT, "SIGSTKFLT"),
    (Signal::XFSZ, "SIGXFSZ"),
    (Signal::VTALARM, "SIGVTALRM"),
    (Signal::PROF, "SIGPROF"),
    (Signal::IO, "SIGIO"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_goes_on_leading_whatever_signal_comes_that_asks_for_nothing() {
    let shop = Shop::open().await;
    let args = ["run", "--id", "1", "--listen", "127.0.0.1:0"];
    let mut command = shop.command(&args);
    command.env("BELLWETHER_LOG", "info,bellwether::signals=debug");
    // The command, started as `nohup` does.
    let node = Process::of(through_env("--ignore-signal=HUP", &command));
    let before = shop.leader(1, None).await;
    node.signal(Signal::HUP);
    for (signal, name) in ASK_FOR_NOTHING {
        node.signal(signal);
        node.says(&format!("signal ignored signal=\"{name}\"")).await;
    }
    assert_eq!(shop.leader(1, None).await, before);
    assert!(!node.err().contains("leaving"), "{}", node.err());
    node.signal(Signal::TERM);
    leaves_cleanly(node, "TERM").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervised_leader_goes_on_leading_whatever_signal_comes_that_asks_for_nothing() {
    let shop = Shop::open().await;
    let mut command = supervised_command(&shop, "1", &[]);
    command.env("BELLWETHER_LOG", "info,bellwether::app::life=debug");
    let node = Process::of(through_env("--ignore-signal=HUP", &command));
    let before = shop.leader(1, None).await;
    let child = child_of(&node).await;
    for pid in [node.pid(), child] {
        kill(pid, Signal::HUP);
        for (signal, _) in ASK_FOR_NOTHING {
            kill(pid, signal);
        }
    }
    // The kernel sends this signal when the parent ends; here the parent did not end.
    node.says("SIGUSR1 ignored").await;
    assert_eq!(shop.leader(1, None).await, before);
    node.signal(Signal::TERM);
    leaves_cleanly(node, "TERM").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demonstration_takes_copies_of_ctrl_c_for_one() {
    let mut demo = Process::of(bellwether(["demo", "--listen", "127.0.0.1:0", "--log", "info"]));
    demo.says("role=Leader").await;
    for _ in 0..COPIES {
        demo.signal(Signal::INT);
        tokio::time::sleep(APART).await;
    }
    assert_eq!(demo.status().await.code(), Some(0), "{}", demo.err());
}
