//! Pictures of realistic clusters, which tests show on the page.

use std::time::{SystemTime, UNIX_EPOCH};

use bellwether::{
    engine::{Holder, LeaseId, NodeId, Revision, Role, Term},
    node::status::{
        Kind, LeaderStatus, NodeStatus, Reign, ReignEnd, SelfStatus, Status, StoreStatus,
        WorkStatus,
    },
};
use serde_json::{Value, json};

#[expect(clippy::disallowed_methods, reason = "a test's own clock")]
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// Three nodes in one process, node 1 leads after two handovers, a shard is moving, one of twelve checks is
/// down and one manifest is invalid: as `bellwether demo` shows after a while.
pub(crate) fn demo() -> Value {
    let at = now_ms();
    let own: Vec<Status> = (0..3).map(|id| status_of(id, at)).collect();
    let mut picture = serde_json::to_value(&own[0]).unwrap();
    picture["siblings"] = serde_json::to_value(&own).unwrap();
    picture["checks"] = checks(at);
    picture
}

/// A follower among four nodes on etcd: one of the others is a node of the Go package, one is draining.
pub(crate) fn follower() -> Value {
    let at = now_ms();
    let mut status = status_of(2, at);
    status.cluster = "shop".to_owned();
    let mut go = node(3, at - 86_400_000 * 4, 0, Some(2));
    go.kind = Kind::Go;
    status.nodes.push(go);
    status.nodes[0].draining = true;
    status.store = StoreStatus {
        kind: "etcd".to_owned(),
        endpoint: "https://etcd-0.etcd.shop.svc:2379".to_owned(),
        healthy: true,
        problem: None,
        revision: Revision(48_817),
        view_age_ms: 41,
    };
    let mut picture = serde_json::to_value(&status).unwrap();
    picture["checks"] = checks(at);
    picture
}

/// No node leads, the store does not answer, the node has lost its session.
pub(crate) fn outage() -> Value {
    let at = now_ms();
    let mut status = status_of(2, at);
    status.leader = None;
    let last = status.timeline.last_mut().unwrap();
    last.to_unix_ms = Some(at - 1_400);
    last.end = ReignEnd::Silent;
    status.node.joined = false;
    status.node.role = Role::Unknown;
    status.node.lease_left_ms = None;
    status.node.shard_authority_left_ms = None;
    status.node.problem = Some("the lease ran out while the store did not answer".to_owned());
    status.store.kind = "etcd".to_owned();
    status.store.healthy = false;
    status.store.endpoint = "http://10.0.0.4:2379".to_owned();
    status.store.problem = Some("did not answer keepalive within 400ms".to_owned());
    status.store.view_age_ms = 6_310;
    status.work[0].held_by.fill(None);
    status.work[0].unowned = 256;
    serde_json::to_value(&status).unwrap()
}

/// Data of a cluster that a page could mistake for markup, in every field.
pub(crate) fn hostile() -> Value {
    let nasty = "</script><img src=x onerror=\"document.title='owned'\"><b>{{js}}&amp;";
    let mut picture = demo();
    picture["cluster"] = json!(nasty);
    picture["node"]["problem"] = json!(nasty);
    picture["leader"]["id"] = json!(nasty);
    picture["leader"]["address"] = json!(nasty);
    picture["nodes"][0]["id"] = json!(nasty);
    picture["nodes"][0]["address"] = json!(nasty);
    picture["timeline"][0]["end"] = json!(nasty);
    picture["timeline"][0]["id"] = json!(nasty);
    picture["work"][0]["work"] = json!(nasty);
    picture["work"][0]["held_by"][0] = json!(nasty);
    picture["store"]["endpoint"] = json!(nasty);
    picture["store"]["problem"] = json!(nasty);
    picture["checks"]["checks"][0]["name"] = json!(nasty);
    picture["checks"]["checks"][0]["target"] = json!(nasty);
    picture["checks"]["checks"][0]["message"] = json!(nasty);
    picture["checks"]["changes"][0]["message"] = json!(nasty);
    picture["checks"]["problems"][0]["message"] = json!(nasty);
    picture
}

