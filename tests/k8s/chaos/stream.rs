//! Checks that are created, changed and deleted, and targets that note when they are probed.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bellwether::{
    clock,
    engine::BootTime,
    k8s::kube::{
        Api, ResourceExt as _,
        api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    },
    operator::uptime::crd::{State, UptimeCheck},
    tasks,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, from_value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{LONG, LOOK_EVERY};

/// Target that notes when it is probed.
pub(super) struct Target {
    pub(super) port: u16,
    asked: Arc<Mutex<Vec<BootTime>>>,
}

/// Span in which a target was not probed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Silence {
    pub(super) begun: BootTime,
    pub(super) ended: BootTime,
}

impl Silence {
    pub(super) fn lasted(self) -> Duration {
        self.ended.since(self.begun)
    }

    /// How much of this silence lies in that span.
    pub(super) fn within(self, (begun, ended): (BootTime, BootTime)) -> Duration {
        self.ended.min(ended).since(self.begun.max(begun))
    }
}

impl Target {
    pub(super) async fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked: Arc<Mutex<Vec<BootTime>>> = Arc::default();
        let noted = Arc::clone(&asked);
        drop(tasks::spawn("target", async move {
            while listener.accept().await.is_ok() {
                noted.lock().unwrap().push(clock::boot_now());
            }
        }));
        Self { port, asked }
    }

    /// Spans between two probes, from the first probe on until now.
    pub(super) fn silences(&self) -> Vec<Silence> {
        let mut asked = self.asked.lock().unwrap().clone();
        assert!(!asked.is_empty(), "it was never asked");
        asked.push(clock::boot_now());
        let pairs = asked.windows(2);
        pairs.map(|pair| Silence { begun: pair[0], ended: pair[1] }).collect()
    }
}

fn spec(port: u16) -> Value {
    json!({ "interval": "1s", "target": { "tcp": { "host": "127.0.0.1", "port": port } } })
}

pub(super) async fn make(checks: &Api<UptimeCheck>, name: &str, port: u16) {
    let check: UptimeCheck = from_value(json!({
        "apiVersion": "bellwether.dev/v1alpha1",
        "kind": "UptimeCheck",
        "metadata": { "name": name },
        "spec": spec(port),
    }))
    .unwrap();
    checks.create(&PostParams::default(), &check).await.unwrap();
}

/// Objects that the stream has left behind, with the final state of each.
pub(super) type Expected = BTreeMap<String, State>;

/// Creates, changes and deletes checks until it is cancelled.
pub(super) async fn stream(
    checks: Api<UptimeCheck>,
    seed: u64,
    (open, closed): (u16, u16),
    stop: CancellationToken,
) -> (Expected, usize) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut live = Expected::new();
    let mut changes = 0;
    while !stop.is_cancelled() {
        changes += 1;
        let (port, state) =
            if rng.random_bool(0.5) { (open, State::Up) } else { (closed, State::Down) };
        let one = rng.random_range(0..12).to_string();
        let one = format!("check-{one}");
        let is_new = !live.contains_key(&one);
        if is_new {
            make(&checks, &one, port).await;
            live.insert(one, state);
        } else if rng.random_bool(0.2) {
            checks.delete(&one, &DeleteParams::default()).await.unwrap();
            live.remove(&one);
        } else {
            let patch = Patch::Merge(json!({ "spec": spec(port) }));
            checks.patch(&one, &PatchParams::default(), &patch).await.unwrap();
            live.insert(one, state);
        }
        let pause = Duration::from_millis(rng.random_range(20..300));
        let _ = stop.run_until_cancelled(tokio::time::sleep(pause)).await;
    }
    (live, changes)
}

/// Waits until every object has its expected state.
pub(super) async fn settle(checks: &Api<UptimeCheck>, expected: &Expected) {
    let begun = clock::boot_now();
    loop {
        let found = checks.list(&ListParams::default()).await.unwrap();
        let wrong: Vec<_> = found.iter().filter(|it| !is_right(it, expected)).collect();
        let streamed = found.iter().filter(|it| it.name_any().starts_with("check-")).count();
        if wrong.is_empty() && streamed == expected.len() {
            return;
        }
        let waited = clock::boot_now().since(begun);
        assert!(waited < LONG, "of {expected:?} these are not right: {wrong:#?}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn is_right(check: &UptimeCheck, expected: &Expected) -> bool {
    let Some(status) = &check.status else { return false };
    let state = expected.get(&check.name_any()).copied().unwrap_or(State::Up);
    let holds = |name: &str, value: &str| {
        let condition = status.conditions.iter().find(|it| it.type_ == name);
        condition.is_some_and(|it| {
            it.status == value && it.observed_generation == check.metadata.generation
        })
    };
    status.state == state
        && status.observed_generation == check.metadata.generation
        && holds("Accepted", "True")
        && holds("Up", if state == State::Up { "True" } else { "False" })
}
