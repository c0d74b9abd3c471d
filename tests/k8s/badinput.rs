//! Bad input of the binary: missing rights, a token that expires, an admission policy or a webhook that denies,
//! a webhook that is unreachable, an object that is not accepted. Each fault is visible, and all work continues
//! when the fault is repaired.
//!
//! `controllers/badinput.rs` tests what controllers do about objects, reconcilers and answers.

use std::{fs, path::PathBuf, time::Duration};

use bellwether::{
    clock,
    k8s::{
        crd::Election,
        election::ROLE_LABEL,
        k8s_openapi::{
            api::{
                core::v1::{Pod, Secret},
                rbac::v1::PolicyRule,
            },
            apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
        },
        kube::{
            Api, ResourceExt as _,
            api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
        },
    },
    operator::{self, uptime::crd::UptimeCheck},
};
use serde_json::{Value, from_value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    binary::{Process, bellwether},
    controllers::{install, server},
    front::{last_still, tries_since},
    kube::{ApiServer, Space, User, Written},
    rbac::documented_rules,
    support::{etcd::reserved_port, eventually},
    webhook::Webhook,
};

pub(crate) const LONG: Duration = Duration::from_secs(120);

/// Number of checks that meet the same obstacle.
const MANY: u64 = 40;
/// Number of log lines about one obstacle in a minute, independent of the number of objects.
const LINES_A_MINUTE: u64 = 5;

/// Name of the definition of uptime checks.
const CHECKS: &str = "uptimechecks.bellwether.dev";

/// Namespace with a pod whose process is a cluster of one: these tests need no etcd.
pub(crate) struct Lone<'a> {
    pub(crate) space: Space<'a>,
    pub(crate) process: Process,
}

impl<'a> Lone<'a> {
    pub(crate) async fn run(space: &Space<'a>, kubeconfig: PathBuf) -> Self {
        let pod: Pod = from_value(json!({
            "metadata": { "name": "bellwether-0" },
            "spec": { "containers": [{ "name": "bellwether", "image": "bellwether" }] },
        }))
        .unwrap();
        let pods = Api::<Pod>::default_namespaced(space.client());
        let pod = pods.create(&PostParams::default(), &pod).await.unwrap();
        let mut command = bellwether(["run", "--standalone"]);
        command
            .env("BELLWETHER_CLUSTER", "shop")
            .env("BELLWETHER_LISTEN", "127.0.0.1:0")
            .env("BELLWETHER_KUBERNETES", "on")
            .env("BELLWETHER_KUBECONFIG", kubeconfig)
            .env("POD_NAME", "bellwether-0")
            .env("POD_NAMESPACE", &space.name)
            .env("POD_UID", pod.uid().unwrap())
            .env("POD_IP", "127.0.0.1")
            .env("NODE_NAME", "machine")
            .env("POD_INDEX", "0");
        Self { space: space.clone(), process: Process::of(command) }
    }

    pub(crate) async fn makes(&self, name: &str, target: Value, more: Value) {
        make(&self.space, name, target, more).await;
    }

    /// Status of the condition `Accepted` of a check, once the condition is written.
    async fn accepted(&self, name: &str) -> String {
        let checks = Api::<UptimeCheck>::default_namespaced(self.space.client());
        eventually(&format!("{name} is told of"), LONG, async || {
            let status = checks.get(name).await.unwrap().status?;
            let accepted = status.conditions.into_iter().find(|it| it.type_ == "Accepted")?;
            Some(accepted.status)
        })
        .await
    }

    /// Whether the API server has rejected the token of this process.
    fn is_refused(&self) -> bool {
        self.process.err().contains("does not know who is asking")
    }

    pub(crate) async fn says(&self, words: &str) {
        eventually(&format!("{words:?} in the log"), LONG, async || {
            self.process.err().contains(words).then_some(())
        })
        .await;
    }

