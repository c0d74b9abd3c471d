//! An API server that is overloaded or fails, as the binary sees it on the wire: the binary asks no more often
//! than the server allows, metrics and log name the problem, and work continues afterwards.

use std::time::Duration;

use bellwether::{
    clock,
    k8s::kube::Api,
    operator::uptime::crd::{State, UptimeCheck},
};
use http::{Method, Uri};
use serde_json::json;
use tokio::net::TcpListener;

use crate::{
    badinput::{LONG, Lone, tcp_of},
    controllers::server,
    front::{Front, Given, Illness, tries_since},
    rbac::documented_rules,
    support::eventually,
};

/// The binary behind a proxy, with a check that it runs.
struct Patient {
    front: Front,
    lone: Lone<'static>,
    /// Target of the first check, until it is closed.
    target: Option<TcpListener>,
}

impl Patient {
    async fn new(what: &str) -> Self {
        let space = server().await.namespace(what).await;
        let user = space.user("bellwether", documented_rules()).await;
        let front = Front::of(&user).await;
        let lone = Lone::run(&space, front.kubeconfig(&space)).await;
        let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
        lone.makes("first", tcp_of(target.local_addr().unwrap().port()), json!({})).await;
        let patient = Self { front, lone, target: Some(target) };
        patient.until("first", State::Up).await;
        patient
    }

    async fn until(&self, name: &str, state: State) {
        let checks = Api::<UptimeCheck>::default_namespaced(self.lone.space.client());
        eventually(&format!("{name} is {state:?}"), LONG, async || {
            let status = checks.get(name).await.unwrap().status?;
            (status.state == state).then_some(())
        })
        .await;
    }

    async fn until_given(&self, what: &str, is: impl Fn(&[Given]) -> bool) -> Vec<Given> {
        eventually(what, LONG, async || Some(self.front.given()).filter(|given| is(given))).await
    }

    /// The binary works as before: a check that is created now runs too.
    async fn goes_on(&self) {
        self.lone.makes("later", tcp_of(1), json!({})).await;
        self.until("later", State::Down).await;
    }
}

fn is_watch(method: &Method, uri: &Uri) -> bool {
    method == Method::GET && uri.path().ends_with("/uptimechecks")
}

fn is_status(method: &Method, uri: &Uri) -> bool {
    method == Method::PATCH
        && uri.path().ends_with("/status")
        && uri.path().contains("/uptimechecks/")
}

fn is_either(method: &Method, uri: &Uri) -> bool {
    is_watch(method, uri) || is_status(method, uri)
}

/// # Panics
///
/// If one answer came sooner than `least` after the one before.
fn assert_apart(given: &[Given], least: Duration) {
    for pair in given.windows(2) {
        let apart = pair[1].at.since(pair[0].at);
        assert!(least <= apart, "asked again after {apart:?}: {given:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_turned_away_is_begun_again_as_seldom_as_the_server_asks() {
    let patient = Patient::new("throttled-watch").await;
    patient.front.falls_ill(Illness { code: 429, retry_after: Some(1), meant: is_watch });
    // The client retries a request fewer times than this; then the watch itself fails and starts again.
    let given = patient.until_given("8 watches are turned away", |it| 8 <= it.len()).await;
    assert_apart(&given, Duration::from_secs(1));
    patient.lone.says("watch failed, retrying").await;
    patient.lone.says("the server is ill").await;
    patient.front.recovers();
    patient.goes_on().await;
    let turned_away =
        patient.lone.metric("rest_client_requests_total", &["code=\"429\"", "\"GET\""]).await;
    assert!(8 <= turned_away, "{turned_away}");
    let throttled = ["kind=\"UptimeCheck\"", "reason=\"throttled\""];
    assert_eq!(patient.lone.metric("bellwether_watch_restarts_total", &throttled).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_that_is_turned_away_is_written_as_late_as_the_server_asks() {
    let mut patient = Patient::new("throttled-write").await;
    patient.front.falls_ill(Illness { code: 429, retry_after: Some(1), meant: is_status });
    patient.target = None;
    let given = patient.until_given("3 writes are turned away", |it| 3 <= it.len()).await;
    assert_apart(&given, Duration::from_secs(1));
    patient.front.recovers();
    patient.until("first", State::Down).await;
    patient.goes_on().await;
    let turned_away =
        patient.lone.metric("rest_client_requests_total", &["code=\"429\"", "\"PATCH\""]).await;
    assert!(3 <= turned_away, "{turned_away}");
    // The client waited and retried, and no run failed.
    let failed = "controller_runtime_reconcile_errors_total";
    assert_eq!(patient.lone.metric(failed, &["controller=\"uptimecheck\""]).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_fails_is_asked_ever_less_often_and_what_it_missed_is_made_good() {
    for code in [500, 503] {
        let mut patient = Patient::new(&format!("fails-with-{code}")).await;
        patient.front.falls_ill(Illness { code, retry_after: None, meant: is_either });
        let begun = clock::boot_now();
        patient.target = None;
        let is_write = |it: &&Given| {
            it.method == Method::PATCH && it.path.ends_with("/uptimechecks/first/status")
        };
        let writes = |given: &[Given]| given.iter().filter(is_write).count();
        let given = patient
            .until_given("watches and writes fail", |it| {
                10 <= writes(it) && 4 <= it.len() - writes(it)
            })
            .await;
        // Attempts come from the queue's back-off, and from each run of the check since then.
        let checked = usize::try_from(clock::boot_now().since(begun).as_secs()).unwrap() + 2;
        let few = tries_since(begun, Duration::from_millis(5), Duration::from_secs(1000));
        assert!(writes(&given) <= few + checked, "{} writes: {given:?}", writes(&given));
        // A watch waits at least half of 200 ms and doubles that; a read that gets 503 is tried six times
        // before it fails.
        let watches = tries_since(begun, Duration::from_millis(100), Duration::from_secs(5));
        let tried = if code == 503 { 6 } else { 1 };
        assert!(given.len() - writes(&given) <= tried * watches, "{given:?}");
        patient.lone.says("watch failed, retrying").await;
        patient.lone.says("reconciling failed, retrying after a back-off").await;
        patient.front.recovers();
        patient.until("first", State::Down).await;
        patient.goes_on().await;
        let label = format!("code=\"{code}\"");
        let failed = patient.lone.metric("rest_client_requests_total", &[&label]).await;
        assert!(14 <= failed, "{failed}");
        let errors = "controller_runtime_reconcile_errors_total";
        assert!(10 <= patient.lone.metric(errors, &["controller=\"uptimecheck\""]).await);
        let unavailable = ["kind=\"UptimeCheck\"", "reason=\"unavailable\""];
        assert!(1 <= patient.lone.metric("bellwether_watch_restarts_total", &unavailable).await);
    }
}
