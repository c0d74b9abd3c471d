//! The members of an etcd, and the choice among them.
//!
//! The choice is sticky: calls stay with one member until it fails, is silent while another answers, or is
//! much slower than another. A member that failed gets calls only after it has answered a probe, or
//! if no other member is left.

use std::{
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use etcd_client::GetOptions;
use tokio::{runtime::Handle, sync::Notify};

use super::{
    auth::Auth,
    complaints::Complaints,
    config::ConfigError,
    errors::{Verdict, classify, with_context},
    link::Link,
    metrics::{EtcdMetrics, Switch},
    tls::Material,
};
use crate::{
    clock::{self, AtomicTime},
    engine::types::BootTime,
    store::Health,
};

/// Largest number of members that fit [`Tried`].
pub(super) const MOST_MEMBERS: usize = 32;

/// Pause before a member that failed is probed again: doubled with every failure, within these limits.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(2);

/// Members that a call was sent to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tried(u32);

impl Tried {
    pub(super) fn insert(&mut self, member: usize) {
        self.0 |= 1 << member;
    }

    fn contains(self, member: usize) -> bool {
        self.0 & (1 << member) != 0
    }
}

/// Treatment of a link that is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    /// The old link works; calls in flight on it may succeed.
    Retired,
    /// The old link hangs; its calls are ended.
    Abandoned,
}

struct Member {
    endpoint: String,
    link: RwLock<Arc<Link>>,
    up: AtomicBool,
    /// When the member last gave an answer that took a quorum.
    answered: AtomicTime,
    /// Moving average of the latency of such answers, in microseconds; zero = unknown.
    latency: AtomicU64,
    failures: AtomicU32,
    retry_at: AtomicTime,
    has_problem: AtomicBool,
    problem: Mutex<Option<String>>,
}

/// The members and the current one. See the module's docs.
pub(super) struct Pool {
    members: Vec<Member>,
    current: AtomicUsize,
    suspects: AtomicU32,
    /// Notified when a member is suspected.
    pub(super) suspicion: Notify,
    /// Notified when a member is found to be down.
    pub(super) fallen: Notify,
    probe_key: Vec<u8>,
    material: RwLock<Option<Arc<Material>>>,
    auth: Option<Arc<Auth>>,
    metrics: EtcdMetrics,
    complaints: Complaints,
    made: BootTime,
    /// Runtime that does the I/O: links must not use the runtime of an arbitrary caller.
    runtime: Handle,
}

impl Pool {
    pub(super) fn new(
        endpoints: Vec<String>,
        material: Option<Arc<Material>>,
        auth: Option<Arc<Auth>>,
        probe_key: Vec<u8>,
        metrics: EtcdMetrics,
    ) -> Result<Self, ConfigError> {
        let members = endpoints
            .into_iter()
            .map(|endpoint| {
                let link =
                    Link::new(&endpoint, material.as_deref(), auth.as_ref().map(|a| a.header()));
                let link = link.map_err(|error| {
                    ConfigError::new(
                        "endpoints",
                        endpoint.as_str(),
                        format!("cannot be used ({error})"),
                        "write scheme://host:port",
                    )
                })?;
                Ok(Member::new(endpoint, link))
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            // Spreads the nodes of a cluster over the members until the first measurement finds the
            // fastest.
            current: AtomicUsize::new(rand::random_range(0..members.len())),
            members,
            suspects: AtomicU32::new(0),
            suspicion: Notify::new(),
            fallen: Notify::new(),
            probe_key,
            material: RwLock::new(material),
            auth,
            metrics,
            complaints: Complaints::default(),
            made: clock::boot_now(),
            runtime: Handle::current(),
        })
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn metrics(&self) -> &EtcdMetrics {
        &self.metrics
    }

    pub(super) fn complaints(&self) -> &Complaints {
        &self.complaints
    }

    pub(super) fn auth(&self) -> Option<&Arc<Auth>> {
        self.auth.as_ref()
    }

    pub(super) fn endpoint(&self, member: usize) -> &str {
        &self.members[member].endpoint
    }

    pub(super) fn current(&self) -> usize {
        self.current.load(SeqCst)
    }

    pub(super) fn link(&self, member: usize) -> Arc<Link> {
        read(&self.members[member].link).clone()
    }

    /// Chooses a member among those not tried: the current one unless it is down, then the fastest that is
    /// connected, then any that is up, then any.
    pub(super) fn choose(&self, tried: Tried) -> Option<usize> {
        let current = self.current();
        if !tried.contains(current) && self.members[current].up.load(SeqCst) {
            return Some(current);
        }
        (0..self.members.len()).filter(|&member| !tried.contains(member)).min_by_key(|&member| {
            let state = &self.members[member];
            let up = state.up.load(SeqCst);
            let warm = read(&state.link).is_warm();
            (!up, !warm, state.latency.load(SeqCst), member)
        })
    }

    /// Records that a member answered, which took a quorum.
    pub(super) fn answered(&self, member: usize, link: &Link, took: Duration) {
        let state = &self.members[member];
        link.answered();
        if !std::ptr::eq(Arc::as_ptr(&read(&state.link)), link) {
            // The answer came on a link that is not in use (any more), and proves nothing about the one
            // that is.
            return;
        }
        state.answered.store(clock::boot_now());
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).clamp(1, 60_000_000);
        let before = state.latency.load(SeqCst);
        let average = if before == 0 { took } else { (before * 7 + took) / 8 };
        state.latency.store(average.max(1), SeqCst);
        if !state.up.load(SeqCst) {
            state.up.store(true, SeqCst);
            tracing::info!(endpoint = %state.endpoint, "etcd member answers");
        }
        if state.failures.load(SeqCst) != 0 {
            state.failures.store(0, SeqCst);
        }
        if state.has_problem.load(SeqCst) && state.has_problem.swap(false, SeqCst) {
            *lock(&state.problem) = None;
        }
        let current = self.current();
        if current != member && !self.is_up(current) {
            self.switch(current, member, Switch::Failed);
        }
    }

