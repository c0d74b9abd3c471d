//! Reference work of a node: uptime checks from a folder.

use std::{path::PathBuf, sync::Arc};

use bellwether::{
    node::Node,
    operator::uptime::{
        Checks, CutBy, Folder, Uptime, UptimeMetrics, UptimeOptions, probe::Prober,
        samples::write_samples, status_file,
    },
    tasks::Tasks,
};
use prometheus::Registry;
use serde_json::{Map, Value};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cli::exit::{Exit, Failure};

/// Manifests that are read and watched while this value lives.
pub(crate) struct Manifests {
    checks: watch::Receiver<Arc<Checks>>,
    /// Tasks that read the manifests, until they are dropped.
    pub(crate) reading: Tasks,
    /// Folder of the bundled manifests, deleted on drop.
    _samples: Option<TempDir>,
}

impl Manifests {
    /// Opens the manifests of a folder.
    ///
    /// # Errors
    ///
    /// A [`Failure`] if the folder cannot be read. Problems inside the folder are logged, and the rest is
    /// used.
    pub(crate) async fn of(folder: impl Into<PathBuf>) -> Result<Self, Failure> {
        let opened = Folder::open(folder).await;
        let (folder, checks) = opened.map_err(|error| {
            Failure::caused(Exit::Usage, "--checks (BELLWETHER_CHECKS)", &error)
        })?;
        let mut reading = Tasks::new();
        reading.spawn("manifests", folder.run(CancellationToken::new()));
        Ok(Self { checks, reading, _samples: None })
    }

    /// Opens the bundled manifests, which mainly check the status page at that address.
    ///
    /// # Errors
    ///
    /// A [`Failure`] if the manifests cannot be written to a temporary folder.
    pub(crate) async fn samples(page: &str) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| {
            Failure::caused(Exit::Local, "writing the bundled checks to a temporary folder", &error)
        };
        let folder = tempfile::Builder::new().prefix("bellwether-checks-").tempdir();
        let folder = folder.map_err(failed)?;
        write_samples(folder.path(), page).map_err(failed)?;
        let manifests = Self::of(folder.path()).await?;
        Ok(Self { _samples: Some(folder), ..manifests })
    }

    /// Creates the work of one node on these manifests, with metrics in `registry`.
    ///
    /// # Errors
    ///
    /// A [`Failure`] if the registry has such metrics already.
    pub(crate) fn work(
        &self,
        registry: &Registry,
        status_file: Option<PathBuf>,
        prober: Prober,
    ) -> Result<Uptime, Failure> {
        uptime(self.checks.clone(), CutBy::Names, registry, status_file, prober)
    }
}

/// Creates the work of one node on checks, with metrics in `registry`.
///
/// # Errors
///
/// A [`Failure`] if the registry has such metrics already, or the status file is not a regular file.
pub(crate) fn uptime(
    checks: watch::Receiver<Arc<Checks>>,
    cut_by: CutBy,
    registry: &Registry,
    status_file: Option<PathBuf>,
    prober: Prober,
) -> Result<Uptime, Failure> {
    if let Some(file) = &status_file {
        status_file::check(file).map_err(|error| {
            Failure::caused(Exit::Usage, "--status-file (BELLWETHER_STATUS_FILE)", &error)
        })?;
    }
    let metrics = UptimeMetrics::register(registry)
        .map_err(|error| Failure::caused(Exit::Failed, "registering metrics", &error))?;
    let probe = Arc::new(prober);
    let options = UptimeOptions { cut_by, status_file, metrics, probe, ..UptimeOptions::default() };
    Ok(Uptime::new(checks, options))
}

/// Follows the results beside a node, as one of these tasks.
pub(crate) fn follow(uptime: &Uptime, node: Arc<dyn Node>, tasks: &mut Tasks) {
    let uptime = uptime.clone();
    tasks.spawn("uptime results", async move {
        uptime.follow(node, CancellationToken::new()).await;
    });
}

/// Adds the report on the checks to the JSON of `/status`.
pub(crate) fn show(uptime: &Uptime, status: &mut Map<String, Value>) {
    let report = Arc::clone(&uptime.report().borrow());
    let report = serde_json::to_value(&*report).expect("a report has string keys");
    status.insert("checks".into(), report);
}
