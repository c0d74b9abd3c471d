//! Leaving: a node ends its work first, then its office and its lease, at the latest by the deadline.

use tokio::sync::oneshot;

use super::{Driver, Phase, STOP_NOW_PART};
use crate::{
    clock,
    engine::{BootTime, Input},
    node::{StartError, Stopped, supervision::Line},
    store::list_watch::Stats,
};

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
                self.phase = Phase::Leaving { stop_now_at: deadline - part, told: false, deadline };
            }
        }
        self.follow(now);
        self.inputs.push_back(Input::Stop);
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
        self.core.own.left();
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
