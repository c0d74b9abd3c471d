//! Three pods, and the leader disturbed again and again while objects come, change and go.
//!
//! A seed says what is done to whom and when; it is printed. `BELLWETHER_CHAOS_SEED` replays the same
//! decisions (not the same interleaving: the servers and processes are real), `BELLWETHER_CHAOS_ROUNDS` says
//! how many disturbances there are.
//!
//! # What is proved, and how
//!
//! *Order.* The API server keeps all objects in one etcd, and an object's `metadata.resourceVersion` is the
//! revision of the write that made it so: the resource versions in the server's **answers** order all
//! successful writes of all replicas totally, whenever they were sent or logged. (The audit log is flushed
//! before the client is answered, so no successful write is missing from it.)
//!
//! *Whose.* Each replica writes as a user of its own. Each leader draws a fence by a write to the `Election`'s
//! status that only sets `fence`: so the audit log holds every draw with its author, its number and
//! its place in that order. A write belongs to the last fence that its author has drawn before it.
//!
//! *Claim.* Draws grow. And for every object: once a leader has written it, no write of an earlier fence to
//! it succeeds. For what a late write finds is another resource version than the one it was made from. A write
//! that comes late from an earlier term of the *same* replica counts as one of its later term; its
//! precondition fails in the same way, and a replica does not race with itself. The `Election` itself is
//! written beside the controllers and says by which term: terms never go back.
//!
//! *Checks.* Four checks that nobody changes ask one listener each, and the listener notes when it is asked:
//! what counts is that the target was really asked, not what a status says.

use std::{
    collections::{BTreeMap, HashMap},
    env, fs,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use bellwether::{
    clock,
    engine::BootTime,
    k8s::{
        crd::{Election, UptimeCheck, uptime_check::State},
        election::ROLE_LABEL,
        k8s_openapi::api::core::v1::Pod,
        kube::{
            Api, Client, ResourceExt,
            api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
        },
    },
    tasks,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, from_value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    binary::{Process, bellwether},
    controllers::server,
    kube::{Space, User, Written},
    rbac::documented_rules,
    support::{
        etcd::{Etcd, free_ports},
        proxy::{Fault, Proxy},
    },
};

const LONG: Duration = Duration::from_secs(90);
/// Between looks at the API: these tests share two cores with what they watch.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const TTL: Duration = Duration::from_secs(3);
/// Far longer than it takes to depose a leader.
const MISSED_AFTER: Duration = Duration::from_secs(10);
/// Of the checks that nobody changes.
const INTERVAL: Duration = Duration::from_secs(1);
/// What may pass beyond the interval when the leader is lost: until it is deposed (1.1 s), until its keys
/// are gone (the TTL), one drain of shards, and what a loaded machine takes for restarts. A check that is
/// lost until somebody looks again (a resync, a minute) is far above it.
const FAILOVER_MOST: Duration = Duration::from_secs(15);

/// What is done to the leader.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Blow {
    /// SIGKILL of the node; its parent sees it and ends its lease.
    Kill,
    /// SIGKILL of the parent and the node: nobody ends anything.
    KillBoth,
    /// SIGSTOP of both for so long, then SIGCONT.
    Freeze(Duration),
    /// Nothing reaches etcd or comes from there for so long.
    CutEtcd(Duration),
    /// The same for the API server; it goes on leading.
    CutApi(Duration),
    /// Both; the API server comes back first, with all that was sent to it meanwhile.
    CutBoth(Duration),
    /// What it writes is held on its way; it is frozen, deposed, and only then does the API server get what it
    /// had written: a write that is late for certain, and that nobody calls back.
    Late,
    /// SIGTERM.
    End,
}

impl Blow {
    fn draw(rng: &mut StdRng) -> Self {
        let beyond_d = Duration::from_millis(rng.random_range(1_300..2_200));
        let beyond_ttl = TTL + Duration::from_millis(rng.random_range(500..1_500));
        match rng.random_range(0..100) {
            0..20 => Self::Kill,
            20..38 => Self::KillBoth,
            38..52 => Self::Freeze(beyond_d),
            52..58 => Self::Freeze(beyond_ttl),
            58..68 => Self::CutEtcd(beyond_d),
            68..72 => Self::CutEtcd(beyond_ttl),
            72..80 => Self::CutApi(beyond_d),
            80..84 => Self::CutBoth(beyond_d),
            84..93 => Self::Late,
            _ => Self::End,
        }
    }

