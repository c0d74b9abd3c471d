//! Real server on a free port of loopback, with answers from a script.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bellwether::telemetry::{
    Action, ActionError, Leader, Leadership, Probe, Server, ServerConfig, StatusSource, metrics,
};
use prometheus::Registry;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Timeout against a hanging test, far above the duration of any step here.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Interval of polls of a condition.
pub(crate) const POLL: Duration = Duration::from_millis(50);

/// State and behaviour of the script's node, which a test may change.
pub(crate) struct Script {
    pub(crate) status: Mutex<Value>,
    pub(crate) liveness: Mutex<Probe>,
    pub(crate) readiness: Mutex<Probe>,
    pub(crate) leadership: Mutex<Leadership>,
    pub(crate) mood: Mutex<Mood>,
    /// Number of calls that hang.
    pub(crate) hanging: AtomicU64,
    pub(crate) actions: Vec<Action>,
    pub(crate) done: Mutex<Vec<(Action, Option<String>)>>,
    pub(crate) changed: Notify,
}

/// How the node answers its calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Well,
    Hangs,
    Panics,
}

impl Script {
    pub(crate) fn new(status: Value) -> Self {
        let leader = Leader {
            id: "1".to_owned(),
            address: Some("127.0.0.1:9001".to_owned()),
            term: "4711".to_owned(),
        };
        Self {
            status: Mutex::new(status),
            liveness: Mutex::new(Probe::Pass("the driver stepped 12 ms ago".to_owned())),
            readiness: Mutex::new(Probe::Pass("joined and synced".to_owned())),
            leadership: Mutex::new(Leadership { here: false, leader: Some(leader) }),
            mood: Mutex::new(Mood::Well),
            hanging: AtomicU64::new(0),
            actions: Action::ALL.to_vec(),
            done: Mutex::default(),
            changed: Notify::new(),
        }
    }

    async fn behave(&self) {
        let mood = *self.mood.lock().unwrap();
        match mood {
            Mood::Well => {}
            Mood::Hangs => {
                self.hanging.fetch_add(1, Ordering::Relaxed);
                std::future::pending::<()>().await;
            }
            Mood::Panics => panic!("as the script says"),
        }
    }
}

#[async_trait]
impl StatusSource for Script {
    async fn status(&self) -> Value {
        self.behave().await;
        self.status.lock().unwrap().clone()
    }

    async fn liveness(&self) -> Probe {
        self.behave().await;
        self.liveness.lock().unwrap().clone()
    }

    async fn readiness(&self) -> Probe {
        self.behave().await;
        self.readiness.lock().unwrap().clone()
    }

    async fn leadership(&self) -> Leadership {
        self.behave().await;
        self.leadership.lock().unwrap().clone()
    }

    fn actions(&self) -> Vec<Action> {
        self.actions.clone()
    }

    async fn act(&self, action: Action, node: Option<String>) -> Result<String, ActionError> {
        self.behave().await;
        if node.as_deref() == Some("9") {
            return Err(ActionError::Refused("there is no node 9".to_owned()));
        }
        self.done.lock().unwrap().push((action, node));
        Ok("node 1 resigned, term 4711 is over".to_owned())
    }

    async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// Running server; stops when dropped.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    pub(crate) script: Arc<Script>,
    pub(crate) registry: Registry,
    pub(crate) stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Served {
    pub(crate) async fn new(script: Script) -> Self {
        Self::with(script, ServerConfig::default()).await
    }

    pub(crate) async fn with(script: Script, config: ServerConfig) -> Self {
        Self::listening(script, ServerConfig { listen: "127.0.0.1:0".to_owned(), ..config }).await
    }

    /// Server at an address that an earlier server used.
    pub(crate) async fn at(script: Script, address: SocketAddr) -> Self {
        let config = ServerConfig { listen: address.to_string(), ..ServerConfig::default() };
        Self::listening(script, config).await
    }

    async fn listening(script: Script, config: ServerConfig) -> Self {
        let server = Server::bind(config).await.unwrap();
        let address = server.address();
        let script = Arc::new(script);
        let registry = metrics::registry().unwrap();
        let stop = CancellationToken::new();
        let (source, given, told) = (script.clone(), registry.clone(), stop.clone());
        let task = bellwether::tasks::spawn("server of a test", async move {
            server.serve(source, given, told).await.unwrap();
        });
        Self { address, script, registry, stop, task }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Stops the server and waits for its end.
    pub(crate) async fn stopped(mut self) {
        self.stop.cancel();
        (&mut self.task).await.unwrap();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) fn client() -> reqwest::Client {
    // No test here uses TLS, yet the client needs a provider for it. Only the first call installs the provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().timeout(Duration::from_secs(20)).build().unwrap()
}

/// Polls until `holds`; fails after [`LONG`] with the last value.
pub(crate) async fn eventually<T, F>(mut ask: impl FnMut() -> F, holds: impl Fn(&T) -> bool) -> T
where
    T: std::fmt::Debug,
    F: Future<Output = T>,
{
    let deadline = bellwether::clock::boot_now() + LONG;
    loop {
        let seen = ask().await;
        if holds(&seen) {
            return seen;
        }
        let in_time = bellwether::clock::boot_now() < deadline;
        assert!(in_time, "it did not come about within {LONG:?}; seen last: {seen:?}");
        tokio::time::sleep(POLL).await;
    }
}

pub(crate) fn empty() -> Value {
    json!({})
}
