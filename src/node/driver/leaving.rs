//! Leaving: a node ends its work first, then its office and its lease, at the latest by the deadline. A node whose
//! store denies that, as after its rights were removed, does not wait for the deadline.

use std::time::Duration;

use tokio::sync::oneshot;

use super::{Driver, Phase, STOP_NOW_PART};
use crate::{
    clock,
    engine::{BootTime, Input},
    node::{StartError, Stopped, supervision::Line},
    store::list_watch::Stats,
};

/// How long the store must deny a node that leaves before the node gives up: a role that is replaced is no
/// reason.
const DENIED_FOR: Duration = Duration::from_secs(2);

impl Driver {
    pub(super) fn on_stop(&mut self, deadline: BootTime, reply: oneshot::Sender<Stopped>) {
        if self.phase == Phase::Rest && self.left.is_none() {
            let _ = reply.send(Stopped::Clean);
            return;
        }
        self.stops.push(reply);
        self.leave(deadline);
    }

    pub(super) fn leave(&mut self, deadline: BootTime) {
        for start in self.starts.drain(..) {
            let _ = start.send(Err(StartError::Stopped));
        }
        self.rejoin_at = None;
        let now = clock::boot_now();
        match &mut self.phase {
            Phase::Rest => return,
            Phase::Leaving { deadline: earlier, stop_now_at, .. } => {
                *earlier = deadline.min(*earlier);
                *stop_now_at = (*stop_now_at).min(*earlier);
                return;
            }
            Phase::Active => {
                let part = deadline.since(now) / STOP_NOW_PART;
                let stop_now_at = deadline - part;
                self.phase =
                    Phase::Leaving { stop_now_at, told: false, deadline, denied_since: None };
            }
        }
        self.follow(now);
        self.inputs.push_back(Input::Stop);
    }

    /// Ends the leaving when its time is over, or when the store has denied it for [`DENIED_FOR`].
    pub(super) fn leave_in_time(&mut self, now: BootTime) {
        let is_idle = self.work.is_idle();
        let Phase::Leaving { stop_now_at, told, deadline, denied_since } = &mut self.phase else {
            return;
        };
        let is_denied = !*told && is_idle && self.shared.env.store.health().denied;
        *denied_since = if is_denied { denied_since.or(Some(now)) } else { None };
        let gives_up = denied_since.is_some_and(|since| DENIED_FOR <= now.since(since));
        if gives_up {
            tracing::warn!(
                node = self.node.id().get(),
                "the store denies what a node writes to leave: its lease has to run out"
            );
        }
        if (*stop_now_at <= now || gives_up) && !*told {
            *told = true;
            self.inputs.push_back(Input::StopNow);
            self.work.cut_all(now);
        }
        if *deadline <= now {
            for stop in self.stops.drain(..) {
                let _ = stop.send(Stopped::Unclean);
            }
            if self.closing {
                self.phase = Phase::Rest;
                self.left = None;
            }
        }
    }

    pub(super) fn on_left(&mut self, clean: bool) {
        let lease = self.lease;
        if clean && let Some(lease) = lease {
            self.parent.tell(Line::Gone(lease));
        }
        tracing::info!(node = self.node.id().get(), clean, "left the cluster");
        self.end_session();
        self.feed = None;
        self.fed = Stats::default();
        self.shared.own.left();
        self.problem = None;
        self.left = Some(if clean { Stopped::Clean } else { Stopped::Unclean });
    }

    /// Once the engine has left and all work is joined, the node is at rest.
    pub(super) fn finish_leaving(&mut self) {
        let Some(stopped) = self.left.filter(|_| self.work.is_idle()) else { return };
        self.left = None;
        self.phase = Phase::Rest;
        for stop in self.stops.drain(..) {
            let _ = stop.send(stopped);
        }
        if !self.starts.is_empty() {
            self.begin();
        }
    }
}
