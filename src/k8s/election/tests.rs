use std::{collections::BTreeMap, sync::Mutex};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

use super::{picture::*, *};
use crate::{
    engine::{Holder, LeaseId, NodeId, Role},
    k8s::{
        authority::tests::leading,
        conditions,
        crd::{condition, election::ElectionRole, value::UnixMs},
        fence::{self, Drawn},
    },
    metrics::Build,
    node::{
        KV,
        status::{LeaderStatus, NodeStatus, WorkStatus},
    },
};

const HOUR_MS: u64 = 3_600_000;

fn node(id: i64) -> NodeId {
    NodeId::new(id).unwrap()
}

/// Node 1 has led for an hour; node 2 follows and works on two of three shards; the third has no owner.
fn status() -> Status {
    let live = |id, role, shards| NodeStatus {
        id: node(id),
        address: format!("10.0.0.{id}:8080"),
        role,
        incarnation: Some(LeaseId(0xa1)),
        shards,
        ..NodeStatus::default()
    };
    Status {
        leader: Some(LeaderStatus {
            id: node(1),
            address: Some("10.0.0.1:8080".into()),
            term: Term(7),
            ..LeaderStatus::default()
        }),
        nodes: vec![live(1, Role::Leader, 0), live(2, Role::Follower, 2)],
        timeline: vec![Reign {
            term: Term(7),
            id: node(1),
            from_unix_ms: HOUR_MS,
            to_unix_ms: None,
            end: ReignEnd::Running,
        }],
        work: vec![WorkStatus {
            work: "uptime".into(),
            held_by: vec![Some(Holder::Node(node(2))), Some(Holder::Node(node(2))), None],
            draining: vec![1],
            unowned: 1,
            ..WorkStatus::default()
        }],
        ..Status::default()
    }
}