    /// Whether the office changes hands by it.
    fn deposes(self) -> bool {
        !matches!(self, Self::CutApi(_))
    }
}

/// One replica, its user, and the proxies that it reaches the servers by.
struct Replica {
    ordinal: u32,
    uid: String,
    user: User,
    etcd: Proxy,
    api: Proxy,
    process: Option<Process>,
}

impl Replica {
    fn parent(&self) -> Pid {
        self.process.as_ref().unwrap().pid()
    }

    /// The node itself: the one child of `supervise`.
    fn node(&self) -> Option<Pid> {
        let parent = self.parent().as_raw_nonzero();
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
        Pid::from_raw(children.split_whitespace().next()?.parse().ok()?)
    }

    fn both(&self, signal: Signal) {
        // The parent first: what it would do about a dead child it does not do.
        let node = self.node();
        let _ = kill_process(self.parent(), signal);
        if let Some(node) = node {
            let _ = kill_process(node, signal);
        }
    }
}

/// The cluster that is disturbed.
struct Scene {
    space: Space<'static>,
    client: Client,
    etcd: Etcd,
    replicas: Vec<Replica>,
}

impl Scene {
    async fn new() -> Self {
        let api = server().await;
        let space = api.namespace("chaos").await;
        let client = space.bulk_client();
        let etcd = Etcd::start().await;
        let mut scene = Self { space, client, etcd, replicas: Vec::new() };
        for ordinal in 0..3 {
            let name = format!("bellwether-{ordinal}");
            let pod: Pod = from_value(json!({
                "metadata": { "name": name },
                "spec": { "containers": [{ "name": "bellwether", "image": "bellwether" }] },
            }))
            .unwrap();
            let pods = Api::<Pod>::default_namespaced(scene.client.clone());
            let made = pods.create(&PostParams::default(), &pod).await.unwrap();
            let user = scene.space.user(&name, documented_rules()).await;
            let replica = Replica {
                ordinal,
                uid: made.uid().unwrap(),
                user,
                etcd: Proxy::to(scene.etcd.address(0)).await,
                api: Proxy::to(api.address()).await,
                process: None,
            };
            scene.replicas.push(replica);
            scene.start(usize::try_from(ordinal).unwrap());
        }
        scene
    }

    /// Runs what the pod's container would.
    fn start(&mut self, at: usize) {
        let command = self.command(&self.replicas[at]);
        self.replicas[at].process = Some(Process::of(command));
    }

    fn command(&self, replica: &Replica) -> Command {
        let api = self.space.api;
        let file = api.kubeconfig(&self.space.name, Some(&replica.user.name));
        let proxied = fs::read_to_string(&file)
            .unwrap()
            .replace(&api.url(), &format!("https://{}", replica.api.address()));
        fs::write(&file, proxied).unwrap();
        let mut command = bellwether(["supervise", "--", env!("CARGO_BIN_EXE_bellwether"), "run"]);
        command
            .env("BELLWETHER_CLUSTER", "shop")
            .env("BELLWETHER_ETCD", format!("http://{}", replica.etcd.address()))
            .env("BELLWETHER_TTL", format!("{}s", TTL.as_secs()))
            .env("BELLWETHER_LISTEN", "127.0.0.1:0")
            .env("BELLWETHER_KUBERNETES", "on")
            .env("BELLWETHER_KUBECONFIG", file)
            .env("POD_NAME", format!("bellwether-{}", replica.ordinal))
            .env("POD_NAMESPACE", &self.space.name)
            .env("POD_UID", &replica.uid)
            .env("POD_IP", "127.0.0.1")
            .env("NODE_NAME", "machine")
            .env("POD_INDEX", replica.ordinal.to_string());
        command
    }

