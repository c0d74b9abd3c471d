//! Resident memory per cached object, of our cache and of kube-runtime's reflector, and of a replica that holds
//! half of the shards. Each measurement has its own process: memory that one has freed would reduce the figure
//! of the next.

use std::{
    fs,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bellwether::{
    engine::Role,
    k8s::{
        cache::{Cache, Scope},
        controller::{Action, Context, Controller, Sharded},
        fence::ElectionRef,
        k8s_openapi::api::core::v1::ConfigMap,
        kube::{
            Api,
            runtime::{WatchStreamExt as _, reflector, watcher},
        },
        operator::Operator,
    },
    node::ClusterNode,
    store::memory::MemoryStore,
};
use futures::StreamExt as _;

use crate::{OBJECTS, common::LONG, replicas::Replica, scripted::Objects, support::eventually};

const COMMAND: &str = "measure-memory";

/// The measurement that this process was started for, if any.
pub(crate) fn asked() -> Option<String> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    (args.first()? == COMMAND).then(|| args[1].clone())
}

/// Runs a measurement in a process of its own.
pub(crate) fn in_a_process(what: &str) -> f64 {
    let own = std::env::current_exe().unwrap();
    let output = Command::new(own).args([COMMAND, what]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

/// Prints resident bytes per object; for a replica that holds half of the shards, per existing object.
pub(crate) async fn measure(what: &str) {
    let objects = Objects::new(OBJECTS);
    if let "filtered-by-server" | "filtered-here" = what {
        let objects = if what == "filtered-by-server" { objects.filtered() } else { objects };
        println!("{}", of_half(objects).await / OBJECTS as f64);
        return;
    }
    let client = objects.client(None);
    let before = resident();
    let after = match what {
        "ours" => {
            let node = ClusterNode::standalone().id(0).cluster("bench");
            let election = ElectionRef { namespace: "default".into(), cluster: "bench".into() };
            let mut operator = Operator::new(node, client, election);
            let cache = operator.cache::<ConfigMap>(&(), &Scope::all());
            // Only the caches run: the node does not join.
            let operator =
                operator.with_host(|host| host.before_joining(|_| std::future::pending()));
            tokio::select! {
                ended = operator.run(std::future::pending()) => panic!("it ended: {ended:?}"),
                () = until(|| cache.len()) => resident(),
            }
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

/// Resident memory of a replica that holds half of the shards, one of two followers: the other one sees no
/// objects.
async fn of_half(objects: Objects) -> f64 {
    let (store, none) = (MemoryStore::new(), Objects::new(0));
    let runs = Arc::new(AtomicUsize::new(0));
    let cache = Arc::new(Mutex::new(None));
    let work = || {
        let (runs, cache) = (Arc::clone(&runs), Arc::clone(&cache));
        let controller = Controller::new(move |_: Arc<ConfigMap>, ctx: Context| {
            runs.fetch_add(1, Relaxed);
            *cache.lock().unwrap() = ctx.cache::<ConfigMap>();
            async { Ok(Action::done()) }
        })
        .at_once(8);
        Sharded::new(controller).shards(16)
    };
    let leader = Replica::start(&store, none.client(None), 0, |it| it.shards(work())).await;
    let mut membership = leader.node.membership();
    membership.wait_for(|it| it.role == Role::Leader).await.unwrap();
    let other = Replica::start(&store, none.client(None), 1, |it| it.shards(work())).await;
    let before = resident();
    let half = Replica::start(&store, objects.client(None), 2, |it| it.shards(work())).await;
    let kept = || cache.lock().unwrap().as_ref().map_or(0, |it: &Cache<ConfigMap>| it.len());
    eventually("a half of them is kept, and all of it was looked at", LONG, async || {
        let kept = kept();
        (OBJECTS * 2 / 5..OBJECTS * 3 / 5).contains(&kept).then_some(())?;
        (kept <= runs.load(Relaxed)).then_some(())
    })
    .await;
    let after = resident();
    for replica in [half, other, leader] {
        replica.stop().await;
    }
    after - before
}

async fn until(count: impl Fn() -> usize) {
    eventually("all are cached", Duration::from_secs(300), async || {
        (count() == OBJECTS).then_some(())
    })
    .await;
}

/// Resident memory of this process in bytes.
pub(crate) fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0
}
