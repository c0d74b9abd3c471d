//! Files in the repository that a command generates.

use std::{fs, path::PathBuf};

use bellwether::{
    k8s::{client::ClientMetrics, operator::OperatorMetrics, queue::QueueMetrics},
    node::NodeMetrics,
    operator::uptime::metrics::UptimeMetrics,
    telemetry::{
        metrics::{self, MetricRow, describe},
        server::ServerMetrics,
    },
};

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Asserts that the file has this content; with `BELLWETHER_UPDATE` in the environment, writes the file first.
#[track_caller]
pub(crate) fn assert_kept(path: &str, wanted: &str) {
    let file = root().join(path);
    if std::env::var_os("BELLWETHER_UPDATE").is_some() {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, wanted).unwrap();
    }
    let kept = fs::read_to_string(&file).unwrap_or_default();
    assert!(kept == wanted, "{path} is behind: run `BELLWETHER_UPDATE=1 cargo test --test deploy`");
}

/// All metrics of a process of ours.
pub(crate) fn catalogue() -> Vec<MetricRow> {
    let mut rows = describe(&NodeMetrics::collectors());
    rows.extend(describe(&OperatorMetrics::collectors()));
    rows.extend(describe(&QueueMetrics::collectors()));
    rows.extend(describe(&UptimeMetrics::collectors()));
    rows.extend(describe(&ClientMetrics::collectors()));
    rows.extend(describe(&ServerMetrics::collectors()));
    rows.extend(describe(&metrics::base_collectors()));
    rows
}
