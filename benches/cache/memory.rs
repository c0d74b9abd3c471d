//! Resident memory per cached object, ours beside kube-runtime's reflector. A process each: what one has
//! freed would be counted short for the next.

use std::{fs, process::Command, time::Duration};

use bellwether::{
    k8s::{
        cache::Scope,
        fence::ElectionRef,
        k8s_openapi::api::core::v1::ConfigMap,
        kube::{
            Api,
            runtime::{WatchStreamExt as _, reflector, watcher},
        },
        operator::Operator,
    },
    node::StandaloneNode,
};
use futures::StreamExt as _;

use crate::{OBJECTS, scripted::Objects, support::eventually};

const COMMAND: &str = "measure-memory";

/// What this process is to measure, if it was started for that.
pub(crate) fn asked() -> Option<String> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    (args.first()? == COMMAND).then(|| args[1].clone())
}

/// Measures in a process of its own.
pub(crate) fn in_a_process(what: &str) -> f64 {
    let own = std::env::current_exe().unwrap();
    let output = Command::new(own).args([COMMAND, what]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

/// Prints resident bytes per object.
pub(crate) async fn measure(what: &str) {
    let objects = Objects::new(OBJECTS);
    let client = objects.client(None);
    let before = resident();
    let after = match what {
        "ours" => {
            let node = StandaloneNode::builder().id(0).cluster("bench");
            let election = ElectionRef { namespace: "default".into(), cluster: "bench".into() };
            let mut operator = Operator::new(node, client, election);
            let cache = operator.cache::<ConfigMap>(&(), &Scope::all());
            let begun = operator.build().unwrap().begin();
            until(|| cache.len()).await;
            let after = resident();
            begun.end().await;
            after
        }
        "reflector" => {
            let (store, writer) = reflector::store::<ConfigMap>();
            let config = watcher::Config::default().streaming_lists();
            let mut events =
                std::pin::pin!(watcher(Api::<ConfigMap>::all(client), config).reflect(writer));
            tokio::select! {
                () = until(|| store.len()) => {}
                () = async { while events.next().await.is_some() {} } => unreachable!(),
            }
            resident()
        }
        other => panic!("nothing is called {other}"),
    };
    println!("{}", (after - before) / OBJECTS as f64);
}

async fn until(count: impl Fn() -> usize) {
    eventually("all are cached", Duration::from_secs(300), async || {
        (count() == OBJECTS).then_some(())
    })
    .await;
}

/// Resident memory of this process in bytes.
fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0
}