    /// Records that a member could not be reached, broke off, or cannot serve: calls switch to other
    /// members.
    pub(super) fn failed(&self, member: usize, problem: &str) {
        let state = &self.members[member];
        self.note_problem(member, problem);
        let failures = state.failures.fetch_add(1, SeqCst).min(16);
        let pause = RETRY_FIRST.saturating_mul(1 << failures).min(RETRY_MOST);
        state.retry_at.store(clock::boot_now() + pause);
        if state.up.swap(false, SeqCst) {
            let endpoint = &state.endpoint;
            tracing::warn!(%endpoint, error = problem, "etcd member failed");
        }
        self.fallen.notify_one();
        self.leave(member, Switch::Failed);
    }

    /// Records the error of a member, for people.
    pub(super) fn note_problem(&self, member: usize, problem: &str) {
        let state = &self.members[member];
        *lock(&state.problem) = Some(problem.to_owned());
        state.has_problem.store(true, SeqCst);
    }

    /// Records that a member has not answered a call for too long; the referee investigates.
    pub(super) fn suspect(&self, member: usize) {
        self.suspects.fetch_or(1 << member, SeqCst);
        self.suspicion.notify_one();
    }

    /// Takes a suspected member off the list.
    pub(super) fn next_suspect(&self) -> Option<usize> {
        let suspects = self.suspects.load(SeqCst);
        if suspects == 0 {
            return None;
        }
        let member = suspects.trailing_zeros() as usize;
        self.suspects.fetch_and(!(1 << member), SeqCst);
        Some(member)
    }

    /// Switches away from a member if it is the current one and another one is up.
    pub(super) fn leave(&self, member: usize, why: Switch) {
        if self.current() != member {
            return;
        }
        let mut tried = Tried::default();
        tried.insert(member);
        if let Some(other) = self.choose(tried)
            && self.members[other].up.load(SeqCst)
        {
            self.switch(member, other, why);
        }
    }

    /// Switches to the member `to`, if `from` is the current one.
    pub(super) fn switch(&self, from: usize, to: usize, why: Switch) {
        if self.current.compare_exchange(from, to, SeqCst, SeqCst).is_ok() && from != to {
            let (from, to) = (self.endpoint(from), self.endpoint(to));
            tracing::info!(from, to, reason = why.label(), "switched to another etcd member");
            self.metrics.switches.with_label_values(&[why.label()]).inc();
        }
    }

    /// Creates a new link to a member, not in use yet.
    pub(super) fn fresh_link(&self, member: usize) -> Option<Arc<Link>> {
        let material = read(&self.material).clone();
        let _inside = self.runtime.enter();
        let token = self.auth.as_ref().map(|auth| auth.header());
        match Link::new(self.endpoint(member), material.as_deref(), token) {
            Ok(link) => Some(Arc::new(link)),
            Err(error) => {
                tracing::error!(endpoint = self.endpoint(member), %error, "creating a connection to etcd failed");
                None
            }
        }
    }

    /// Leaves a connection at whose end is no etcd: a proxy may have accepted it before it had a route to the
    /// member, and would answer in etcd's place for as long as the connection lives.
    pub(super) fn leave_link(&self, member: usize, link: &Arc<Link>) {
        if Arc::ptr_eq(&self.link(member), link)
            && let Some(fresh) = self.fresh_link(member)
        {
            self.install(member, fresh, Before::Retired);
        }
    }

