//! Messages and exit codes for faults of the command line or of etcd.

use std::net::TcpListener;

use crate::{
    binary::{bellwether, ended, run},
    support::{
        etcd::{Etcd, reserved_port},
        pki::{Pki, Validity},
    },
};

#[test]
fn every_wrong_flag_is_exit_code_2_and_names_flag_value_and_remedy() {
    let cases: &[(&[&str], &[&str])] = &[
        (&["nodes", "--etcd-timeout", "5"], &["--etcd-timeout", "5", "50ms"]),
        (&["nodes", "--etcd-timeout", "1h"], &["--etcd-timeout", "1h", "60s"]),
        (&["nodes", "--etcd", "ftp://host"], &["--etcd", "ftp://host", "https://"]),
        (&["nodes", "--etcd", "http://u:secret@host"], &["--etcd", "user and password"]),
        (&["nodes", "-c", "a//b"], &["--cluster", "a//b", "single"]),
        (&["nodes", "--etcd-user", "ann"], &["--etcd-user", "ann", "--etcd-password-file"]),
        (&["nodes", "--etcd-cert-file", "x"], &["--etcd-key-file"]),
        (&["nodes", "-o", "yaml"], &["--output", "yaml", "json"]),
        (&["nodes", "--url", "host:1"], &["--url", "host:1", "http://host"]),
        (&["nodes", "--log", "=="], &["log filter", "==", "info"]),
        (&["nodes", "--log-format", "xml"], &["xml", "json"]),
        (&["run"], &["--id"]),
        (&["run", "--id", "-1"], &["--id", "-1"]),
        (&["run", "--id", "x"], &["--id", "x", "whole number"]),
        (&["run", "--id", "1", "--ttl", "1500ms"], &["--ttl", "1500ms", "whole seconds"]),
        (&["run", "--id", "1", "--tick", "0s"], &["--tick", "0s", "choose more"]),
        (&["run", "--id", "1", "--selector", "a b;c"], &["--selector", "a b;c", "team=a"]),
        (
            &["run", "--id", "1", "--deny-network", "10.0.0.0/33"],
            &["--deny-network", "10.0.0.0/33", "10.0.0.0/8"],
        ),
        (
            &["run", "--id", "1", "--action-host", "http://x/"],
            &["--action-host", "http://x/", "without scheme"],
        ),
        (&["run", "--id", "1", "--profile", "slow"], &["--profile", "slow", "stable"]),
        (&["run", "--id", "1", "--tick-policy", "x"], &["--tick-policy", "x", "adopt"]),
        (&["demo", "--nodes", "0"], &["--nodes", "0", "1..=50"]),
        (&["supervise"], &["PROGRAM"]),
        (&["put", "k", "v"], &["--node"]),
        (&["get", "tick"], &["tick", "reserved"]),
        (&["watch", "tick"], &["tick", "reserved"]),
        (&["drain", "-5"], &["-5"]),
        (&["crds", "Pod"], &["Pod", "Election", "UptimeCheck"]),
        (&["crds", "-o", "table"], &["--output", "table", "yaml"]),
        (&["nonsense"], &["nonsense"]),
        (&[], &["Usage"]),
    ];
    for (args, words) in cases {
        let ran = run(args.iter());
        assert_eq!(ran.code, 2, "{args:?}: {}", ran.err);
        for word in *words {
            assert!(ran.err.contains(word), "{args:?} should say {word:?}: {}", ran.err);
        }
        assert!(!ran.err.contains("secret"), "{args:?}: {}", ran.err);
        assert_eq!(ran.out, "", "{args:?}: errors go to standard error");
    }
}

#[test]
fn the_definitions_are_printed_as_the_repository_keeps_them() {
    let kept = |kind: &str| {
        let path = format!("{}/crds/{kind}.yaml", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(path).unwrap()
    };
    let all = run(["crds"]);
    assert_eq!((all.code, all.err.as_str()), (0, ""));
    assert_eq!(all.out, kept("elections") + &kept("uptimechecks"));
    for name in ["UptimeCheck", "uptimechecks", "uc", "uptimechecks.bellwether.dev"] {
        assert_eq!(run(["crds", name]).out, kept("uptimechecks"), "{name}");
    }
    let json = run(["crds", "-o", "json"]).out;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["kind"], json["items"].as_array().unwrap().len()), (&"List".into(), 2));
}

