//! `supervise`: exit statuses, signals, orphans, and the death of a node.

use std::{process::Command, time::Duration};

use rustix::process::{Pid, Signal, test_kill_process};

use crate::{
    binary::{LONG, Process, bellwether, ended},
    cluster::Shop,
    support::eventually,
};

/// Program under supervision, without an etcd.
fn supervise(program: &[&str]) -> Command {
    let args = ["supervise", "--etcd", "http://127.0.0.1:9", "--log", "error", "--"];
    bellwether(args.iter().chain(program))
}

#[test]
fn the_exit_status_of_the_program_is_passed_on() {
    let code = |program: &[&str]| ended(supervise(program)).code;
    assert_eq!(code(&["true"]), 0);
    assert_eq!(code(&["sh", "-c", "exit 7"]), 7);
    assert_eq!(code(&["sh", "-c", "kill -9 $$"]), 137);
    assert_eq!(code(&["sh", "-c", "kill -TERM $$"]), 143);
    let missing = ended(supervise(&["no-such-program"]));
    assert_eq!(missing.code, 127);
    assert!(missing.err.contains("no-such-program"), "{}", missing.err);
    assert_eq!(code(&["/"]), 126);
}

#[test]
fn the_programs_output_and_arguments_are_its_own() {
    let ran = ended(supervise(&["sh", "-c", "echo \"$0 $1\"; echo oops >&2", "a b", "--help"]));
    assert_eq!((ran.code, ran.out.as_str()), (0, "a b --help\n"));
    assert!(ran.err.contains("oops"), "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_reach_the_program_once_and_its_answer_is_the_exit_code() {
    for (signal, name) in [(Signal::TERM, "TERM"), (Signal::INT, "INT"), (Signal::USR1, "USR1")] {
        let script = format!(
            "trap 'echo got; n=$((n+1))' {name}; echo ready >&2; \
             i=0; while [ $i -lt 100 ]; do [ -n \"$n\" ] && i=$((i+10)); sleep 0.02; i=$((i+0)); done; \
             exit $((40+n))"
        );
        let mut process = Process::of(supervise(&["sh", "-c", &script]));
        process.says("ready").await;
        process.signal(signal);
        assert_eq!(process.status().await.code(), Some(41), "{name}: {}", process.err());
        assert_eq!(process.out(), "got\n", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_are_reaped_while_the_program_runs_and_killed_when_it_ends() {
    // Two grandchildren whose parent has ended: one ends at once, the other runs for 1,000 s.
    let script = "(sleep 0.01 & echo short $! >&2); (setsid sleep 1000 & echo long $! >&2); \
                  sleep 1000";
    let mut process = Process::of(supervise(&["sh", "-c", script]));
    let pid_in = async |word: &str| {
        let line = process.says(word).await;
        Pid::from_raw(line.trim().rsplit_once(' ').unwrap().1.parse().unwrap()).unwrap()
    };
    let (short, long) = (pid_in("short").await, pid_in("long").await);
    eventually("the short one is reaped", LONG, || async {
        test_kill_process(short).is_err().then_some(())
    })
    .await;
    assert!(test_kill_process(long).is_ok());
    process.signal(Signal::TERM);
    assert_eq!(process.status().await.code(), Some(143), "{}", process.err());
    assert!(test_kill_process(long).is_err(), "nothing that it started is left");
}

/// Under this profile a successor waits 3.3 s for a leader that is not proved dead.
const STABLE: &[&str] = &["--profile", "stable"];

fn supervised(shop: &Shop, id: &str) -> Process {
    Process::of(supervised_command(shop, id, &[]))
}

/// Command of a node under its supervisor.
pub(crate) fn supervised_command(shop: &Shop, id: &str, more: &[&str]) -> Command {
    let binary = env!("CARGO_BIN_EXE_bellwether");
    let node = ["supervise", "--", binary, "run", "--id", id, "--listen", "127.0.0.1:0"];
    shop.command(&[&node, STABLE, more].concat())
}

/// Process id of the supervisor's child.
pub(crate) async fn child_of(supervisor: &Process) -> Pid {
    let line = supervisor.says("started pid=").await;
    let pid = line.split_once("pid=").unwrap().1.split(' ').next().unwrap();
    Pid::from_raw(pid.parse().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_succeeded_without_waiting_for_its_silence() {
    let shop = Shop::open().await;
    let mut nodes: Vec<(String, Process)> =
        ["1", "2", "3"].map(|id| (id.to_owned(), supervised(&shop, id))).into();
    let (first, term) = shop.leader(3, None).await;
    let at = nodes.iter().position(|(id, _)| *id == first).unwrap();
    let (_, mut leader) = nodes.remove(at);
    rustix::process::kill_process(child_of(&leader).await, Signal::KILL).unwrap();
    assert_eq!(leader.status().await.code(), Some(137), "{}", leader.err());
    let said = leader.says("ended the incarnation").await;
    assert!(said.contains("in_office=true"), "{said}");
    let (second, next) = shop.leader(2, Some(&first)).await;
    assert!(term < next);
    // The successor does not wait: it led before a timeout could have detected the dead leader.
    let successor = &nodes.iter().find(|(id, _)| *id == second).unwrap().1;
    let died = when(&said);
    let took_over = when(&successor.says("role=Leader").await);
    let gap = took_over.saturating_sub(died);
    assert!(gap < Duration::from_millis(3300), "{gap:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_leaves_when_its_supervisor_is_killed() {
    let shop = Shop::open().await;
    let node = supervised(&shop, "1");
    shop.leader(1, None).await;
    let child = child_of(&node).await;
    node.signal(Signal::KILL);
    eventually("the node is gone too", LONG, || async {
        test_kill_process(child).is_err().then_some(())
    })
    .await;
    node.says("left cleanly").await;
}

/// Time at the beginning of a log line.
pub(crate) fn when(line: &str) -> Duration {
    let time: jiff::Timestamp = line.split(' ').next().unwrap().parse().unwrap();
    Duration::from_nanos(u64::try_from(time.as_nanosecond()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_follower_costs_the_leader_nothing() {
    let shop = Shop::open().await;
    let nodes = ["1", "2"].map(|id| (id.to_owned(), supervised(&shop, id)));
    let (first, term) = shop.leader(2, None).await;
    let (_, follower) = nodes.iter().find(|(id, _)| *id != first).unwrap();
    rustix::process::kill_process(child_of(follower).await, Signal::KILL).unwrap();
    let said = follower.says("ended the incarnation").await;
    assert!(said.contains("in_office=false"), "{said}");
    assert_eq!(shop.leader(1, None).await, (first, term));
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_to_the_supervisor_ends_the_node_cleanly() {
    let shop = Shop::open().await;
    let mut node = supervised(&shop, "1");
    shop.leader(1, None).await;
    node.signal(Signal::TERM);
    assert_eq!(node.status().await.code(), Some(0), "{}", node.err());
    assert!(node.err().contains("left cleanly"), "{}", node.err());
    assert_eq!(shop.ask(&["nodes", "-o", "json"]).out.trim(), "[]");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_programs_incarnation_is_left_alone_while_something_it_started_lives_on() {
    // No process of a test can resist SIGKILL, so the test checks the order: all processes are dead first.
    let shop = Shop::open().await;
    let binary = env!("CARGO_BIN_EXE_bellwether");
    let script = format!(
        "(setsid sleep 1000 & echo grandchild $! >&2); exec {binary} run --id 1 --listen 127.0.0.1:0"
    );
    let mut node = Process::of(shop.command(&["supervise", "--", "sh", "-c", &script]));
    let line = node.says("grandchild").await;
    let grandchild = line.trim().rsplit_once(' ').unwrap().1.parse().unwrap();
    let grandchild = Pid::from_raw(grandchild).unwrap();
    shop.leader(1, None).await;
    rustix::process::kill_process(child_of(&node).await, Signal::KILL).unwrap();
    node.says("ended the incarnation").await;
    assert!(test_kill_process(grandchild).is_err(), "it was killed before");
    assert_eq!(node.status().await.code(), Some(137));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_cannot_reach_etcd_gives_up_in_time_and_says_so() {
    let shop = Shop::open().await;
    let mut command = shop.command(&["supervise", "--end-within", "500ms", "--"]);
    command.args([env!("CARGO_BIN_EXE_bellwether"), "run", "--id", "1", "--listen", "127.0.0.1:0"]);
    let mut node = Process::of(command);
    shop.leader(1, None).await;
    shop.etcd.kill(0);
    rustix::process::kill_process(child_of(&node).await, Signal::KILL).unwrap();
    assert_eq!(node.status().await.code(), Some(137), "{}", node.err());
    assert!(node.err().contains("its lease has to run out"), "{}", node.err());
}
