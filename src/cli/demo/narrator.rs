//! Logs the events of the demonstration, as sentences.

use std::sync::{Mutex, PoisonError};

use crate::{
    clock,
    engine::{BootTime, Role},
    node::Membership,
};

/// Remembers the last leader, to log how long there was none.
#[derive(Debug, Default)]
pub(super) struct Narrator {
    past: Mutex<Past>,
}

#[derive(Debug, Default)]
struct Past {
    leader: Option<i64>,
    /// When the last leader was asked to resign, was killed, or left office.
    since: Option<BootTime>,
}

impl Narrator {
    pub(super) fn joined(&self, node: i64) {
        tracing::info!("node {node} has joined");
        drop(self.past());
    }

    pub(super) fn asked_to_resign(&self, node: i64) {
        tracing::info!("node {node} is asked to resign");
        self.past().since = Some(clock::boot_now());
    }

    pub(super) fn killed(&self, node: i64) {
        tracing::info!("node {node} is killed, without a word to anybody");
        let mut past = self.past();
        if past.leader == Some(node) {
            past.since = Some(clock::boot_now());
        }
    }

    /// Logs a change of the node's role.
    pub(super) fn stands(&self, node: i64, now: Membership) {
        let mut past = self.past();
        match (now.role, now.term) {
            (Role::Leader, Some(term)) if past.leader != Some(node) => {
                let gap = past.since.take().map(|it| clock::boot_now().since(it));
                let after = gap.map(|it| format!(", {:.1} ms later", it.as_secs_f64() * 1e3));
                tracing::info!("node {node} leads now: term {term}{}", after.unwrap_or_default());
                past.leader = Some(node);
            }
            (Role::Leader, _) => {}
            _ if past.leader == Some(node) => {
                tracing::info!("node {node} leads no more");
                past.leader = None;
                past.since.get_or_insert_with(clock::boot_now);
            }
            _ => {}
        }
    }

    fn past(&self) -> std::sync::MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