/// Only node 1 has published its pod; the value of node 2 is malformed.
fn pods() -> Pods {
    let kv = |value: &str| vec![KV { key: POD_KEY.into(), value: value.into() }];
    Pods::read(&BTreeMap::from([
        (node(1), kv(r#"{"name":"web-1","uid":"u1"}"#)),
        (node(2), kv("{")),
    ]))
}

fn holds(status: &ElectionStatus, type_: &str) -> String {
    conditions::find(&status.conditions, type_).unwrap().status.clone()
}

#[test]
fn the_picture_names_leader_nodes_and_shards() {
    let picture = picture(&status(), &pods(), None, 3 * HOUR_MS);
    let leader = picture.leader.clone().unwrap();
    assert_eq!(
        (leader.node, leader.name.as_str(), leader.address.as_str()),
        (1, "web-1", "10.0.0.1:8080")
    );
    assert_eq!(picture.node_count, Some(2));
    assert_eq!(picture.nodes[0].role, ElectionRole::Leader);
    assert_eq!(picture.nodes[1].pod, None);
    assert_eq!(picture.nodes[1].shards_owned, 2);
    let shards = picture.shards.clone().unwrap();
    assert_eq!((shards.total, shards.owned, shards.draining, shards.unowned), (3, 2, 1, 1));
    assert_eq!(holds(&picture, condition::READY), "True");
    assert_eq!(holds(&picture, condition::STABLE), "True");
    assert_eq!(holds(&picture, condition::SHARDS_OWNED), "False");
}

#[test]
fn shards_of_work_that_nobody_offers_are_neither_owned_nor_missed() {
    let mut status = status();
    let [uptime] = status.work.as_mut_slice() else { panic!("one work type") };
    (uptime.held_by[2], uptime.unowned) = (Some(Holder::Node(node(2))), 0);
    status.work.push(WorkStatus {
        work: "old".into(),
        held_by: vec![None; 4],
        ..WorkStatus::default()
    });
    let picture = picture(&status, &pods(), None, 3 * HOUR_MS);
    let shards = picture.shards.clone().unwrap();
    assert_eq!((shards.total, shards.owned, shards.unowned), (7, 3, 0));
    assert_eq!(holds(&picture, condition::SHARDS_OWNED), "True");
}

#[test]
fn a_cluster_without_a_leader_is_not_ready() {
    let nobody = Status { leader: None, ..status() };
    let picture = picture(&nobody, &pods(), None, 3 * HOUR_MS);
    assert_eq!(picture.leader, None);
    assert_eq!(holds(&picture, condition::READY), "False");
    assert_eq!(holds(&picture, condition::STABLE), "False");
}

#[test]
fn a_leader_that_has_just_begun_is_not_stable() {
    let picture = picture(&status(), &pods(), None, HOUR_MS + 1000);
    assert_eq!(holds(&picture, condition::READY), "True");
    assert_eq!(holds(&picture, condition::STABLE), "False");
}

#[test]
fn that_time_has_passed_is_no_news() {
    let before = picture(&status(), &pods(), None, 3 * HOUR_MS);
    let after = picture(&status(), &pods(), Some(&before), 3 * HOUR_MS + 5000);
    assert!(is_same_but_seen(&before, &after));
    let moved = picture(
        &Status { nodes: status().nodes[..1].to_vec(), ..status() },
        &pods(),
        Some(&before),
        3 * HOUR_MS + 5000,
    );
    assert!(!is_same_but_seen(&before, &moved));
}

#[test]
fn how_the_former_term_ended_is_told() {
    let reign = |term, id, end| Reign { term: Term(term), id: node(id), end, ..Reign::default() };
    let now = reign(7, 1, ReignEnd::Running);
    let told = |end| former_end(&[reign(5, 2, end), now], Term(7));
    assert_eq!(told(ReignEnd::Ended), "node 2 had ended term 5 cleanly");
    assert_eq!(told(ReignEnd::Silent), "node 2 of term 5 was silent for too long");
    assert_eq!(former_end(&[now], Term(7)), "no earlier term is known");

    let lost = |end| loss_of_former(&[reign(5, 2, end), now], Term(7));
    assert_eq!(lost(ReignEnd::Silent).unwrap(), "node 2 of term 5 was lost: it was silent");
    assert_eq!(lost(ReignEnd::Replaced).unwrap(), "node 2 of term 5 was lost: it was replaced");
    assert_eq!((lost(ReignEnd::Ended), lost(ReignEnd::Running)), (None, None));
    assert_eq!(loss_of_former(&[now], Term(7)), None);
}

fn ended(manner: Manner) -> Ended {
    let picture = picture(&status(), &pods(), None, 3 * HOUR_MS);
    Ended {
        term: crate::engine::Term(7),
        fence: Some(crate::k8s::fence::Fence::of(9)),
        manner,
        name: "web-1".into(),
        pod: None,
        others: picture.nodes.into_iter().filter(|node| node.id == 2).collect(),
        may_be_succeeded: false,
    }
}

#[test]
fn of_a_term_that_ended_without_a_successor_it_is_said_that_no_node_leads() {
    let told = ended::status_of(&ended(Manner::Clean), 3 * HOUR_MS + 1);
    assert_eq!((&told.leader, told.term, told.node_count), (&None, Some(7), Some(1)));
    assert_eq!((&told.shards, told.since), (&None, None));
    assert_eq!(told.reported_at.unwrap().0, 3 * HOUR_MS);
    assert_eq!(holds(&told, condition::READY), "False");
    assert_eq!(holds(&told, condition::SHARDS_OWNED), "Unknown");
    let ready = conditions::find(&told.conditions, condition::READY).unwrap();
    assert_eq!(ready.message, "web-1 left office of term 7, and no node has taken it since");
}

#[test]
fn of_nodes_that_did_not_take_the_office_it_is_not_said_that_they_are_there() {
    // All nodes are stopped at once: the other nodes were candidates when the leader last looked.
    let ended = Ended { may_be_succeeded: true, ..ended(Manner::Clean) };
    let told = ended::status_of(&ended, 3 * HOUR_MS);
    assert_eq!((told.node_count, told.nodes.len()), (None, 0));
    assert_eq!(holds(&told, condition::READY), "False");
}

#[test]
fn of_a_leader_that_lost_its_authority_it_is_said_that_it_is_not_known_who_leads() {
    let told = ended::status_of(&ended(Manner::Lost), 3 * HOUR_MS);
    assert_eq!((&told.leader, told.term, told.node_count), (&None, Some(7), None));
    assert!(told.nodes.is_empty() && told.shards.is_none());
    for type_ in [condition::READY, condition::STABLE, condition::SHARDS_OWNED] {
        assert_eq!(holds(&told, type_), "Unknown", "{type_}");
    }
}

/// Writes that an API server received: method with path, and body.
#[derive(Clone, Default)]
struct Writes(Arc<Mutex<Vec<(String, serde_json::Value)>>>);

impl Writes {
    fn requests(&self) -> Vec<String> {
        self.0.lock().unwrap().iter().map(|(request, _)| request.clone()).collect()
    }

    /// The first status that was written.
    fn status(&self) -> ElectionStatus {
        let writes = self.0.lock().unwrap();
        let (_, body) = writes.iter().find(|(request, _)| request == STATUS).unwrap();
        serde_json::from_value(body["status"].clone()).unwrap()
    }
}

/// An API server that holds the `Election` of these tests, and the writes that the server receives. The n-th read of
/// the `Election` returns the n-th of `fences`, later reads the last of them.
fn api(fences: Vec<i64>) -> (DebugClient, Writes) {
    let (writes, looks) = (Writes::default(), Arc::new(Mutex::new(0)));
    let kept = writes.clone();
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let (path, is_read) = (request.uri().path().to_owned(), request.method() == "GET");
        let mut look = looks.lock().unwrap();
        let fence = fences.get(*look).or(fences.last()).copied();
        *look += usize::from(is_read && path.ends_with("/elections/shop"));
        let body = if path.ends_with("/pods") {
            let pod =
                json!({ "metadata": { "name": "web-1", "uid": "u1", "resourceVersion": "3" } });
            json!({ "metadata": {}, "items": [pod] })
        } else {
            json!({
                "apiVersion": "bellwether.dev/v1alpha1", "kind": "Election", "spec": { "cluster": "shop" },
                "metadata": { "name": "shop", "namespace": "n", "uid": "e1", "resourceVersion": "5" },
                "status": { "fence": fence, "conditions": [old_condition()] },
            })
        };
        let body = kube::client::Body::from(body.to_string().into_bytes());
        let kept = kept.clone();
        async move {
            if !is_read {
                let what = format!("{} {path}", request.method());
                let written = request.into_body().collect_bytes().await?;
                kept.0.lock().unwrap().push((what, serde_json::from_slice(&written)?));
            }
            Ok::<_, tower::BoxError>(http::Response::new(body))
        }
    });
    (DebugClient(Client::new(service, "n")), writes)
}

