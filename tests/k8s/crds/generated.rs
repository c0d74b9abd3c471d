//! The API server and a node that reads a folder give the same verdict on a thousand random manifests, as text.
//!
//! The node also accepts what the server accepts, except for rules that no schema can express; this file names
//! those fields. The node rejects what the server rejects.

use std::fmt::Write as _;

use bellwether::{k8s::crd, operator::uptime::Folder};
use http::Request;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

use super::space;
use crate::kube::Space;

/// Number of generated manifests.
const MANIFESTS: usize = 1000;
/// Seed of the manifests, the same in each run; `BELLWETHER_MANIFESTS_SEED` sets another one.
const SEED: u64 = 20_261_129;

/// Fields that the node checks more strictly than a schema can.
const ONLY_THE_NODE_LOOKS: [&str; 7] = [
    "spec.target.http.url",
    "spec.target.http.caBundle",
    "spec.target.tcp.host",
    "spec.target.dns.name",
    "spec.expect.bodyMatches",
    "spec.expect.status",
    // Names and values of headers in other scripts.
    "spec.target.http.headers",
];

/// Values as people write them, valid and invalid.
const VALUES: &[&str] = &[
    "no",
    "yes",
    "on",
    "off",
    "y",
    "n",
    "true",
    "false",
    "True",
    "~",
    "null",
    "",
    "0",
    "1",
    "80",
    "-1",
    "70000",
    "043240",
    "0x50",
    "0o17",
    "0b11",
    "09",
    "1_000",
    "+5",
    "80.0",
    "1e2",
    "1.10",
    "1.5",
    "99999999999999999999",
    "'80'",
    "\"80\"",
    "'true'",
    "\"no\"",
    "!!str 80",
    "!!int 80",
    "[]",
    "{}",
    "[a]",
    "{a: b}",
    "[200, '2xx', 404]",
    "[200-299]",
    "[600]",
    "[true]",
    "[~]",
    "text",
    "a-b.c",
    "a..b",
    "-a",
    "A",
    "_",
    "a_b",
    "\"a b\"",
    "'a/b'",
    "30s",
    "1m30s",
    "500ms",
    "1.5m",
    "30",
    "24h",
    "25h",
    "0s",
    "soon",
    "2026-01-01",
    "10.0.0.1",
    "10.0.0.1:53",
    "10.0.0.1:0",
    "'::1'",
    "'[::1]:53'",
    "'[::1]:0'",
    "'fe80::1%eth0'",
    "my_db",
    "bücher.example",
    "shop.example.",
    "GET",
    "get",
    "HEAD",
    "AAAA",
    "a",
    "'http://a/'",
    "'https://a:8443/?b#c'",
    "'http://a:0/'",
    "'ftp://a'",
    "'http:a'",
    "'http://a b'",
    "'('",
    "'^a.*b$'",
    "\"a\\nb\"",
    "|-\n          a\n          b",
    "'-----BEGIN CERTIFICATE-----'",
    "'-----BEGIN PRIVATE KEY-----'",
];

/// Manifest of a few fields, each on a line of its own.
fn base(rng: &mut StdRng) -> Vec<String> {
    let target: &[&str] = match rng.random_range(0..3) {
        0 => &[
            "    http:",
            "      url: https://shop.example/",
            "      method: GET",
            "      headers:",
            "        X-Key: a",
            "      body: a",
            "      followRedirects: true",
            "      insecureSkipTlsVerify: false",
            "      serverName: shop.example",
        ],
        1 => &["    tcp:", "      host: db.example", "      port: 5432"],
        _ => &[
            "    dns:",
            "      name: shop.example",
            "      recordType: A",
            "      server: 10.0.0.53",
        ],
    };
    let head = [
        "apiVersion: bellwether.dev/v1alpha1",
        "kind: UptimeCheck",
        "metadata:",
        "  name: a",
        "  labels:",
        "    team: a",
        "  annotations:",
        "    note: a",
        "spec:",
        "  interval: 30s",
        "  timeout: 5s",
        "  failureThreshold: 2",
        "  expect:",
        "    maxLatency: 1s",
        "  target:",
    ];
    head.iter().chain(target).map(|line| (*line).to_owned()).collect()
}

