//! No secret of a manifest leaks: the test puts secrets into every field, well-formed and malformed, and
//! searches all output of a node.

use std::{fmt::Write as _, fs, io::Write as _};

use bellwether::tasks::Tasks;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::{
    binary::{LONG, Process, bellwether, http_get},
    support::eventually,
};

const SECRET: &str = "s3cr3t-hunter2";

/// Server that redirects all requests to an address of another server of the test, which always fails: with
/// another status if the request contains a secret of the manifest.
async fn redirecting(tasks: &mut Tasks) -> String {
    let second = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = second.local_addr().unwrap();
    let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = first.local_addr().unwrap().to_string();
    tasks.spawn("first", async move {
        while let Ok((mut stream, _)) = first.accept().await {
            let _ = stream.read(&mut vec![0; 65536]).await;
            let head = format!("307 Moved\r\nlocation: http://{to}/?{SECRET}");
            let head = format!("HTTP/1.1 {head}\r\nconnection: close\r\n\r\n");
            let _ = stream.write_all(head.as_bytes()).await;
        }
    });
    tasks.spawn("second", async move {
        while let Ok((mut stream, _)) = second.accept().await {
            let mut request = vec![0; 65536];
            let length = stream.read(&mut request).await.unwrap_or(0);
            let leaks = String::from_utf8_lossy(&request[..length]).contains("BEARER");
            let status = if leaks { "500 Leak" } else { "503 Down" };
            let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\n\r\n");
            let _ = stream.write_all(head.as_bytes()).await;
        }
    });
    url
}

fn manifests(server: &str) -> String {
    let header = "apiVersion: bellwether.dev/v1alpha1\nkind: UptimeCheck\nmetadata:\n  name: ";
    let mut text = format!(
        "{header}good\n  annotations:\n    kubectl.kubernetes.io/last-applied-configuration: '{SECRET}'\n    \
         deploy.example/token: {SECRET}\nspec:\n  interval: 1s\n  target:\n    http:\n      url: \
         'http://{SECRET}:{SECRET}@{server}/?a={SECRET}#{SECRET}'\n      method: POST\n      headers: \
         {{Authorization: 'BEARER {SECRET}', X-Key: 'BEARER {SECRET}', Cookie: {SECRET}, Host: '{SECRET}'}}\n      \
         body: 'BEARER {SECRET}'\n"
    );
    let http = |more: &str| format!("target: {{http: {{url: 'http://{server}/'{more}}}}}");
    let key = format!("-----BEGIN PRIVATE KEY-----\\n{SECRET}\\n-----END PRIVATE KEY-----");
    let lost = format!("-----BEGIN CERTIFICATE----- {SECRET} -----END CERTIFICATE-----");
    let specs = [
        http(&format!(", headers: {{'{SECRET} x': a}}")),
        http(&format!(", headers: {{a: \"{SECRET}\\n\"}}")),
        http(&format!(", headers: [{SECRET}]")),
        http(&format!(", caBundle: \"{key}\"")),
        http(&format!(", caBundle: '{lost}'")),
        http(&format!(", caBundle: {SECRET}")),
        http(&format!(", method: {SECRET}")),
        http(&format!(", {SECRET}: a")),
        http(&format!(", serverName: '{SECRET} x'")),
        http(&format!(", followRedirects: {SECRET}")),
        http(&format!(", insecureSkipTlsVerify: {SECRET}")),
        http(&format!("}}}}, expect: {{bodyMatches: '({SECRET}', z: {{y: 1")),
        http(&format!("}}}}, expect: {{status: ['{SECRET}'], z: {{y: 1")),
        http(&format!("}}}}, expect: {{maxLatency: {SECRET}, z: {{y: 1")),
        http(&format!("}}}}, expect: {{certificateDays: {SECRET}, z: {{y: 1")),
        http(&format!("}}}}, interval: {SECRET}, expect: {{z: {{y: 1")),
        http(&format!("}}}}, timeout: {SECRET}, expect: {{z: {{y: 1")),
        http(&format!("}}}}, failureThreshold: {SECRET}, expect: {{z: {{y: 1")),
        format!("target: {{http: {{url: '{SECRET} x'}}}}"),
        format!("target: {{http: {{url: 'ftp://{SECRET}/'}}}}"),
        format!("target: {{tcp: {{host: '{SECRET} x', port: 1}}}}"),
        format!("target: {{tcp: {{host: a, port: {SECRET}}}}}"),
        format!("target: {{dns: {{name: '{SECRET} x'}}}}"),
        format!("target: {{dns: {{name: a, server: {SECRET}, recordType: {SECRET}}}}}"),
        format!("target: {SECRET}"),
        format!("target: *{SECRET}"),
        format!("target: [{SECRET}"),
    ];
    for (at, spec) in specs.iter().enumerate() {
        writeln!(text, "---\n{header}bad-{at}\nspec: {{{spec}}}").unwrap();
    }
    for kind in ["apiVersion", "kind"] {
        writeln!(text, "---\n{header}{SECRET}-x\n{kind}: {SECRET}").unwrap();
    }
    writeln!(
        text,
        "---\napiVersion: {SECRET}\nkind: {SECRET}\n---\n{header}'{SECRET} x'\nspec: {SECRET}"
    )
    .unwrap();
    writeln!(
        text,
        "---\n{header}a\n  namespace: '{SECRET} x'\n  labels: {{a: '{SECRET} x'}}\nspec: {{}}"
    )
    .unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_secret_of_a_manifest_is_in_anything_that_a_node_tells() {
    let mut tasks = Tasks::new();
    let server = redirecting(&mut tasks).await;
    let folder = tempfile::tempdir().unwrap();
    let checks = folder.path().join("checks");
    fs::create_dir(&checks).unwrap();
    let mut file = fs::File::create(checks.join("checks.yaml")).unwrap();
    file.write_all(manifests(&server).as_bytes()).unwrap();
    let status_file = folder.path().join("status.yaml");
    let mut command = bellwether(["run", "--standalone", "--listen", "127.0.0.1:0"]);
    command.args(["--log", "info,bellwether=trace"]).arg("--checks").arg(&checks);
    command.arg("--status-file").arg(&status_file);
    let node = Process::of(command);
    let said = node.says("status server listens").await;
    let url = format!("http://{}", said.rsplit_once("address=").unwrap().1.trim());
    let written = eventually("the check was run and its status written", LONG, || async {
        let text = fs::read_to_string(&status_file).ok()?;
        text.contains("status 503: 200-299 is expected").then_some(text)
    })
    .await;
    let mut told = vec![("status file".to_owned(), written), ("log".to_owned(), node.err())];
    for path in ["/", "/status", "/metrics", "/readyz", "/livez", "/leader"] {
        told.push((path.to_owned(), http_get(&url, path).await));
    }
    assert!(told[1].1.matches("manifest cannot be used").count() >= 30, "{}", told[1].1);
    for (what, text) in told {
        let lines = text.lines();
        let around =
            lines.into_iter().find(|it| it.contains("s3cr3t") || it.contains("115, 51, 99"));
        assert_eq!(around, None, "in {what}");
    }
}
