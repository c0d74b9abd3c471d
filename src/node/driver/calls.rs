//! Sends the engine's calls to the store: stamps, deadlines, metrics and answers.
//!
//! Calls are not ordered among each other, and several are in flight at once. Each call has a deadline,
//! after which it is abandoned and the engine receives [`Outcome::Unknown`].

use std::{collections::VecDeque, panic::AssertUnwindSafe, time::Duration};

use futures::FutureExt as _;
use tokio::task::JoinSet;

use crate::{
    clock,
    engine::{BootTime, Call, CallId, Change, Config, Input, LeaseId, Outcome, timing::span},
    node::env::Env,
    store::protocol,
    tasks::panic_message,
};

/// Deadline of calls that have no shorter one.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Beats whose echo is still awaited; more than the engine allows in flight.
const ECHOES: usize = 64;

/// A call that was answered or abandoned.
#[derive(Debug)]
struct Answered {
    id: CallId,
    call: Call,
    sent_at: BootTime,
    received_at: BootTime,
    outcome: Outcome,
}

/// Calls of one driver that are in flight.
pub(super) struct Calls {
    env: Env,
    d: Duration,
    check_every: Duration,
    ttl: Duration,
    granted: Duration,
    /// Until when the lease lives at least, by its last renewal.
    lease_until: BootTime,
    on_the_way: JoinSet<Answered>,
    echoes: VecDeque<(LeaseId, u64, BootTime)>,
}

impl Calls {
    pub(super) fn new(env: Env, config: &Config) -> Self {
        let (d, ttl) = (config.failover.d(), config.ttl);
        let (on_the_way, echoes) = (JoinSet::new(), VecDeque::new());
        let (granted, lease_until) = (Duration::ZERO, BootTime::default());
        let check_every = config.timing.check_every;
        Self { env, d, check_every, ttl, granted, lease_until, on_the_way, echoes }
    }

    /// TTL that the store granted last.
    pub(super) const fn granted_ttl(&self) -> Duration {
        self.granted
    }

    /// Time until which the lease lives at least, by its last renewal.
    pub(super) const fn lease_until(&self) -> BootTime {
        self.lease_until
    }

    /// Deadline of a call. At most D for a call that extends authority: a later answer extends nothing.
    fn timeout(&self, call: &Call) -> Duration {
        match call {
            Call::Beat { .. } | Call::Take(_) => self.d,
            Call::Renew { .. } => (self.ttl / 4).max(Duration::from_millis(500)),
            Call::Check { .. } => self.check_every,
            _ => TIMEOUT,
        }
    }

    /// Sends a call to the store.
    pub(super) fn send(&mut self, id: CallId, call: Call) {
        if let Call::Beat { record, .. } = &call
            && let Some(lease) = record.lease
        {
            if ECHOES <= self.echoes.len() {
                self.echoes.pop_front();
            }
            self.echoes.push_back((lease, record.n, clock::boot_now()));
        }
        let (env, timeout) = (self.env.clone(), self.timeout(&call));
        self.on_the_way.spawn(async move {
            // R1 (stamps of own spans): read the clock before the transport gets the request, and after it
            // returned the answer.
            let sent_at = clock::boot_now();
            tracing::trace!(call = protocol::name(&call), "sent");
            let sent = protocol::send(env.store.as_ref(), &env.keys, &call, timeout);
            // The engine sets no deadline for its calls: every call must be answered, also if it panics.
            let outcome = AssertUnwindSafe(sent).catch_unwind().await.unwrap_or_else(|panic| {
                let (call, panic) = (protocol::name(&call), panic_message(panic.as_ref()));
                tracing::error!(
                    call,
                    panic,
                    "a call to the store panicked: its outcome is unknown"
                );
                Outcome::Unknown
            });
            let received_at = clock::boot_now();
            Answered { id, call, sent_at, received_at, outcome }
        });
    }

    /// Waits for the next answer; `None` while no call is in flight.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: an answer that was not returned is returned next time.
    pub(super) async fn next(&mut self) -> Option<Input> {
        match self.on_the_way.join_next().await? {
            Ok(answered) => {
                self.measure(&answered);
                let Answered { id, sent_at, received_at, outcome, .. } = answered;
                Some(Input::Answered { id, sent_at, received_at, outcome })
            }
            // Without the answer the engine would wait forever.
            Err(error) => panic!("a call to the store was lost: {error}"),
        }
    }

    fn measure(&mut self, answered: &Answered) {
        let metrics = &self.env.metrics;
        let kind = protocol::name(&answered.call);
        let took = answered.received_at.since(answered.sent_at).as_secs_f64();
        tracing::trace!(call = ?answered.call, outcome = ?answered.outcome, "answered");
        metrics.store_calls.with_label_values(&[kind, result_of(&answered.outcome)]).inc();
        metrics.store_call_seconds.with_label_values(&[kind]).observe(took);
        let Outcome::Done(answer) = &answered.outcome else { return };
        match &answered.call {
            Call::Beat { record, .. } => {
                metrics.beat_seconds.observe(took);
                let left = (answered.sent_at + span(record.d)).since(answered.received_at);
                metrics.authority_margin.observe(left.as_secs_f64());
            }
            Call::Renew { .. } | Call::Grant { .. } => {
                if matches!(answered.call, Call::Renew { .. }) {
                    metrics.keepalive_seconds.observe(took);
                }
                self.granted = answer.ttl;
                self.lease_until = answered.sent_at + answer.ttl;
                metrics.lease_remaining.set(Some(self.lease_until));
            }
            _ => (),
        }
    }

    /// Measures how long own beats took to arrive back through the watch.
    pub(super) fn on_changes(&mut self, received_at: BootTime, changes: &[Change]) {
        let records = changes.iter().filter_map(|change| match change {
            Change::Record(Some(stored)) => stored.value.as_ref(),
            _ => None,
        });
        for record in records {
            let echo = self
                .echoes
                .iter()
                .position(|(lease, n, _)| Some(*lease) == record.lease && *n == record.n);
            if let Some(echo) = echo {
                let (_, _, sent_at) = self.echoes[echo];
                self.echoes.drain(..=echo);
                self.env.metrics.watch_lag.observe(received_at.since(sent_at).as_secs_f64());
            }
        }
    }
}

const fn result_of(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Done(_) => "done",
        Outcome::Refused(_) => "refused",
        Outcome::LeaseNotFound => "lease_not_found",
        Outcome::LeaseExists => "lease_exists",
        Outcome::Failed => "failed",
        Outcome::Unknown => "unknown",
    }
}
