//! The store on a real etcd.
//!
//! This is the only module that names `etcd_client`. Only the messages and the calls of that crate are used;
//! the rest is here, because the crate's own balancer continues to send to dead members: one channel per member
//! ([`link`]), the choice of the member ([`pool`]), the execution of a call ([`calls`]), the supervision of
//! the members ([`referee`]), the meaning of errors ([`errors`]), the log of lasting errors
//! ([`complaints`]), tokens ([`auth`]) and certificates ([`tls`]).
//!
//! # Guarantees
//!
//! - A call ends by its deadline, even if the network hangs.
//! - A request that may have taken effect is sent once. A request that provably took no effect, and a
//!   request that only reads, is sent again to another member, so that one dead member of three is not
//!   noticed.
//! - If a member is silent while another one answers, calls switch to the other one within half a second.
//! - No password, token or value appears in an error, a log or a `Debug`.

mod auth;
mod calls;
mod complaints;
mod config;
mod connector;
mod convert;
mod errors;
#[cfg(test)]
mod fake;
mod lease;
mod link;
mod metrics;
mod pool;
mod referee;
mod tls;
mod watch;

use std::{
    fmt::{self, Debug},
    future::Future,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use etcd_client::LeaseGrantOptions;
use tokio_util::sync::CancellationToken;

pub use self::config::{ConfigError, EtcdConfig, Password, Tls};
#[doc(hidden)]
pub use self::metrics::EtcdMetrics;
use self::{
    auth::Auth,
    calls::{Call, Repeat, call},
    lease::Renewals,
    metrics::Switch,
    pool::{MOST_MEMBERS, Pool},
    tls::Watched,
};
use crate::{
    engine::{
        StoreTiming,
        types::{LeaseId, Revision},
    },
    store::{
        Get, GetAnswer, Health, LeaseAnswer, Store, StoreError, Txn, TxnAnswer, Watch, WatchRequest,
    },
    tasks::Tasks,
};

/// A store on a real etcd. Closes its connections when dropped. See the module's docs.
pub struct EtcdStore {
    pool: Arc<Pool>,
    renewals: Renewals,
    suspect_after: Duration,
    /// Cancelled when one of the tasks has ended.
    failed: CancellationToken,
    // Background tasks, which end when the store is dropped.
    _tasks: Tasks,
}

/// Reason why the connection to an etcd failed.
#[derive(Debug, thiserror::Error)]
#[doc(hidden)]
pub enum ConnectError {
    /// The configuration is not usable.
    #[error("the etcd configuration cannot be used")]
    Config(#[source] ConfigError),
    /// No member answered, or etcd refused the call.
    #[error("etcd cannot be used")]
    Store(#[source] StoreError),
}

/// Status that a member reports about itself, for `check` and the status page.
#[derive(Clone, Debug, PartialEq, Eq)]
#[doc(hidden)]
pub struct MemberStatus {
    /// URL of the member.
    pub endpoint: String,
    /// Version of the member's etcd, such as `3.7.3`.
    pub version: String,
    /// Id of the etcd cluster that the member belongs to: the same for all members of a cluster.
    pub cluster: u64,
    /// Whether the member leads etcd's cluster.
    pub leads: bool,
    /// Whether the member is a learner: a learner serves no client and should not be an endpoint.
    pub is_learner: bool,
    /// Size of the member's database file, in bytes.
    pub db_bytes: u64,
    /// Part of the database file that is in use, in bytes; a defragmentation frees the rest.
    pub db_in_use_bytes: u64,
    /// Size at which the member stops accepting writes, in bytes; zero if the member does not report it
    /// (before 3.6).
    pub db_quota_bytes: u64,
    /// Alarms and errors that the member reports, such as `NOSPACE`.
    pub alarms: Vec<String>,
}

impl EtcdStore {
    /// Creates a store on this etcd; nothing is sent yet. Call it in the runtime that is to do the I/O:
    /// later calls may come from any other runtime.
    ///
    /// # Errors
    ///
    /// The first field that is not usable, or the TLS file that cannot be read.
    pub fn new(config: &EtcdConfig) -> Result<Self, ConfigError> {
        let endpoints = config.validate()?;
        if endpoints.len() > MOST_MEMBERS {
            return Err(ConfigError::new(
                "endpoints",
                format!("{} entries", endpoints.len()),
                "are too many",
                format!("give at most {MOST_MEMBERS}"),
            ));
        }
        let secure = endpoints.iter().any(|endpoint| endpoint.starts_with("https:"));
        let files = secure.then(|| Watched::new(config.tls.clone().unwrap_or_default()));
        let files = files.transpose()?;
        let auth = config.user.clone().map(|(user, password)| Arc::new(Auth::new(user, password)));
        let pool = Arc::new(Pool::new(
            endpoints,
            files.as_ref().map(Watched::material),
            auth.clone(),
            config.key_to_probe(),
            config.metrics.clone().unwrap_or_else(EtcdMetrics::unregistered),
        )?);
        let mut tasks = Tasks::new();
        let failed = CancellationToken::new();
        let deciding = referee::decide(pool.clone(), config.suspect_after);
        tasks.spawn("etcd suspicions", never(failed.clone(), deciding));
        tasks.spawn("etcd recovery", never(failed.clone(), referee::recover(pool.clone())));
        let surveying = referee::survey(pool.clone(), config.survey_every);
        tasks.spawn("etcd survey", never(failed.clone(), surveying));
        if let Some(files) = files {
            let following = referee::follow_files(pool.clone(), files, config.reload_every);
            tasks.spawn("etcd certificates", never(failed.clone(), following));
        }
        if let Some(auth) = auth {
            tasks.spawn("etcd login", never(failed.clone(), auth.keep_logged_in(pool.clone())));
        }
        Ok(Self {
            pool,
            renewals: Renewals::default(),
            suspect_after: config.suspect_after,
            failed,
            _tasks: tasks,
        })
    }

    /// Creates a store on this etcd, and waits until a member has answered; later calls go to the first
    /// member that answered.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Config`] for the errors of [`new`](Self::new); [`ConnectError::Store`] if no member
    /// answers within [`EtcdConfig::connect_within`], or if etcd refuses the user or the certificate.
    #[doc(hidden)]
    pub async fn connect(config: &EtcdConfig) -> Result<Self, ConnectError> {
        let store = Self::new(config).map_err(ConnectError::Config)?;
        referee::first_look(&store.pool).await;
        let get = Get::key(config.key_to_probe());
        match store.get(get, config.connect_within).await {
            Ok(_) => Ok(store),
            // The user may not read that key; the login succeeded, so etcd knows the user.
            Err(StoreError::Denied { message, .. }) if message.contains("permission denied") => {
                Ok(store)
            }
            Err(error) => Err(ConnectError::Store(error)),
        }
    }

    /// Status of every member, in the order of the endpoints.
    pub async fn members(&self, timeout: Duration) -> Vec<Result<MemberStatus, StoreError>> {
        let asking = (0..self.pool.len()).map(|member| self.member_status(member, timeout));
        futures::future::join_all(asking).await
    }

    async fn member_status(
        &self,
        member: usize,
        timeout: Duration,
    ) -> Result<MemberStatus, StoreError> {
        let endpoint = self.pool.endpoint(member);
        let mut maintenance = self.pool.link(member).maintenance();
        let status = match tokio::time::timeout(timeout, maintenance.status()).await {
            Ok(Ok(status)) => status,
            Ok(Err(error)) => {
                return Err(errors::classify(&error).into_error("status", endpoint, Revision(0)));
            }
            Err(_) => return Err(errors::unanswered("status", endpoint, timeout)),
        };
        let bytes = |n: i64| u64::try_from(n).unwrap_or(0);
        let own = status.header().map(etcd_client::ResponseHeader::member_id);
        Ok(MemberStatus {
            endpoint: endpoint.to_owned(),
            version: status.version().to_owned(),
            cluster: status.header().map_or(0, etcd_client::ResponseHeader::cluster_id),
            leads: status.leader() != 0 && own == Some(status.leader()),
            is_learner: status.is_learner(),
            db_bytes: bytes(status.db_size()),
            db_in_use_bytes: bytes(status.raft_used_db_size()),
            db_quota_bytes: bytes(status.db_size_quota()),
            alarms: status.errors().to_vec(),
        })
    }

    fn call(&self, name: &'static str, repeat: Repeat, timeout: Duration) -> Call {
        Call {
            name,
            repeat,
            asked: Revision(0),
            timeout,
            suspect_after: self.suspect_after,
            takes_space: false,
            proves_quorum: true,
            avoid: None,
        }
    }
}

/// Runs a task that goes on as long as the store. If the task ends all the same, by a panic, the store has
/// failed.
async fn never<T>(failed: CancellationToken, task: impl Future<Output = T>) {
    let _failed = failed.drop_guard();
    task.await;
}

impl Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdStore").field("health", &self.health()).finish_non_exhaustive()
    }
}

/// Number of seconds for etcd, which counts leases in whole seconds; rounded up.
fn whole_seconds(ttl: Duration) -> i64 {
    i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX)
}