#[test]
fn every_flag_can_come_from_the_environment() {
    let mut command = bellwether(["nodes"]);
    command.env("BELLWETHER_ETCD", "http://127.0.0.1:9").env("BELLWETHER_ETCD_TIMEOUT", "1s");
    let ran = ended(command);
    assert_eq!(ran.code, 4, "{}", ran.err);
    assert!(ran.err.contains("http://127.0.0.1:9"), "{}", ran.err);
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let nobody = reserved_port();
    let port = nobody.address();
    for name in [
        "ETCD_CA_FILE",
        "ETCD_CERT_FILE",
        "ETCD_KEY_FILE",
        "ETCD_SERVER_NAME",
        "ETCD_USER",
        "ETCD_PASSWORD",
        "ETCD_PASSWORD_FILE",
        "ETCD_TIMEOUT",
        "CLUSTER",
        "LOG",
        "LOG_FORMAT",
        "FROM",
        "URL",
        "OUTPUT",
        "NODE",
        "KUBECONFIG",
        "KUBE_CONTEXT",
    ] {
        let mut command = bellwether(["leader"]);
        command.env("BELLWETHER_ETCD", format!("http://{port}"));
        command.env(format!("BELLWETHER_{name}"), "");
        let ran = ended(command);
        // The command gets as far as connecting to a dead etcd.
        assert_eq!(ran.code, 4, "{name}: {}", ran.err);
    }
}

#[test]
fn what_is_on_may_be_written_as_people_write_it_and_an_error_names_the_variable() {
    let run = |variables: &[(&str, &str)], args: &[&str]| {
        let mut command = bellwether(args);
        for (name, value) in variables {
            command.env(format!("BELLWETHER_{name}"), value);
        }
        ended(command)
    };
    // An invalid address to listen at ends the process, but only after the flags were read.
    for on in ["1", "yes", "on", "True", "true", "y"] {
        let ran = run(&[("STANDALONE", on), ("LISTEN", "nowhere:x")], &["run"]);
        assert!(ran.err.contains("--listen (BELLWETHER_LISTEN)"), "{on}: {}", ran.err);
    }
    for off in ["", "0", "no", "off", "False"] {
        let ran = run(&[("STANDALONE", off)], &["run", "--listen", "127.0.0.1:0"]);
        assert!(ran.err.contains("the node has no id"), "{off}: {}", ran.err);
    }
    for (variables, args, says) in [
        (&[("STANDALONE", "maybe")][..], &["run"][..], "BELLWETHER_STANDALONE (--standalone)"),
        (&[("ETCD_TIMEOUT", "5")], &["leader"], "BELLWETHER_ETCD_TIMEOUT (--etcd-timeout)"),
        (&[("ETCD_KEY_FILE", "x")], &["leader"], "BELLWETHER_ETCD_KEY_FILE (--etcd-key-file)"),
        (&[("LOG_FORMAT", "xml")], &["leader"], "BELLWETHER_LOG_FORMAT (--log-format)"),
    ] {
        let ran = run(variables, args);
        assert_eq!(ran.code, 2, "{}", ran.err);
        assert!(ran.err.contains(says), "{says}: {}", ran.err);
    }
    let ran = run(&[("ETCD_TIMEOUT", "5")], &["leader", "--etcd-timeout", "6"]);
    assert!(
        !ran.err.contains("BELLWETHER_ETCD_TIMEOUT ("),
        "it is not what was taken: {}",
        ran.err
    );
}

