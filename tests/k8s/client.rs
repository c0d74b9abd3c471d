//! Finding the server, credentials that change, retries, deadlines.

use std::{
    collections::VecDeque,
    fs,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use bellwether::k8s::{
    client::{CallError, CallOptions, ClientMetrics, ClientOptions, ConnectError, connect},
    explain::{Reason, explain},
    k8s_openapi::api::{authentication::v1::SelfSubjectReview, core::v1::Pod},
    kube::{
        Api, Client, Error,
        api::{EvictParams, Patch, PatchParams, PostParams},
    },
};
use http::Request;
use prometheus::Registry;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::{
    kube::{ApiServer, Space},
    support::{
        eventually,
        pki::Validity,
        proxy::{Fault, Proxy},
    },
};

/// Timeout against a hanging test.
const LONG: Duration = Duration::from_secs(60);

/// Options that see only these environment variables.
fn options(env: &[(&str, &str)]) -> ClientOptions {
    let env: Vec<(String, String)> =
        env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    ClientOptions::default().environment(move |name| {
        env.iter().find(|(it, _)| it == name).map(|(_, value)| value.clone())
    })
}

/// Name of the user that the server sees behind a client.
async fn who(client: &Client) -> Result<String, Error> {
    let reviews = Api::<SelfSubjectReview>::all(client.clone());
    let review = reviews.create(&PostParams::default(), &SelfSubjectReview::default()).await?;
    Ok(review.status.unwrap().user_info.unwrap().username.unwrap())
}

/// Folder as Kubernetes mounts it into a pod, and options that point to it.
fn mounted(space: &Space<'_>, token: &str) -> (PathBuf, ClientOptions) {
    let folder = space.api.folder().join(format!("{}-account", space.name));
    fs::create_dir_all(&folder).unwrap();
    fs::copy(space.api.pki().ca(), folder.join("ca.crt")).unwrap();
    fs::write(folder.join("namespace"), &space.name).unwrap();
    fs::write(folder.join("token"), token).unwrap();
    let address = space.api.address();
    let options = options(&[
        ("KUBERNETES_SERVICE_HOST", &address.ip().to_string()),
        ("KUBERNETES_SERVICE_PORT", &address.port().to_string()),
        ("HOME", "/nowhere"),
    ]);
    (folder.clone(), options.service_account(folder))
}

#[tokio::test]
async fn a_pod_is_its_service_account_and_says_which_program_it_is() {
    let space = ApiServer::shared().await.namespace("in-pod").await;
    let (_, options) = mounted(&space, &space.bound_token("pod").await);
    let client = connect(options).await.unwrap();
    let account = format!("system:serviceaccount:{}:default", space.name);
    assert_eq!(who(&client).await.unwrap(), account);
    assert_eq!(client.default_namespace(), space.name);
    let told = space.api.writes().into_iter().find(|it| it.user == account).unwrap();
    assert_eq!(told.agent, concat!("bellwether/", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn a_kubeconfig_is_found_by_option_by_variable_and_at_home() {
    let space = ApiServer::shared().await.namespace("kubeconfig").await;
    let user = space.user("ann", []).await;
    let admin = space.api.kubeconfig(&space.name, None);
    let ann = space.api.kubeconfig(&space.name, Some(&user.name));
    let by_option = options(&[("KUBECONFIG", admin.to_str().unwrap())]).kubeconfig(&ann);
    assert_eq!(who(&connect(by_option).await.unwrap()).await.unwrap(), user.name);

    let list = format!("/nowhere/config:{}", ann.display());
    let in_pod_too = [("KUBECONFIG", list.as_str()), ("KUBERNETES_SERVICE_HOST", "10.0.0.1")];
    let by_variable = connect(options(&in_pod_too)).await.unwrap();
    assert_eq!(who(&by_variable).await.unwrap(), user.name);
    assert_eq!(by_variable.default_namespace(), space.name);

    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join(".kube")).unwrap();
    fs::copy(&ann, home.path().join(".kube/config")).unwrap();
    let at_home = options(&[("HOME", home.path().to_str().unwrap())]);
    assert_eq!(who(&connect(at_home).await.unwrap()).await.unwrap(), user.name);
}

#[tokio::test]
async fn a_kubeconfigs_certificate_and_its_plug_in_are_credentials_too() {
    let space = ApiServer::shared().await.namespace("credentials").await;
    let folder = tempfile::tempdir().unwrap();
    let with = |name: &str, user: &str| {
        let file = folder.path().join(name);
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: x\n\
             clusters: [{{name: x, cluster: {{server: '{}', certificate-authority: '{}'}}}}]\n\
             contexts: [{{name: x, context: {{cluster: x, user: x}}}}]\n\
             users: [{{name: x, user: {{{user}}}}}]\n",
            space.api.url(),
            space.api.pki().ca().display(),
        );
        fs::write(&file, text).unwrap();
        options(&[]).kubeconfig(file)
    };
    let files = space.api.pki().client("ann-by-certificate", Validity::Now).unwrap();
    let (cert, key) = (files.cert.display(), files.key.display());
    let by_certificate = format!("client-certificate: '{cert}', client-key: '{key}'");
    let client = connect(with("certificate", &by_certificate)).await.unwrap();
    assert_eq!(who(&client).await.unwrap(), "ann-by-certificate");

    let plug_in = |script: &str| {
        let file = folder.path().join(format!("plug-in-{}", script.len()));
        fs::write(&file, script).unwrap();
        let version = "client.authentication.k8s.io/v1";
        let file = file.display();
        format!(
            "exec: {{apiVersion: {version}, command: sh, args: ['{file}'], interactiveMode: Never}}"
        )
    };
    let token = space.bound_token("plug-in").await;
    let credential = json!({
        "apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
        "status": {"token": token},
    });
    let working = plug_in(&format!("echo '{credential}'"));
    let client = connect(with("working", &working)).await.unwrap();
    let account = format!("system:serviceaccount:{}:default", space.name);
    assert_eq!(who(&client).await.unwrap(), account);

    let failing = plug_in("echo hush; echo 'log in first' >&2; exit 3");
    let (error, said) = refused(with("failing", &failing)).await;
    assert!(matches!(error, ConnectError::Credentials { .. }), "{said}");
    assert!(said.contains("log in first") && !said.contains("hush"), "{said}");
}

/// The error of building a client from these options, with all its causes.
async fn refused(options: ClientOptions) -> (ConnectError, String) {
    let error = connect(options).await.err().expect("this cannot be used");
    let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |it| it.source());
    let said = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
    (error, said)
}

#[tokio::test]
async fn what_leads_nowhere_is_named_with_the_remedy_and_without_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let (error, said) = refused(options(&[("HOME", "/nowhere")])).await;
    assert!(matches!(error, ConnectError::Nowhere { .. }), "{said}");
    assert!(said.contains("KUBERNETES_SERVICE_HOST") && said.contains("/nowhere/.kube/config"));

    let pod = [("KUBERNETES_SERVICE_HOST", "10.0.0.1"), ("KUBERNETES_SERVICE_PORT", "443")];
    let (error, said) = refused(options(&pod).service_account(folder.path())).await;
    assert!(matches!(error, ConnectError::ServiceAccount { .. }), "{said}");
    assert!(said.contains("automountServiceAccountToken"), "{said}");
    file("token", "t");
    file("namespace", "shop");
    file("ca.crt", "not a certificate");
    let (error, said) = refused(options(&pod).service_account(folder.path())).await;
    assert!(matches!(error, ConnectError::Certificates { .. }), "{said}");
    let linked = [("KUBERNETES_SERVICE_HOST", "10.0.0.1"), ("KUBERNETES_SERVICE_PORT", "tcp://x")];
    let (error, said) = refused(options(&linked)).await;
    assert!(matches!(error, ConnectError::ServiceAddress { .. }), "{said}");

    let (error, said) = refused(options(&[]).kubeconfig("/nowhere/config")).await;
    assert!(matches!(error, ConnectError::Unreadable { .. }), "{said}");
    let junk = file("junk", "users: [{name: a, user: {token: hush, token: hush}}]\n  - :");
    let (error, said) = refused(options(&[]).kubeconfig(junk)).await;
    assert!(matches!(error, ConnectError::NotKubeconfig { .. }), "{said}");
    assert!(!said.contains("hush"), "{said}");

    let good = |more: &str| {
        format!(
            "apiVersion: v1\nkind: Config\n{more}\n\
             clusters: [{{name: c, cluster: {{server: 'https://10.0.0.1'}}}}]\n\
             users: [{{name: u, user: {{tokenFile: /nowhere/token}}}}]\n\
             contexts: [{{name: one, context: {{cluster: c, user: u}}}}, {{name: two, context: {{cluster: d}}}}]\n"
        )
    };
    let path = file("good", &good(""));
    let (error, said) = refused(options(&[]).kubeconfig(&path)).await;
    assert!(matches!(error, ConnectError::NoContext { .. }), "{said}");
    let (error, said) = refused(options(&[]).kubeconfig(&path).context("three")).await;
    assert!(matches!(error, ConnectError::UnknownContext { .. }), "{said}");
    assert!(said.contains(r#"no context "three": it has ["one", "two"]"#), "{said}");
    let (error, said) = refused(options(&[]).kubeconfig(&path).context("two")).await;
    assert!(matches!(error, ConnectError::Kubeconfig { .. }), "{said}");
    let (error, said) = refused(options(&[]).kubeconfig(&path).context("one")).await;
    assert!(matches!(error, ConnectError::Credentials { .. }), "{said}");
    assert!(said.contains("/nowhere/token"), "{said}");
    for (name, token) in [("empty", ""), ("line", "hush\n"), ("two", "hush hush")] {
        let token = file(name, token);
        let text = good("").replace("/nowhere/token", token.to_str().unwrap());
        let (error, said) =
            refused(options(&[]).kubeconfig(file("spaced", &text)).context("one")).await;
        assert!(matches!(error, ConnectError::Credentials { .. }), "{said}");
        assert!(said.contains(token.to_str().unwrap()) && !said.contains("hush"), "{said}");
    }
    for proxy in ["socks4://me:hush@proxy", "ftp://me:hush@proxy", "http://"] {
        let text = good("")
            .replace("'https://10.0.0.1'", &format!("'https://10.0.0.1', proxy-url: '{proxy}'"));
        let (error, said) =
            refused(options(&[]).kubeconfig(file("proxied", &text)).context("one")).await;
        let is_named = matches!(error, ConnectError::Proxy { setting: "proxy-url" });
        // kube does not take what is no URL at all.
        assert!(is_named || matches!(error, ConnectError::Kubeconfig { .. }), "{said}");
        assert!(said.contains("proxy") && !said.contains("hush"), "{said}");
    }
    let https = [("https_proxy", "ftp://me:hush@proxy")];
    let path = file("plain", &good("").replace("{tokenFile: /nowhere/token}", "{token: t}"));
    let (error, said) = refused(options(&https).kubeconfig(path).context("one")).await;
    assert!(matches!(error, ConnectError::Proxy { setting: "HTTPS_PROXY" }), "{said}");
    assert!(!said.contains("hush"), "{said}");
}

/// Sum of the series of a metric that have these labels.
fn count(registry: &Registry, name: &str, labels: &[(&str, &str)]) -> u64 {
    let families = registry.gather();
    let Some(family) = families.iter().find(|it| it.name() == name) else { return 0 };
    let has = |metric: &&prometheus::proto::Metric| {
        labels.iter().all(|(name, value)| {
            metric.get_label().iter().any(|it| it.name() == *name && it.value() == *value)
        })
    };
    let sum: f64 =
        family.get_metric().iter().filter(has).map(|it| it.get_counter().get_value()).sum();
    sum as u64
}

#[tokio::test]
async fn a_write_that_is_turned_away_waits_as_asked_and_then_succeeds() {
    let space = ApiServer::shared().await.namespace("away").await;
    // No controller has computed this budget yet, so the server asks to retry evictions after ten seconds.
    space.kubectl_apply(
        "apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: web}\n\
         spec: {minAvailable: 1, selector: {matchLabels: {app: web}}}\n",
    );
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "web-0", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "web"}]},
    }))
    .unwrap();
    let all = Api::<Pod>::default_namespaced(space.client());
    all.create(&PostParams::default(), &pod).await.unwrap();
    let running = Patch::Merge(json!({"status": {"phase": "Running"}}));
    all.patch_status("web-0", &PatchParams::default(), &running).await.unwrap();

    let registry = Registry::new();
    let metrics = ClientMetrics::register(&registry).unwrap();
    let kubeconfig = space.api.kubeconfig(&space.name, None);
    let options = options(&[]).kubeconfig(kubeconfig).metrics(metrics);
    let hasty = CallOptions { timeout: Duration::from_secs(9), ..CallOptions::default() };
    let hasty = connect(options.clone().calls(hasty)).await.unwrap();
    let hasty = Api::<Pod>::default_namespaced(hasty);
    // Ten seconds exceed the timeout: the client returns the answer at once.
    let away = hasty.evict("web-0", &EvictParams::default()).await.unwrap_err();
    assert_eq!(explain(&away).reason, Reason::TooManyRequests);
    let retries = [("code", "429"), ("verb", "POST")];
    assert_eq!(count(&registry, "rest_client_request_retries_total", &retries), 0);

    let patient = CallOptions { timeout: LONG, ..CallOptions::default() };
    let patient = connect(options.calls(patient)).await.unwrap();
    let patient = Api::<Pod>::default_namespaced(patient);
    let worked_out = async {
        eventually("it is to be tried again", LONG, async || {
            let retried = count(&registry, "rest_client_request_retries_total", &retries);
            (retried == 1).then_some(())
        })
        .await;
        let status = r#"{"status":{"observedGeneration":1,"disruptionsAllowed":1,"currentHealthy":2,"desiredHealthy":1,"expectedPods":2}}"#;
        space.kubectl(&[
            "patch",
            "pdb",
            "web",
            "--subresource=status",
            "--type=merge",
            "-p",
            status,
        ]);
    };
    let evicting = EvictParams::default();
    let (evicted, ()) = tokio::join!(patient.evict("web-0", &evicting), worked_out);
    evicted.unwrap();
    let tries: Vec<_> =
        space.writes().into_iter().filter(|it| it.resource == "pods/eviction").collect();
    assert_eq!(tries.iter().map(|it| it.code).collect::<Vec<_>>(), [429, 429, 201]);
    let at = |n: usize| tries[n].received.parse::<jiff::Timestamp>().unwrap();
    let waited = at(2).duration_since(at(1));
    assert!(waited >= jiff::SignedDuration::from_secs(10), "{waited:?} is sooner than asked");
}