    /// Sum of the series of that name whose labels contain all of `labels`.
    pub(crate) async fn metric(&self, name: &str, labels: &[&str]) -> u64 {
        let said = self.process.says("status server listens").await;
        let address = said.rsplit_once("address=").unwrap().1.trim().to_owned();
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let series = text.lines().filter(|line| {
            line.starts_with(&format!("{name}{{")) && labels.iter().all(|it| line.contains(it))
        });
        let values = series.map(|line| line.rsplit_once(' ').unwrap().1);
        values.map(|value| value.parse::<u64>().unwrap()).sum()
    }
}

async fn make(space: &Space<'_>, name: &str, target: Value, more: Value) {
    let mut spec = json!({ "interval": "1s", "target": target });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let check: UptimeCheck = from_value(json!({
        "apiVersion": "bellwether.dev/v1alpha1",
        "kind": "UptimeCheck",
        "metadata": { "name": name },
        "spec": spec,
    }))
    .unwrap();
    let checks = Api::<UptimeCheck>::default_namespaced(space.client());
    checks.create(&PostParams::default(), &check).await.unwrap();
}

fn tcp() -> Value {
    tcp_of(1)
}

pub(crate) fn tcp_of(port: u16) -> Value {
    json!({ "tcp": { "host": "127.0.0.1", "port": port } })
}

/// All documented rights but this one.
fn all_but(verb: &str, resource: &str) -> Vec<PolicyRule> {
    let mut rules = documented_rules();
    for rule in &mut rules {
        if rule.resources.as_ref().unwrap().contains(&resource.to_owned()) {
            rule.verbs.retain(|it| it != verb);
        }
    }
    rules.retain(|it| !it.verbs.is_empty());
    rules
}