#[async_trait]
impl Store for EtcdStore {
    fn kind(&self) -> &'static str {
        "etcd"
    }

    fn timing(&self) -> StoreTiming {
        StoreTiming::ETCD
    }

    async fn txn(&self, txn: Txn, timeout: Duration) -> Result<TxnAnswer, StoreError> {
        let writes =
            txn.then.iter().chain(&txn.otherwise).any(|op| !matches!(op, super::Op::Get(_)));
        let repeat = if writes { Repeat::Never } else { Repeat::Safe };
        // Depends on the chosen branch, which is not known yet: most transactions write in `then`.
        let takes_space = txn.then.iter().any(|op| matches!(op, super::Op::Put { .. }));
        let how = Call { takes_space, ..self.call("txn", repeat, timeout) };
        let response = call(&self.pool, how, |link| {
            let (mut kv, txn) = (link.kv(), convert::txn(&txn));
            async move { kv.txn(txn).await }
        });
        Ok(convert::txn_answer(response.await?))
    }

    async fn get(&self, get: Get, timeout: Duration) -> Result<GetAnswer, StoreError> {
        let how =
            Call { asked: get.at.unwrap_or_default(), ..self.call("get", Repeat::Safe, timeout) };
        let response = call(&self.pool, how, |link| {
            let (mut kv, key) = (link.kv(), get.range.from.clone());
            let options = convert::get_options(&get);
            async move { kv.get(key, Some(options)).await }
        });
        Ok(convert::get_answer(response.await?))
    }

    async fn grant(
        &self,
        lease: LeaseId,
        ttl: Duration,
        timeout: Duration,
    ) -> Result<LeaseAnswer, StoreError> {
        let how = Call { takes_space: true, ..self.call("grant", Repeat::Never, timeout) };
        let response = call(&self.pool, how, |link| {
            let mut client = link.lease();
            let options = LeaseGrantOptions::new().with_id(lease.0);
            async move { client.grant(whole_seconds(ttl), Some(options)).await }
        })
        .await?;
        let (revision, cluster) = convert::header(response.header());
        let ttl = Duration::from_secs(u64::try_from(response.ttl()).unwrap_or(0));
        Ok(LeaseAnswer { ttl, revision, cluster })
    }

    async fn revoke(&self, lease: LeaseId, timeout: Duration) -> Result<LeaseAnswer, StoreError> {
        self.renewals.forget(lease);
        let response = call(&self.pool, self.call("revoke", Repeat::Never, timeout), |link| {
            let mut client = link.lease();
            async move { client.revoke(lease.0).await }
        })
        .await?;
        let (revision, cluster) = convert::header(response.header());
        Ok(LeaseAnswer { ttl: Duration::ZERO, revision, cluster })
    }

    async fn keep_alive(
        &self,
        lease: LeaseId,
        timeout: Duration,
    ) -> Result<LeaseAnswer, StoreError> {
        let how = Call { proves_quorum: false, ..self.call("keep_alive", Repeat::Safe, timeout) };
        self.renewals.renew(&self.pool, lease, how).await
    }

    async fn watch(
        &self,
        request: WatchRequest,
        timeout: Duration,
    ) -> Result<Box<dyn Watch>, StoreError> {
        let how = Call { proves_quorum: false, ..self.call("watch", Repeat::Safe, timeout) };
        Ok(Box::new(watch::open(&self.pool, &request, how).await?))
    }

    async fn failed(&self) -> String {
        self.failed.cancelled().await;
        "a task of the etcd client has ended".to_owned()
    }

    fn health(&self) -> Health {
        self.pool.health()
    }

    fn avoid_current(&self) {
        self.pool.leave(self.pool.current(), Switch::Asked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_background_task_that_panics_makes_the_store_fail_and_one_that_goes_on_does_not() {
        let store = EtcdStore::new(&EtcdConfig::new(["http://127.0.0.1:9"])).unwrap();
        let waited = tokio::time::timeout(Duration::from_millis(50), store.failed()).await;
        assert!(waited.is_err(), "an etcd that is not there is no failure of the store");
        let mut tasks = Tasks::new();
        tasks.spawn("panics", never(store.failed.clone(), async { panic!("on purpose") }));
        let why = tokio::time::timeout(Duration::from_secs(60), store.failed()).await.unwrap();
        assert!(why.contains("has ended"), "{why}");
    }
}