/// Fourteen nodes named by hashes, with IPv6 addresses, 1,024 shards and 150 checks.
pub(crate) fn large() -> Value {
    let at = now_ms();
    let hashed = |i: i64| id(4_820_113_900_771_236_001 + 997 * i);
    let mut status = status_of(0, at);
    status.cluster = "uptime-production-eu-central-1".to_owned();
    status.node.id = hashed(0);
    status.leader.as_mut().unwrap().id = hashed(1);
    for reign in &mut status.timeline {
        reign.id = hashed(reign.id.get());
    }
    status.nodes = (0..14)
        .map(|i| NodeStatus {
            id: hashed(i),
            address: format!("[2001:db8:4f2:a11::{i:x}]:9000"),
            role: role(i == 1),
            shards: if i == 1 { 0 } else { 79 },
            queue: (i != 1).then_some(i as u32 + 1),
            kind: Kind::Bellwether,
            start_unix_ms: at - 7_200_000,
            ..NodeStatus::default()
        })
        .collect();
    let holder =
        |shard: usize| Some(hashed([0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13][shard / 79]));
    let planned_for: Vec<Option<NodeId>> = (0..1024).map(holder).collect();
    let held_by = planned_for.iter().map(|id| id.map(Holder::Node)).collect();
    status.work[0] = WorkStatus { planned_for, held_by, draining: Vec::new(), ..work() };
    status.work[0].unowned = 0;
    let mut picture = serde_json::to_value(&status).unwrap();
    let mut report = checks(at);
    let model = report["checks"][0].clone();
    let rows = (0..150).map(|i| {
        let mut check = model.clone();
        check["name"] = json!(format!("tenant-{i:03}-customer-facing-frontend"));
        check["target"] = json!(format!("https://tenant-{i:03}.region-eu-central-1.customers.shop.example/very/long/health/path?deep=1"));
        check["checked_by"] = json!(hashed(i % 13));
        check
    });
    report["checks"] = rows.collect();
    report["summary"] = json!({ "up": 150, "down": 0, "unknown": 0, "total": 150 });
    picture["checks"] = report;
    picture
}

/// The expected keys with values of wrong types.
pub(crate) fn junk() -> Value {
    json!({
        "cluster": 7, "node": "x", "leader": [], "nodes": {"a": 1}, "timeline": [null, 3],
        "work": [{"work": null, "held_by": [1, {}, null], "planned_for": "no", "draining": {}}],
        "store": null, "at_unix_ms": "yesterday", "siblings": 3,
        "checks": {"summary": [], "checks": [null, {"name": {}, "latency_ms": "slow"}], "changes": 1},
    })
}

fn id(id: i64) -> NodeId {
    NodeId::new(id).unwrap()
}

fn role(leads: bool) -> Role {
    if leads { Role::Leader } else { Role::Follower }
}

fn status_of(number: i64, at: u64) -> Status {
    let leads = number == 1;
    Status {
        cluster: "demo".to_owned(),
        node: SelfStatus {
            id: id(number),
            address: format!("127.0.0.1:{}", 9000 + number),
            role: role(leads),
            joined: true,
            term: leads.then_some(Term(4711)),
            incarnation: Some(LeaseId(0x3f2a_91c0_7d5e_4b10 + number)),
            authority_left_ms: leads.then_some(842),
            shard_authority_left_ms: (!leads).then_some(if number == 0 { 2_630 } else { 1_920 }),
            lease_left_ms: Some(if leads { 4_610 } else { 3_870 }),
            lease_ttl_ms: 5_000,
            tick_ms: 50.0,
            failover_d_ms: 1_000,
            failover_h_ms: 200,
            last_tick_unix_ms: Some(at - 23),
            sessions_lost: 0,
            problem: None,
        },
        leader: Some(LeaderStatus {
            id: id(1),
            address: Some("127.0.0.1:9001".to_owned()),
            term: Term(4711),
            last_beat_unix_ms: Some(at - 60),
            suspended: false,
        }),
        nodes: vec![
            node(0, at - 1_284_000, 128, Some(1)),
            node(1, at - 1_283_000, 0, None),
            node(2, at - 512_000, 127, Some(3)),
        ],
        timeline: timeline(at),
        work: vec![work()],
        store: StoreStatus {
            kind: "memory".to_owned(),
            endpoint: String::new(),
            healthy: true,
            problem: None,
            revision: Revision(10_482),
            view_age_ms: 12,
        },
        at_unix_ms: at,
    }
}

fn node(number: i64, start: u64, shards: u32, queue: Option<u32>) -> NodeStatus {
    NodeStatus {
        id: id(number),
        address: format!("127.0.0.1:{}", 9000 + number),
        role: role(number == 1),
        start_unix_ms: start,
        incarnation: Some(LeaseId(0x3f2a_91c0_7d5e_4b10 + number)),
        kind: Kind::Bellwether,
        shards,
        draining: false,
        queue,
    }
}