async fn a_right_is_missing(verb: &str, resource: &str) {
    let what = format!("without-{verb}-{}", resource.replace('/', "-"));
    let space = server().await.namespace(&what).await;
    make(&space, "check", tcp(), json!({})).await;
    let user = space.user("bellwether", all_but(verb, resource)).await;
    let lone = Lone::run(&space, space.api.kubeconfig(&space.name, Some(&user.name))).await;
    let name = &user.name;
    lone.says(&format!("user {name} may not {verb} {resource}")).await;
    lone.says(&format!("resources: [{resource:?}]")).await;

    space.grant(&user, "later", documented_rules()).await;
    assert_eq!(lone.accepted("check").await, "True");
    let elections = Api::<Election>::default_namespaced(space.client());
    eventually(&format!("{what}: the Election is told"), LONG, async || {
        elections.get_opt("shop").await.unwrap()?.status?.leader?.pod
    })
    .await;
    let pods = Api::<Pod>::default_namespaced(space.client());
    eventually(&format!("{what}: the pod is labelled"), LONG, async || {
        let pod = pods.get("bellwether-0").await.unwrap();
        pod.labels().get(ROLE_LABEL).filter(|it| *it == "leader").map(|_| ())
    })
    .await;
    let lines = lone.process.err().lines().filter(|it| it.contains("may not")).count();
    assert!(lines < 60, "{what}: it is said {lines} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_right_that_is_missing_is_named_with_its_rule_and_work_goes_on_when_it_is_given() {
    // Rights that the binary uses: the cache gets lists by watches here, and events are patched from the second
    // one on.
    let used = [
        ("watch", "uptimechecks"),
        ("patch", "uptimechecks/status"),
        ("get", "elections"),
        ("create", "elections"),
        ("patch", "elections/status"),
        ("list", "pods"),
        ("patch", "pods"),
        ("create", "events"),
    ];
    for few in used.chunks(4) {
        let all = few.iter().map(|(verb, resource)| a_right_is_missing(verb, resource));
        futures::future::join_all(all).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_many_checks_miss_is_a_few_log_lines() {
    for (verb, resource) in [("patch", "uptimechecks/status"), ("create", "events")] {
        let what = format!("many-without-{verb}-{}", resource.replace('/', "-"));
        let space = server().await.namespace(&what).await;
        let names: Vec<String> = (0..MANY).map(|number| format!("check-{number}")).collect();
        for name in &names {
            make(&space, name, tcp(), json!({})).await;
        }
        let user = space.user("bellwether", all_but(verb, resource)).await;
        let began = clock::boot_now();
        let lone = Lone::run(&space, space.api.kubeconfig(&space.name, Some(&user.name))).await;
        eventually(&format!("{what}: each check has failed"), LONG, async || {
            let refused = lone.metric("rest_client_requests_total", &["code=\"403\""]).await;
            (MANY <= refused).then_some(())
        })
        .await;
        let log = lone.process.err();
        let of_checks =
            |line: &&str| line.contains("may not") && line.contains("controller=\"uptimecheck\"");
        let lines = log.lines().filter(of_checks).count() as u64;
        let minutes = 1 + clock::boot_now().since(began).as_secs() / 60;
        assert!((1..=LINES_A_MINUTE * minutes).contains(&lines), "{what}: {lines} lines");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_expires_is_named_and_the_next_one_in_its_file_is_taken() {
    let space = server().await.namespace("expiring").await;
    let account = User {
        name: format!("system:serviceaccount:{}:default", space.name),
        config: space.api.config(),
    };
    space.grant(&account, "bellwether", documented_rules()).await;
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    fs::write(&token, space.bound_token("first").await).unwrap();
    let file = folder.path().join("config");
    let admin = fs::read_to_string(space.api.kubeconfig(&space.name, None)).unwrap();
    let before = admin.split("users:").next().unwrap();
    let users = format!("users:\n- {{name: test, user: {{tokenFile: {token:?}}}}}\n");
    fs::write(&file, format!("{before}{users}")).unwrap();

    let lone = Lone::run(&space, file).await;
    lone.makes("before", tcp(), json!({})).await;
    assert_eq!(lone.accepted("before").await, "True");

    let secrets = Api::<Secret>::default_namespaced(space.client());
    secrets.delete("first", &DeleteParams::default()).await.unwrap();
    // The server may still accept a deleted token that it has validated within the last few seconds.
    let mut made = 0;
    while !lone.is_refused() {
        made += 1;
        let name = format!("after-{made}");
        lone.makes(&name, tcp(), json!({})).await;
        let checks = Api::<UptimeCheck>::default_namespaced(space.client());
        eventually(&format!("{name} is told of, or the token refused"), LONG, async || {
            let is_told = checks.get(&name).await.unwrap().status.is_some();
            (is_told || lone.is_refused()).then_some(())
        })
        .await;
    }
    fs::write(&token, space.bound_token("second").await).unwrap();
    for number in 1..=made {
        assert_eq!(lone.accepted(&format!("after-{number}")).await, "True");
    }
}

/// Policy by which the API server itself denies writes of statuses.
fn policy(name: &str) -> String {
    format!(
        "apiVersion: admissionregistration.k8s.io/v1\n\
         kind: ValidatingAdmissionPolicy\n\
         metadata: {{name: {name}}}\n\
         spec:\n\
         \x20 failurePolicy: Fail\n\
         \x20 matchConstraints:\n\
         \x20   resourceRules:\n\
         \x20   - {{apiGroups: [bellwether.dev], apiVersions: ['*'], operations: [UPDATE], resources: [uptimechecks/status]}}\n\
         \x20 validations:\n\
         \x20 - {{expression: 'false', message: nothing is written on a Sunday}}\n\
         ---\n\
         apiVersion: admissionregistration.k8s.io/v1\n\
         kind: ValidatingAdmissionPolicyBinding\n\
         metadata: {{name: {name}}}\n\
         spec:\n\
         \x20 policyName: {name}\n\
         \x20 validationActions: [Deny]\n\
         \x20 matchResources: {{namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {name}}}}}}}\n",
    )
}

/// Configuration by which the API server calls this webhook, at the address in `client`.
fn webhook(name: &str, whom: &str, client: &Value) -> String {
    format!(
        "apiVersion: admissionregistration.k8s.io/v1\n\
         kind: ValidatingWebhookConfiguration\n\
         metadata: {{name: {name}}}\n\
         webhooks:\n\
         - name: {whom}.bellwether.test\n\
         \x20 failurePolicy: Fail\n\
         \x20 sideEffects: None\n\
         \x20 admissionReviewVersions: [v1]\n\
         \x20 timeoutSeconds: 1\n\
         \x20 clientConfig: {client}\n\
         \x20 rules:\n\
         \x20 - {{apiGroups: [bellwether.dev], apiVersions: ['*'], operations: [UPDATE], resources: [uptimechecks/status]}}\n\
         \x20 namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {name}}}}}\n",
    )
}

/// While this policy or webhook denies statuses, the log contains these words; statuses are written once `lift`
/// has removed the obstacle.
async fn nothing_is_written_while(
    what: &str,
    in_the_way: impl FnOnce(&str) -> String,
    words: [&str; 2],
    code: u16,
    lift: impl FnOnce(&Space<'_>),
) {
    let space = server().await.namespace(what).await;
    let name = &space.name;
    space.kubectl_apply(&in_the_way(name));
    make(&space, "check", tcp(), json!({})).await;
    let checks = Api::<UptimeCheck>::default_namespaced(space.client());
    let patch = Patch::Merge(json!({ "status": { "message": "?" } }));
    eventually(&format!("{what} is in force"), LONG, async || {
        checks.patch_status("check", &PatchParams::default(), &patch).await.err()
    })
    .await;

    let user = space.user("bellwether", documented_rules()).await;
    let begun = clock::boot_now();
    let lone = Lone::run(&space, space.api.kubeconfig(name, Some(&user.name))).await;
    for words in words {
        lone.says(words).await;
    }
    lone.says("reconciling failed, retrying after a back-off").await;
    // The obstacle concerns check statuses only: the Election is still written.
    let elections = Api::<Election>::default_namespaced(space.client());
    eventually("the Election is told", LONG, async || {
        elections.get_opt("shop").await.unwrap()?.status?.leader
    })
    .await;
    // Attempts come from the back-off, and from each run of the check since then.
    let refused = |it: &Written| {
        it.user == user.name && it.resource == "uptimechecks/status" && it.code == code
    };
    let tried = eventually("it is tried again", LONG, async || {
        let tried = space.writes().iter().filter(|it| refused(it)).count();
        (6 <= tried).then_some(tried)
    })
    .await;
    let checked = usize::try_from(clock::boot_now().since(begun).as_secs()).unwrap() + 3;
    let few = tries_since(begun, Duration::from_millis(5), Duration::from_secs(1000));
    assert!(tried <= few + checked, "{what}: tried {tried} times");
    let errors = "controller_runtime_reconcile_errors_total";
    let failed = lone.metric(errors, &["controller=\"uptimecheck\""]).await;
    // The last attempt may not be counted yet.
    assert!(tried <= usize::try_from(failed).unwrap() + 1, "{what}: {failed} of {tried} counted");
    lift(&space);
    assert_eq!(lone.accepted("check").await, "True");
}

fn removes(kind: &str) -> impl FnOnce(&Space<'_>) {
    move |space| drop(space.kubectl(&["delete", kind, &space.name]))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_admission_policy_denies_is_said_in_its_words_and_written_when_it_is_lifted() {
    let words = ["nothing is written on a Sunday", "ValidatingAdmissionPolicy"];
    let lift = removes("validatingadmissionpolicybinding");
    nothing_is_written_while("admission", policy, words, 422, lift).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_does_not_answer_is_named_and_statuses_are_written_when_it_is_removed() {
    let words = ["webhook nobody.bellwether.test could not be asked", "connection refused"];
    let nobody = reserved_port();
    let client = json!({ "url": format!("https://{}/", nobody.address()) });
    let in_the_way = |name: &str| webhook(name, "nobody", &client);
    let lift = removes("validatingwebhookconfiguration");
    nothing_is_written_while("webhook", in_the_way, words, 500, lift).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_webhook_denies_is_said_in_its_words_and_written_when_it_allows() {
    denied_by_webhook("denying", 403).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_webhook_denies_as_a_conflict_is_not_taken_for_somebody_elses_write() {
    denied_by_webhook("denying-409", 409).await;
}

async fn denied_by_webhook(space: &str, code: u16) {
    let hook = Webhook::denying(code, "the auditors are in the house").await;
    let words = ["webhook auditors.bellwether.test denied it", "the auditors are in the house"];
    let in_the_way = |name: &str| webhook(name, "auditors", &hook.client_config());
    nothing_is_written_while(space, in_the_way, words, code, |_| hook.allow()).await;
    assert!(6 <= hook.denied(), "it was asked {} times", hook.denied());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_kinds_the_binary_names_the_command_that_installs_them_and_works_when_they_are_there()
 {
    let api = ApiServer::options().start().await;
    let space = api.namespace("bare").await;
    let user = space.user("bellwether", documented_rules()).await;
    let lone = Lone::run(&space, api.kubeconfig(&space.name, Some(&user.name))).await;
    let said = |words: &str| lone.process.err().matches(words).count();
    let command = "bellwether crds | kubectl apply --server-side -f -";
    lone.says(command).await;
    lone.says("waiting for caches before joining missing=[\"UptimeCheck\"]").await;
    // With one of the two definitions installed, the node joins, but cannot draw a fence.
    let crds = Api::<CustomResourceDefinition>::all(space.client());
    for definition in operator::definitions().into_iter().filter(|it| it.name_any() == CHECKS) {
        crds.create(&PostParams::default(), &definition).await.unwrap();
    }
    lone.says("cannot draw a fence number from election").await;
    install(&api).await;
    lone.makes("first", tcp(), json!({})).await;
    assert_eq!(lone.accepted("first").await, "True");
    let elections = Api::<Election>::default_namespaced(space.client());
    eventually("the Election is told", LONG, async || {
        elections.get_opt("shop").await.unwrap()?.status?.leader
    })
    .await;

    // The definition is deleted with all its objects while the process runs.
    let failed = || said("watch failed, retrying kind=\"UptimeCheck\"");
    let before = failed();
    crds.delete(CHECKS, &DeleteParams::default()).await.unwrap();
    let begun = last_still(before, failed).await;
    eventually("it is said again", LONG, async || (before + 6 <= failed()).then_some(())).await;
    let tries = tries_since(begun, Duration::from_millis(100), Duration::from_secs(5));
    let again = failed() - before;
    assert!(again <= tries, "it is said {again} times, at most {tries} by the back-off");
    eventually("the kind is gone", LONG, async || {
        crds.get_opt(CHECKS).await.unwrap().is_none().then_some(())
    })
    .await;
    install(&api).await;
    eventually("the kind is served", LONG, async || {
        let checks = Api::<UptimeCheck>::default_namespaced(space.client());
        checks.list(&ListParams::default()).await.ok()
    })
    .await;
    lone.makes("second", tcp(), json!({})).await;
    assert_eq!(lone.accepted("second").await, "True");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_is_not_accepted_says_so_in_a_condition_and_an_event_and_others_are_run() {
    let space = server().await.namespace("refused").await;
    let user = space.user("bellwether", documented_rules()).await;
    let lone = Lone::run(&space, space.api.kubeconfig(&space.name, Some(&user.name))).await;
    let http = json!({ "http": { "url": "http://127.0.0.1:1/" } });
    // The server does not compile the expression, and accepts the object.
    lone.makes("refused", http, json!({ "expect": { "bodyMatches": "(" } })).await;
    lone.makes("fine", tcp(), json!({})).await;
    assert_eq!(lone.accepted("refused").await, "False");
    assert_eq!(lone.accepted("fine").await, "True");
    eventually("the event is there", LONG, async || {
        let said = space.kubectl(&["describe", "uptimecheck", "refused"]);
        (said.contains("NotAccepted") && said.contains("bodyMatches")).then_some(())
    })
    .await;
}