    /// What the `Election` says once it satisfies that.
    async fn election(&self, what: &str, is: impl Fn(&Told) -> bool) -> Told {
        let elections = Api::<Election>::default_namespaced(self.client.clone());
        let begun = clock::boot_now();
        loop {
            let told = elections.get_opt("shop").await.unwrap().and_then(|it| Told::of(&it));
            match told {
                Some(told) if is(&told) => return told,
                told => {
                    let waited = clock::boot_now().since(begun);
                    assert!(waited < LONG, "{what}: not within {LONG:?}; it says {told:?}");
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Disturbs the leader, and returns when another leads and all three are there again.
    async fn disturb(&mut self, blow: Blow, before: Told) -> Told {
        let at = before.leader;
        match blow {
            Blow::Kill => {
                if let Some(node) = self.replicas[at].node() {
                    let _ = kill_process(node, Signal::KILL);
                }
                self.ended(at).await;
                self.start(at);
            }
            Blow::KillBoth => {
                self.replicas[at].both(Signal::KILL);
                self.ended(at).await;
                self.start(at);
            }
            Blow::End => {
                self.replicas[at].process.as_ref().unwrap().signal(Signal::TERM);
                self.ended(at).await;
                self.start(at);
            }
            Blow::Freeze(span) => {
                self.replicas[at].both(Signal::STOP);
                tokio::time::sleep(span).await;
                self.replicas[at].both(Signal::CONT);
            }
            Blow::CutEtcd(span) => {
                self.replicas[at].etcd.set(Fault::Blackhole);
                tokio::time::sleep(span).await;
                self.replicas[at].etcd.set(Fault::None);
            }
            Blow::CutApi(span) => {
                self.replicas[at].api.set(Fault::Blackhole);
                tokio::time::sleep(span).await;
                self.replicas[at].api.set(Fault::None);
            }
            Blow::Late => {
                self.replicas[at].api.set(Fault::CutToServer);
                tokio::time::sleep(Duration::from_millis(500)).await;
                self.replicas[at].both(Signal::STOP);
                self.successor(before.term).await;
                // It writes what it finds undone, among it what is held.
                tokio::time::sleep(Duration::from_secs(1)).await;
                self.replicas[at].api.set(Fault::None);
                tokio::time::sleep(Duration::from_millis(300)).await;
                self.replicas[at].both(Signal::CONT);
            }
            Blow::CutBoth(span) => {
                self.replicas[at].api.set(Fault::Blackhole);
                // What it writes from now on is on its way when it is deposed.
                tokio::time::sleep(Duration::from_millis(300)).await;
                self.replicas[at].etcd.set(Fault::Blackhole);
                self.successor(before.term).await;
                self.replicas[at].api.set(Fault::None);
                tokio::time::sleep(span / 2).await;
                self.replicas[at].etcd.set(Fault::None);
            }
        }
        if blow.deposes() {
            self.successor(before.term).await;
        }
        self.all_are_there().await
    }

    /// What has ended by itself (its id was still taken by its earlier life, say) is started again, as kubelet
    /// does.
    async fn all_are_there(&mut self) -> Told {
        let begun = clock::boot_now();
        loop {
            for at in 0..self.replicas.len() {
                let process = self.replicas[at].process.as_mut().unwrap();
                let ended = tokio::time::timeout(LOOK_EVERY, process.status()).await.is_ok();
                if ended {
                    self.ended(at).await;
                    self.start(at);
                }
            }
            let waiting = self.election("all are there", |now| now.nodes == 3);
            if let Ok(told) = tokio::time::timeout(Duration::from_secs(2), waiting).await {
                return told;
            }
            assert!(clock::boot_now().since(begun) < LONG, "not all are there again");
        }
    }

    /// Waits for a later term. If the office had changed hands just before, by itself, the blow has met a
    /// follower and there is none: such misses are few, which is asserted in the end.
    async fn successor(&self, term: i64) {
        let later = self.election("a successor", |now| term < now.term);
        let _ = tokio::time::timeout(MISSED_AFTER, later).await;
    }

    /// In the end the leader's pod, and no other, is what a Service for the leader selects.
    async fn one_pod_is_labelled(&self) {
        let pods = Api::<Pod>::default_namespaced(self.client.clone());
        let selector = ListParams::default().labels(&format!("{ROLE_LABEL}=leader"));
        let begun = clock::boot_now();
        loop {
            let leader = self.election("a leader", |_| true).await.leader;
            let found = pods.list(&selector).await.unwrap();
            let found: Vec<_> = found.iter().map(ResourceExt::name_any).collect();
            if found == [format!("bellwether-{leader}")] {
                return;
            }
            let waited = clock::boot_now().since(begun);
            assert!(waited < LONG, "{leader} leads, and these are labelled: {found:?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// It may end as it likes; it may have been told to by others just before.
    async fn ended(&mut self, at: usize) {
        let mut process = self.replicas[at].process.take().unwrap();
        process.status().await;
        let said = process.err();
        assert!(!said.contains("panicked"), "{said}");
    }

    fn checks(&self) -> Api<UptimeCheck> {
        Api::default_namespaced(self.client.clone())
    }
}

/// What matters of an `Election`.
#[derive(Clone, Copy, Debug)]
struct Told {
    leader: usize,
    /// The term that it leads in: told together with its name.
    term: i64,
    nodes: i32,
}

impl Told {
    /// None before a leader has told of itself.
    fn of(election: &Election) -> Option<Self> {
        let status = election.status.as_ref()?;
        let leader = usize::try_from(status.leader.as_ref()?.node).ok()?;
        Some(Self { leader, term: status.term?, nodes: status.node_count })
    }
}

/// A target that notes when it is asked.
struct Target {
    port: u16,
    asked: Arc<Mutex<Vec<BootTime>>>,
}

impl Target {
    async fn open() -> Self {
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

    /// The longest time that it was not asked for, since it was first asked.
    fn longest_silence(&self) -> Duration {
        let mut asked = self.asked.lock().unwrap().clone();
        assert!(!asked.is_empty(), "it was never asked");
        asked.push(clock::boot_now());
        asked.windows(2).map(|pair| pair[1].since(pair[0])).max().unwrap()
    }

    fn times(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

fn spec(port: u16) -> Value {
    json!({ "interval": "1s", "target": { "tcp": { "host": "127.0.0.1", "port": port } } })
}

async fn make(checks: &Api<UptimeCheck>, name: &str, port: u16) {
    let check: UptimeCheck = from_value(json!({
        "apiVersion": "bellwether.dev/v1alpha1",
        "kind": "UptimeCheck",
        "metadata": { "name": name },
        "spec": spec(port),
    }))
    .unwrap();
    checks.create(&PostParams::default(), &check).await.unwrap();
}

/// The objects that the stream has left behind, with the state that each must end in.
type Expected = BTreeMap<String, State>;

/// Creates, changes and deletes until it is cancelled.
async fn stream(
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

/// Waits until every object is as it must be.
async fn settle(checks: &Api<UptimeCheck>, expected: &Expected) {
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

/// A successful write of a replica, in its place in the order of all.
struct Done {
    version: u64,
    user: String,
    object: String,
    /// The fence that it draws, if it does.
    draws: Option<i64>,
    /// The term that it tells, if it is of the `Election`.
    term: Option<i64>,
}

impl Done {
    fn of(write: &Written, users: &[String]) -> Option<Self> {
        let succeeded = (200..300).contains(&write.code) && users.contains(&write.user);
        // Events are about others: each is made once, and its series is counted by whoever made it. Labels of
        // pods are judged by what they are in the end.
        if !succeeded || !["uptimechecks/status", "elections/status"].contains(&&*write.resource) {
            return None;
        }
        let version =
            write.response.pointer("/metadata/resourceVersion")?.as_str()?.parse().ok()?;
        let object = format!("{}/{}", write.resource.split('/').next()?, write.name);
        let status = write.request.get("status").and_then(Value::as_object);
        let draws = status.filter(|it| it.len() == 1).and_then(|it| it.get("fence")?.as_i64());
        let term = status.and_then(|it| it.get("term")?.as_i64());
        Some(Self { version, user: write.user.clone(), object, draws, term })
    }
}

/// # Panics
///
/// If a fence does not grow, or an object was written by an earlier fence after a later one.
fn assert_no_late_write(writes: &[Written], users: &[String]) -> (usize, usize) {
    let mut done: Vec<Done> = writes.iter().filter_map(|it| Done::of(it, users)).collect();
    done.sort_by_key(|it| it.version);
    let mut drawn: HashMap<String, i64> = HashMap::new();
    let mut by_object: HashMap<String, (i64, String, u64)> = HashMap::new();
    let (mut last, mut draws, mut term) = (0, 0, 0);
    for write in &done {
        if let Some(fence) = write.draws {
            assert!(last < fence, "fence {fence} was drawn after {last}");
            (last, draws) = (fence, draws + 1);
            drawn.insert(write.user.clone(), fence);
        }
        if write.draws.is_some() {
            continue;
        }
        if let Some(told) = write.term {
            // The Election is told of beside the controllers: it says by which term.
            assert!(term <= told, "the Election was written by term {told} after {term}");
            term = told;
            continue;
        }
        let fence = drawn.get(&write.user).copied().expect("no reconcile without a fence");
        let before = by_object.get(&write.object);
        if let Some((later, other, version)) = before {
            assert!(
                *later <= fence,
                "{} was written by {} with fence {fence} (version {}) after {other} had with fence \
                 {later} (version {version})",
                write.object,
                write.user,
                write.version,
            );
        }
        by_object.insert(write.object.clone(), (fence, write.user.clone(), write.version));
    }
    (done.len(), draws)
}

fn number(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |it| it.parse().expect("a whole number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn however_the_leader_is_disturbed_nobody_writes_late_and_all_ends_right() {
    let seed = number("BELLWETHER_CHAOS_SEED", rand::random_range(0..1_000_000));
    let rounds = number("BELLWETHER_CHAOS_ROUNDS", 50);
    println!("BELLWETHER_CHAOS_SEED={seed} BELLWETHER_CHAOS_ROUNDS={rounds}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut scene = Box::pin(Scene::new()).await;
    scene.election("three nodes", |it| it.nodes == 3).await;

    let mut steady = Vec::new();
    for at in 0..4 {
        let target = Target::open().await;
        make(&scene.checks(), &format!("steady-{at}"), target.port).await;
        steady.push(target);
    }
    let (open, closed) = (Target::open().await, free_ports(1)[0].port());
    let stop = CancellationToken::new();
    let streaming = stream(scene.checks(), seed, (open.port, closed), stop.clone());
    let streaming = tasks::spawn("stream", streaming);

    let mut blows: BTreeMap<String, usize> = BTreeMap::new();
    for round in 0..rounds {
        let blow = Blow::draw(&mut rng);
        let begun = clock::boot_now();
        let told = scene.all_are_there().await;
        let told = scene.disturb(blow, told).await;
        let took = clock::boot_now().since(begun);
        println!("{round}: {blow:?} in {took:?}; term {}, {} leads", told.term, told.leader);
        let name = format!("{blow:?}");
        *blows.entry(name.split('(').next().unwrap().to_owned()).or_default() += 1;
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..400))).await;
    }
    stop.cancel();
    let (expected, changes) = streaming.await.unwrap();
    settle(&scene.checks(), &expected).await;

    scene.one_pod_is_labelled().await;

    let users: Vec<String> = scene.replicas.iter().map(|it| it.user.name.clone()).collect();
    let (writes, draws) = assert_no_late_write(&scene.space.writes(), &users);
    let silences: Vec<_> = steady.iter().map(Target::longest_silence).collect();
    let asked: Vec<_> = steady.iter().map(Target::times).collect();
    println!(
        "{blows:?}: {changes} changes, {writes} writes of replicas, {draws} fences; checks asked {asked:?} \
         times, longest silences {silences:?}"
    );
    for silence in silences {
        assert!(silence < INTERVAL + FAILOVER_MOST, "a check was missed for {silence:?}");
    }
    // Something has happened.
    let deposed = rounds - u64::try_from(blows.get("CutApi").copied().unwrap_or(0)).unwrap();
    assert!(deposed * 4 / 5 <= u64::try_from(draws).unwrap(), "{draws} terms for {deposed} blows");
    assert!(usize::try_from(rounds).unwrap() < writes, "{writes} writes");
}