/// Changes a random line: another value, no value, another name, or the same line twice.
fn change(lines: &mut Vec<String>, rng: &mut StdRng) {
    // The first lines name the kind: without them the object is not an uptime check.
    let at = rng.random_range(3..lines.len());
    let line = lines[at].clone();
    let Some((name, value)) = line.split_once(':') else { return };
    let is_leaf = !value.trim().is_empty();
    let indent = " ".repeat(name.len() - name.trim_start().len());
    let any = *VALUES.choose(rng).unwrap();
    match rng.random_range(0..10) {
        0 if is_leaf => drop(lines.remove(at)),
        1 => lines.insert(at, line),
        2 => lines.insert(at, format!("{indent}unknown: {any}")),
        3 if is_leaf => {
            let fields =
                ["bodyContains", "bodyMatches", "certificateDays", "answerContains", "status"];
            let field = fields.choose(rng).unwrap();
            let at = lines.iter().position(|it| it == "  expect:").unwrap_or(0) + 1;
            lines.insert(at, format!("    {field}: {any}"));
        }
        4 if indent.len() == 8 || indent.len() == 4 => {
            let names = ["no", "1", "a b", "'é'", "A_b", "'a/b'", "'/b'", "~", "on"];
            lines[at] = format!("{indent}{}: {}", names.choose(rng).unwrap(), value.trim());
        }
        5 => {
            let name_line = lines.iter().position(|it| it.starts_with("  name:"));
            let length = *[63, 64, 253, 254].choose(rng).unwrap();
            if let Some(at) = name_line {
                lines[at] = format!("  name: {}", "a".repeat(length));
            }
        }
        _ if is_leaf => lines[at] = format!("{name}: {any}"),
        _ => {}
    }
}

/// Verdict of the node on a file with this text: each problem with its field.
async fn judged_by_a_node(text: &str) -> Result<(), Vec<(String, String)>> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.yaml"), text).unwrap();
    let (_, checks) = Folder::open(folder.path()).await.unwrap();
    let checks = checks.borrow();
    let problems = checks.problems.iter();
    let problems: Vec<_> =
        problems.map(|it| (it.field.clone().unwrap_or_default(), it.message.clone())).collect();
    assert_eq!(problems.is_empty(), checks.checks.len() == 1, "{text}\n{problems:?}");
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// Verdict of the server on the same text, as a dry run.
async fn judged_by_the_server(space: &Space<'_>, text: &str) -> Result<(), String> {
    let path = format!(
        "/apis/{}/namespaces/{}/uptimechecks?dryRun=All&fieldValidation=Strict",
        crd::API_VERSION,
        space.name
    );
    let request = Request::post(path)
        .header("content-type", "application/yaml")
        .header("accept", "application/json")
        .body(text.as_bytes().to_vec())
        .unwrap();
    match space.client().request_text(request).await {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

#[tokio::test]
async fn server_and_node_judge_a_thousand_generated_manifests_alike() {
    let space = space("generated").await;
    let given = std::env::var("BELLWETHER_MANIFESTS_SEED").ok();
    let seed = given.map_or(SEED, |it| it.parse().unwrap());
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut taken, mut refused, mut only_by_the_node) = (0, 0, 0);
    let mut differ = String::new();
    for number in 0..MANIFESTS {
        let mut lines = base(&mut rng);
        for _ in 0..rng.random_range(0..3) {
            change(&mut lines, &mut rng);
        }
        let text = lines.join("\n") + "\n";
        let node = judged_by_a_node(&text).await;
        let server = judged_by_the_server(&space, &text).await;
        match (&node, &server) {
            (Ok(()), Ok(())) => taken += 1,
            (Err(_), Err(_)) => refused += 1,
            (Err(problems), Ok(()))
                if problems.iter().all(|(field, _)| {
                    ONLY_THE_NODE_LOOKS.iter().any(|it| field.starts_with(it))
                }) =>
            {
                only_by_the_node += 1;
            }
            _ => writeln!(differ, "{number}:\n{text}node: {node:?}\nserver: {server:?}\n").unwrap(),
        }
    }
    assert!(differ.is_empty(), "seed {seed}:\n{differ}");
    assert!(taken > 100 && refused > 300, "{taken} taken, {refused} refused");
    assert!(only_by_the_node < 100, "{only_by_the_node}");
}