/// Condition of the `Election` in the API server: no leader has reported on the shards for a long time.
fn old_condition() -> serde_json::Value {
    json!({
        "type": condition::SHARDS_OWNED, "status": "Unknown", "reason": "LeaderLost", "message": "",
        "lastTransitionTime": "1970-01-01T00:00:00Z",
    })
}

/// Writes by which `ended` is reported, on a paused clock.
async fn report_of(ended: Ended, fences: Vec<i64>) -> Writes {
    let (client, writes) = api(fences);
    let ends = Ends::default();
    ends.tell(ended);
    tokio::select! {
        () = ends.clone().report(client, election()) => unreachable!("it goes on"),
        () = ends.settled(Duration::from_secs(3600)) => {}
    }
    writes
}

async fn reported(ended: Ended, fences: Vec<i64>) -> Vec<String> {
    report_of(ended, fences).await.requests()
}

fn election() -> ElectionRef {
    ElectionRef { namespace: "n".into(), cluster: "shop".into() }
}

const STATUS: &str = "PATCH /apis/bellwether.dev/v1alpha1/namespaces/n/elections/shop/status";
const EVENT: &str = "POST /apis/events.k8s.io/v1/namespaces/n/events";
const LABEL: &str = "PATCH /api/v1/namespaces/n/pods/web-1";