/// HTTP server that gives these answers, one per request, and then no more; it records the requests.
struct Scripted {
    address: std::net::SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    async fn answering(answers: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let mut answers: VecDeque<String> = answers.iter().map(|&it| it.to_owned()).collect();
        let log = Arc::clone(&asked);
        drop(bellwether::tasks::spawn("scripted server", async move {
            let mut open = Vec::new();
            while let Some(answer) = answers.pop_front() {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.windows(4).any(|it| it == b"\r\n\r\n") {
                    let mut piece = [0; 4096];
                    let n = socket.read(&mut piece).await.unwrap();
                    assert!(n > 0, "a whole request");
                    head.extend_from_slice(&piece[..n]);
                }
                let head = String::from_utf8(head).unwrap();
                log.lock().unwrap().push(head.lines().next().unwrap().to_owned());
                socket.write_all(answer.as_bytes()).await.unwrap();
                // The connection stays open: whether the answer ends depends on its Content-Length.
                open.push(socket);
            }
            std::future::pending::<()>().await;
        }));
        Self { address, asked }
    }

    fn options(&self) -> (tempfile::TempDir, ClientOptions) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: x\n\
             clusters: [{{name: x, cluster: {{server: 'http://{}'}}}}]\n\
             contexts: [{{name: x, context: {{cluster: x}}}}]\n",
            self.address
        );
        fs::write(&file, text).unwrap();
        (folder, options(&[]).kubeconfig(file))
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// Answer with this body, after which the connection is closed.
fn answer(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn get(client: &Client, path: &str) -> Result<String, Error> {
    client.request_text(Request::get(path).body(Vec::new()).unwrap()).await
}

async fn post(client: &Client, path: &str) -> Result<String, Error> {
    client.request_text(Request::post(path).body(b"{}".to_vec()).unwrap()).await
}

#[tokio::test]
async fn a_read_is_tried_again_after_503_and_a_write_is_not() {
    let (busy, late, fine) =
        (answer("503 Busy", "busy"), answer("504 Late", "late"), answer("200 OK", "fine"));
    let server = Scripted::answering(&[&busy, &late, &fine, &busy, &fine]).await;
    let (_folder, options) = server.options();
    let registry = Registry::new();
    let client =
        connect(options.metrics(ClientMetrics::register(&registry).unwrap())).await.unwrap();
    assert_eq!(get(&client, "/read").await.unwrap(), "fine");
    let refused = post(&client, "/write").await.unwrap_err();
    assert_eq!(explain(&refused).reason, Reason::Unavailable);
    assert_eq!(
        server.asked(),
        ["GET /read HTTP/1.1", "GET /read HTTP/1.1", "GET /read HTTP/1.1", "POST /write HTTP/1.1"]
    );
    let host = server.address.to_string();
    let requests = |code, method| {
        let labels = [("code", code), ("method", method), ("host", host.as_str())];
        count(&registry, "rest_client_requests_total", &labels)
    };
    let counted = [requests("503", "GET"), requests("504", "GET"), requests("200", "GET")];
    assert!(counted == [1, 1, 1] && requests("503", "POST") == 1, "{counted:?}");
    assert!(count(&registry, "rest_client_request_retries_total", &[]) == 2);
}

#[tokio::test]
async fn attempts_are_bounded() {
    let busy = answer("503 Busy", "{}");
    let server = Scripted::answering(&[busy.as_str(); 5]).await;
    let (_folder, options) = server.options();
    let calls = CallOptions { attempts: 3, ..CallOptions::default() };
    let client = connect(options.calls(calls)).await.unwrap();
    get(&client, "/read").await.unwrap_err();
    assert_eq!(server.asked().len(), 3);
}

#[tokio::test]
async fn an_answer_that_stops_coming_is_given_up_and_a_watch_may_be_silent() {
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf";
    let quiet = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n";
    let server = Scripted::answering(&[half, quiet]).await;
    let (_folder, options) = server.options();
    // Longer than a busy machine takes to answer.
    let within = Duration::from_secs(3);
    let calls = CallOptions { timeout: within, ..CallOptions::default() };
    let client = connect(options.calls(calls)).await.unwrap();
    let error = get(&client, "/api/v1/pods").await.unwrap_err();
    let said = explain(&error);
    assert_eq!(said.reason, Reason::Timeout, "{said}");
    assert_eq!(said.message, "the answer to GET /api/v1/pods stopped coming for 3s");

    let watch = Request::get("/api/v1/pods?watch=true").body(Vec::new()).unwrap();
    let stream = client.request_stream(watch).await.unwrap();
    let mut stream = std::pin::pin!(stream);
    let mut piece = [0; 1];
    let reading = futures::AsyncReadExt::read(&mut stream, &mut piece);
    // Longer than the timeout of an answer that is not a watch.
    assert!(tokio::time::timeout(within * 2, reading).await.is_err(), "still there, still silent");
}

#[tokio::test]
async fn a_server_that_falls_silent_costs_the_deadline_and_one_that_is_gone_is_named() {
    let space = ApiServer::shared().await.namespace("network").await;
    let proxy = Proxy::to(space.api.address()).await;
    let text = fs::read_to_string(space.api.kubeconfig(&space.name, None)).unwrap();
    let text = text.replace(&space.api.address().to_string(), &proxy.address().to_string());
    let file = space.api.folder().join("proxied.kubeconfig");
    fs::write(&file, text).unwrap();
    let within = Duration::from_secs(1);
    let calls = CallOptions { timeout: within, ..CallOptions::default() };
    let client = connect(options(&[]).kubeconfig(&file).calls(calls)).await.unwrap();
    eventually("an answer in time", LONG, async || who(&client).await.ok()).await;

    proxy.set(Fault::Blackhole);
    let error = who(&client).await.unwrap_err();
    let Error::Service(source) = &error else { panic!("{error:?}") };
    let call = source.downcast_ref::<CallError>().expect("the deadline's");
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews".to_owned();
    let method = http::Method::POST;
    assert_eq!(call, &CallError::Unanswered { method, path, within });

    proxy.set(Fault::Refuse);
    let said = eventually("the refusal shows", LONG, async || {
        Some(explain(&who(&client).await.err()?)).filter(|it| it.reason == Reason::Unreachable)
    })
    .await;
    assert!(said.message.contains(&proxy.address().to_string()), "{said}");
    proxy.set(Fault::None);
    eventually("the same client works again", LONG, async || who(&client).await.ok()).await;
}