fn timeline(at: u64) -> Vec<Reign> {
    let reign = |term, node, from: u64, to: Option<u64>, end| Reign {
        term: Term(term),
        id: id(node),
        from_unix_ms: at - from,
        to_unix_ms: to.map(|to| at - to),
        end,
    };
    vec![
        reign(12, 0, 1_284_000, Some(1_021_000), ReignEnd::Ended),
        reign(2217, 1, 1_020_998, Some(771_000), ReignEnd::Ended),
        reign(3015, 2, 770_996, Some(513_300), ReignEnd::Silent),
        reign(3408, 0, 512_240, Some(252_003), ReignEnd::Ended),
        reign(4711, 1, 252_000, None, ReignEnd::Running),
    ]
}

fn work() -> WorkStatus {
    let owner = |shard: usize| Some(id(if shard < 128 { 0 } else { 2 }));
    let mut planned_for: Vec<Option<NodeId>> = (0..256).map(owner).collect();
    let mut held_by: Vec<Option<Holder>> =
        planned_for.iter().map(|id| id.map(Holder::Node)).collect();
    held_by[131] = None;
    planned_for[40] = Some(id(2));
    planned_for[41] = Some(id(2));
    WorkStatus {
        work: "uptime".to_owned(),
        held_by,
        planned_for,
        draining: vec![40, 41],
        unowned: 1,
    }
}

fn checks(at: u64) -> Value {
    let rows = [
        ("api", "shop", "http", "https://api.shop.example/healthz", "up", 18.4),
        ("checkout", "shop", "http", "https://checkout.shop.example/healthz", "down", 5000.0),
        ("search", "shop", "http", "https://search.shop.example/healthz", "up", 41.9),
        ("storefront", "shop", "http", "https://shop.example/", "up", 63.2),
        ("mail", "infra", "tcp", "mail.shop.example:587", "up", 7.1),
        ("postgres", "infra", "tcp", "pg-0.db.svc:5432", "up", 0.8),
        ("postgres-replica", "infra", "tcp", "pg-1.db.svc:5432", "up", 0.9),
        ("redis", "infra", "tcp", "redis.cache.svc:6379", "up", 0.6),
        ("dns-apex", "infra", "dns", "shop.example A", "up", 3.3),
        ("dns-mx", "infra", "dns", "shop.example MX", "up", 2.9),
        ("payments", "partners", "http", "https://sandbox.payments.example/v2/ping", "up", 118.0),
        ("courier", "partners", "http", "https://courier.example/api/status", "unknown", 0.0),
    ];
    let checks: Vec<Value> = rows
        .iter()
        .enumerate()
        .map(|(i, (name, namespace, kind, target, state, latency))| {
            let i = i as u64;
            json!({
                "name": name, "namespace": namespace, "kind": kind, "target": target, "state": state,
                "latency_ms": (*state != "unknown").then_some(*latency),
                "checked_by": (*state != "unknown").then_some(if i.is_multiple_of(2) { "0" } else { "2" }),
                "last_run_unix_ms": (*state != "unknown").then_some(at - 900 - i * 310),
                "last_change_unix_ms": (*state != "unknown").then_some(at - if *state == "down" { 74_000 } else { 1_200_000 + i * 977_000 }),
                "message": if *state == "down" { "no answer within 5 s (expected status 200)" } else { "" },
                "shard": (i * 37 + 11) % 256, "interval_ms": 10_000,
            })
        })
        .collect();
    json!({
        "summary": { "up": 10, "down": 1, "unknown": 1, "total": 12 },
        "checks": checks,
        "changes": [
            { "at_unix_ms": at - 74_000, "name": "shop/checkout", "from": "up", "to": "down", "message": "no answer within 5 s (expected status 200)" },
            { "at_unix_ms": at - 411_000, "name": "infra/mail", "from": "down", "to": "up", "message": "" },
            { "at_unix_ms": at - 436_000, "name": "infra/mail", "from": "up", "to": "down", "message": "connection refused" },
        ],
        "problems": [
            { "file": "checks/partners.yaml", "line": 31, "field": "spec.interval", "message": "'2 parsecs' is not a duration; write 10s, 1m or 500ms" },
        ],
    })
}