    /// Puts a link in use that has answered a probe.
    pub(super) fn install_proven(
        &self,
        member: usize,
        link: &Arc<Link>,
        took: Duration,
        before: Before,
    ) {
        self.install(member, link.clone(), before);
        self.answered(member, link, took);
    }

    /// Puts a link in use, instead of the old one.
    pub(super) fn install(&self, member: usize, link: Arc<Link>, before: Before) {
        let old = {
            let mut place =
                self.members[member].link.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *place, link)
        };
        match before {
            Before::Retired => old.retire(),
            Before::Abandoned => old.abandon(),
        }
        self.metrics.reconnects.inc();
    }

    /// Sets the certificates for links made from now on.
    pub(super) fn set_material(&self, material: Arc<Material>) {
        *self.material.write().unwrap_or_else(PoisonError::into_inner) = Some(material);
    }

    /// Time of a member's last answer, as a mark to compare.
    pub(super) fn last_answer(&self, member: usize) -> BootTime {
        self.members[member].answered.load()
    }

    /// Time since a member last answered.
    pub(super) fn silent_for(&self, member: usize) -> Duration {
        clock::boot_now().since(self.last_answer(member))
    }

    /// Time since any member last answered; since the pool was made, if none has.
    pub(super) fn all_silent_for(&self) -> Duration {
        let last = (0..self.members.len()).map(|member| self.last_answer(member)).max();
        clock::boot_now().since(last.unwrap_or_default().max(self.made))
    }

    /// Time since a member last proved that it is in a quorum, by an answer or by an event: a member that
    /// is cut off delivers no events, except those that it had not delivered before.
    pub(super) fn unproven_for(&self, member: usize) -> Duration {
        let proven = self.last_answer(member).max(self.link(member).heard_at());
        clock::boot_now().since(proven)
    }

    pub(super) fn is_up(&self, member: usize) -> bool {
        self.members[member].up.load(SeqCst)
    }

    /// Whether a member that is down should be probed now.
    pub(super) fn is_due(&self, member: usize) -> bool {
        !self.is_up(member) && self.members[member].retry_at.load() <= clock::boot_now()
    }

    pub(super) fn latency(&self, member: usize) -> Option<Duration> {
        let latency = self.members[member].latency.load(SeqCst);
        (latency != 0).then(|| Duration::from_micros(latency))
    }

    /// Sends a member a read that takes a quorum, and returns the latency. Any answer of the store counts:
    /// etcd checks the token after the quorum.
    pub(super) async fn probe(
        &self,
        member: usize,
        link: &Link,
        within: Duration,
    ) -> Result<Duration, Verdict> {
        let began = clock::boot_now();
        let version = self.auth.as_ref().map(|auth| auth.version());
        let mut kv = link.kv();
        let options = GetOptions::new().with_keys_only().with_limit(1);
        let asking = kv.get(self.probe_key.as_slice(), Some(options));
        match tokio::time::timeout(within, asking).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                let verdict = with_context(classify(&error), link.tls_trouble(), link.is_warm());
                if !verdict.is_answer() {
                    return Err(verdict);
                }
                if let (Verdict::Reauthenticate(_), Some(auth), Some(version)) =
                    (verdict, &self.auth, version)
                {
                    auth.want_after(version);
                }
            }
            Err(_) => {
                return Err(Verdict::NotServing(format!("no answer to a probe within {within:?}")));
            }
        }
        let took = clock::boot_now().since(began);
        self.answered(member, link, took);
        Ok(took)
    }

    pub(super) fn health(&self) -> Health {
        let state = &self.members[self.current()];
        // A lasting condition is more useful than the error of the latest call.
        let refused = self.auth.as_ref().and_then(|auth| auth.refused_at(auth.version()));
        let denied = refused.is_some();
        let lasting = self.complaints.current().or(refused);
        Health {
            endpoint: state.endpoint.clone(),
            healthy: state.up.load(SeqCst) && !state.has_problem.load(SeqCst) && lasting.is_none(),
            problem: lasting.or_else(|| lock(&state.problem).clone()),
            denied,
        }
    }
}

impl Member {
    fn new(endpoint: String, link: Link) -> Self {
        Self {
            endpoint,
            link: RwLock::new(Arc::new(link)),
            up: AtomicBool::new(true),
            answered: AtomicTime::default(),
            latency: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            retry_at: AtomicTime::default(),
            has_problem: AtomicBool::new(false),
            problem: Mutex::new(None),
        }
    }
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