#[tokio::test(start_paused = true)]
async fn of_a_hand_over_nothing_is_written_once_the_successor_has_drawn_its_fence() {
    let ended = Ended { may_be_succeeded: true, ..ended(Manner::Clean) };
    assert_eq!(reported(ended.clone(), vec![9, 9, 9, 10]).await, Vec::<String>::new());
    assert_eq!(reported(ended, vec![9]).await, [STATUS, EVENT], "no successor comes");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_term_is_reported_at_once_where_no_node_can_succeed() {
    assert_eq!(reported(ended(Manner::Clean), vec![9, 10]).await, [STATUS, EVENT]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_leader_leaves_label_and_status_to_a_later_one() {
    let ended = Ended { pod: Some(("web-1".into(), "u1".into())), ..ended(Manner::Lost) };
    assert_eq!(reported(ended.clone(), vec![10]).await, Vec::<String>::new());
    assert_eq!(reported(ended, vec![9]).await, [LABEL, STATUS, EVENT], "there is none");
}

#[tokio::test(start_paused = true)]
async fn a_term_that_ended_before_its_fence_was_drawn_has_a_label_to_take_back_and_no_status() {
    let pod = Some(("web-1".into(), "u1".into()));
    let ended = |manner| Ended { pod: pod.clone(), fence: None, ..ended(manner) };
    assert_eq!(reported(ended(Manner::Lost), vec![8]).await, [LABEL]);
    assert_eq!(reported(ended(Manner::Clean), vec![8]).await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn the_report_of_an_end_keeps_the_times_of_conditions_whose_status_is_unchanged() {
    let status = report_of(ended(Manner::Clean), vec![9]).await.status();
    let found = conditions::find(&status.conditions, condition::SHARDS_OWNED).unwrap();
    assert_eq!((&*found.status, found.last_transition_time.0), ("Unknown", Timestamp::UNIX_EPOCH));
    assert_ne!(
        conditions::find(&status.conditions, condition::READY).unwrap().last_transition_time.0,
        Timestamp::UNIX_EPOCH
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_writes_no_status_over_a_later_fence() {
    let (node, ctx) = leading().await;
    for (fence, written) in [(10, vec![]), (9, vec![STATUS, EVENT])] {
        let (client, writes) = api(vec![fence]);
        let task = ElectionTask::new(
            client.0.clone(),
            election(),
            ControllerMetrics::unregistered(),
            Drawn::new(fence::metric(&Build::default())).awaited(),
            Ends::default(),
        );
        let mut herald = Herald {
            api: task.election.api(client.0.clone()),
            labels: Labels::new(client.0.clone(), &task.election, ctx.term()),
            events: Events::new(client.0, "election", name_of_this_pod()),
            task: &task,
            ctx: &ctx,
            pods: Arc::default(),
            fence: Some(Fence::of(9)),
            written: None,
            seen: None,
            said: None,
            announced: false,
        };
        herald.write(&status(), &pods()).await.unwrap();
        assert_eq!(writes.requests(), written, "fence {fence}");
    }
    node.stop(Duration::from_secs(5)).await.unwrap();
}

#[test]
fn a_condition_keeps_its_time_until_its_status_changes() {
    let mut before = picture(&status(), &pods(), None, HOUR_MS + 1000);
    for condition in &mut before.conditions {
        condition.last_transition_time = Time(Timestamp::UNIX_EPOCH);
    }
    let mut after = picture(&status(), &pods(), None, 3 * HOUR_MS);
    picture::carry_times(&mut after, Some(&before));
    let kept = [condition::READY, condition::STABLE, condition::SHARDS_OWNED].map(|type_| {
        let condition = conditions::find(&after.conditions, type_).unwrap();
        condition.last_transition_time.0 == Timestamp::UNIX_EPOCH
    });
    assert_eq!(kept, [true, false, true], "it has become stable, and nothing else has changed");
}

#[test]
fn a_picture_says_when_it_was_reported_in_whole_seconds() {
    let picture = picture(&status(), &pods(), None, HOUR_MS + 1234);
    assert_eq!(picture.reported_at, Some(UnixMs(HOUR_MS + 1000)));
}

#[test]
fn until_a_leader_has_a_summary_the_last_ones_stays() {
    let mut last = ElectionStatus::default();
    picture::summarise(&mut last, Some("3 checks: 2 up, 1 down".into()), None);
    let mut new = ElectionStatus::default();
    picture::summarise(&mut new, None, Some(&last));
    assert_eq!(new.summary.as_deref(), Some("3 checks: 2 up, 1 down"));
    picture::summarise(&mut new, Some("ä".repeat(300)), Some(&last));
    assert_eq!(new.summary.map(|it| it.chars().count()), Some(256));
}