#[test]
fn help_and_version_are_no_errors_and_the_exit_codes_are_documented() {
    let help = run(["--help"]);
    assert_eq!((help.code, help.err.as_str()), (0, ""));
    for code in ["0 ", "1 ", "2 ", "3 ", "4 ", "5 ", "6 ", "7 ", "8 ", "9 ", "126", "127", "128+n"]
    {
        let found = help.out.lines().any(|line| line.trim_start().starts_with(code));
        assert!(found, "exit code {code} in:\n{}", help.out);
    }
    let version = run(["--version"]);
    assert_eq!(version.out.trim(), concat!("bellwether ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_dead_etcd_is_exit_code_4_with_the_endpoint_what_it_said_and_what_to_try() {
    let nobody = reserved_port();
    let port = nobody.address();
    let endpoint = format!("http://{port}");
    let commands: [&[&str]; 9] = [
        &["status"],
        &["nodes"],
        &["leader"],
        &["shards"],
        &["get", "k"],
        &["put", "k", "v", "-n", "1"],
        &["watch", "k"],
        &["resign"],
        &["check"],
    ];
    for command in commands {
        let ran = run(command.iter().chain(&["--etcd", endpoint.as_str()]));
        assert_eq!(ran.code, 4, "{command:?}: {}", ran.err);
        assert!(ran.err.contains(&endpoint), "{command:?}: {}", ran.err);
        assert!(ran.err.contains("Connection refused"), "{command:?}: {}", ran.err);
        assert!(ran.err.contains("try: "), "{command:?}: {}", ran.err);
    }
}

#[test]
fn an_etcd_that_accepts_and_says_nothing_is_exit_code_4_within_the_time_that_was_given() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    for command in [["nodes"].as_slice(), &["watch", "k"]] {
        let ran = run(command.iter().chain(&["--etcd", &endpoint, "--etcd-timeout", "300ms"]));
        assert_eq!(ran.code, 4, "{command:?}: {}", ran.err);
        assert!(ran.err.contains(&endpoint), "{command:?}: {}", ran.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_exit_code_5_and_no_password_is_shown() {
    let etcd = Etcd::options().user("ann", "right-one", "/shop/").start().await;
    let endpoint = etcd.endpoint(0);
    let as_user = |password: &str| {
        let mut command = bellwether(["nodes", "-c", "shop", "--etcd", &endpoint]);
        command.args(["--etcd-user", "ann", "--log", "trace"]);
        command.env("BELLWETHER_ETCD_PASSWORD", password);
        ended(command)
    };
    let wrong = as_user("wrong-one");
    assert_eq!(wrong.code, 5, "{}", wrong.err);
    assert!(wrong.err.contains(&endpoint), "{}", wrong.err);
    assert!(!wrong.err.contains("wrong-one"), "{}", wrong.err);
    let right = as_user("right-one");
    assert_eq!(right.code, 0, "{}", right.err);
    assert!(!right.err.contains("right-one"), "{}", right.err);
    // A client without credentials, and a user who may read another cluster only.
    for asks in [["nodes"].as_slice(), &["watch", "k"]] {
        let nobody = run(asks.iter().chain(&["-c", "shop", "--etcd", &endpoint]));
        assert_eq!(nobody.code, 5, "{asks:?}: {}", nobody.err);
        assert!(nobody.err.contains("try: check --etcd-user"), "{asks:?}: {}", nobody.err);
        let mut elsewhere = bellwether(asks.iter().chain(&["-c", "bank", "--etcd", &endpoint]));
        elsewhere.args(["--etcd-user", "ann"]).env("BELLWETHER_ETCD_PASSWORD", "right-one");
        let elsewhere = ended(elsewhere);
        assert_eq!(elsewhere.code, 5, "{asks:?}: {}", elsewhere.err);
        assert!(elsewhere.err.contains("permission"), "{asks:?}: {}", elsewhere.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_file_is_read_without_its_line_break() {
    let etcd = Etcd::options().user("ann", "right-one", "/shop/").start().await;
    let file = etcd.folder().join("password");
    std::fs::write(&file, "right-one\n").unwrap();
    let ran = run([
        "nodes".as_ref(),
        "-cshop".as_ref(),
        "--etcd".as_ref(),
        etcd.endpoint(0).as_ref(),
        "--etcd-user=ann".as_ref(),
        "--etcd-password-file".as_ref(),
        file.as_os_str(),
    ]);
    assert_eq!(ran.code, 0, "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_authority_is_exit_code_5_and_names_the_flag_and_the_right_one_works() {
    let etcd = Etcd::options().tls().start().await;
    let endpoint = etcd.endpoint(0);
    let folder = tempfile::tempdir().unwrap();
    let stranger = Pki::new(folder.path(), "stranger");
    let own = etcd.pki().client("ann", Validity::Now);
    let asking = |asks: &[&str], ca: &std::path::Path| {
        let mut command = bellwether(asks.iter().chain(&["--etcd", &endpoint, "--etcd-ca-file"]));
        command.arg(ca).arg("--etcd-cert-file").arg(&own.cert);
        command.arg("--etcd-key-file").arg(&own.key);
        ended(command)
    };
    for asks in [["nodes"].as_slice(), &["watch", "k"]] {
        let wrong = asking(asks, &stranger.ca);
        assert_eq!(wrong.code, 5, "{asks:?}: {}", wrong.err);
        assert!(wrong.err.contains("--etcd-ca-file"), "{asks:?}: {}", wrong.err);
    }
    let with_ca = |ca: &std::path::Path| asking(&["nodes"], ca);
    let right = with_ca(&etcd.pki().ca);
    assert_eq!(right.code, 0, "{}", right.err);
    let missing = with_ca("no-such-file".as_ref());
    assert_eq!(missing.code, 2, "{}", missing.err);
    assert!(missing.err.contains("no-such-file"), "{}", missing.err);
}

#[test]
fn a_port_in_use_is_exit_code_7_before_anything_joins_and_says_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for command in [["demo", "--nodes=1"], ["run", "--standalone"]] {
        let ran = run(command.iter().chain(&["--listen", address.as_str()]));
        assert_eq!(ran.code, 7, "{command:?}: {}", ran.err);
        for word in [address.as_str(), "in use", "--listen", "0 for any"] {
            assert!(ran.err.contains(word), "{command:?} should say {word:?}: {}", ran.err);
        }
    }
}

#[test]
fn a_node_is_asked_by_http_where_no_certificates_are_installed_and_https_says_what_it_needs() {
    let bare = |url: &str| {
        let mut command = bellwether(["check", "--url", url]);
        command.env("SSL_CERT_FILE", "/no/such/file").env("SSL_CERT_DIR", "/no/such/folder");
        ended(command)
    };
    let nobody = reserved_port();
    let closed = nobody.address();
    let plain = bare(&format!("http://{closed}"));
    assert_eq!(plain.code, 4, "it is not there, and that is all: {}", plain.err);
    let secure = bare(&format!("https://{closed}"));
    assert_eq!(secure.code, 7, "{}", secure.err);
    assert!(secure.err.contains("SSL_CERT_FILE") && secure.err.contains("--url"), "{}", secure.err);
}
