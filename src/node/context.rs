//! Contexts that user work receives: the node it works for, how long it may act, and what it may write.

use std::{future::Future, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    Node,
    env::Env,
    fenced::{Fenced, Right},
    gate::{Gate as _, LeaderGate, ShardGate},
    guarded::Known,
};
use crate::engine::{ShardEpoch, ShardId, Term, WorkType};

/// Error of a check: the right to act is over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityLost {
    /// A leader's right to act is over.
    #[error("authority of term {term} is over")]
    Office {
        /// Term that has ended.
        term: Term,
    },
    /// A shard owner's right to act is over.
    #[error("authority over shard {shard} of {work} is over")]
    Shard {
        /// Work type of the shard.
        work: WorkType,
        /// Shard that is not held any more.
        shard: ShardId,
    },
}

/// Context that a leader's work receives. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LeaderContext {
    inner: Arc<LeaderInner>,
    token: CancellationToken,
}

#[derive(Debug)]
struct LeaderInner {
    gate: Arc<LeaderGate>,
    node: Arc<dyn Node>,
    env: Env,
    known: Arc<Known>,
}

impl LeaderContext {
    pub(crate) fn new(
        gate: Arc<LeaderGate>,
        node: Arc<dyn Node>,
        env: Env,
        token: CancellationToken,
    ) -> Self {
        let known = Arc::new(Known::new(&env.keys, gate.office().lease));
        Self { inner: Arc::new(LeaderInner { gate, node, env, known }), token }
    }

    /// Copy of this context with another token. `token` must end with this context's token at the latest.
    pub(crate) fn with_token(&self, token: CancellationToken) -> Self {
        Self { inner: Arc::clone(&self.inner), token }
    }

    /// Copy of this context with a gate of its own, which only the test extends.
    #[cfg(test)]
    pub(crate) fn apart(&self) -> (Self, Arc<LeaderGate>) {
        let LeaderInner { gate, node, env, .. } = &*self.inner;
        let gate = Arc::new(LeaderGate::new(gate.office()));
        let (node, env) = (Arc::clone(node), env.clone());
        (Self::new(Arc::clone(&gate), node, env, self.token.clone()), gate)
    }

    pub(crate) fn env(&self) -> &Env {
        &self.inner.env
    }

    pub(crate) fn gate(&self) -> &Arc<LeaderGate> {
        &self.inner.gate
    }

    /// Term that the node is in office for. The term grows from leader to leader. Use it to fence effects
    /// outside the store, if the target can compare it.
    pub fn term(&self) -> Term {
        self.inner.gate.office().term
    }

    /// Node that runs this work.
    pub fn node(&self) -> &Arc<dyn Node> {
        &self.inner.node
    }

    /// Resolves when the work should end.
    pub fn cancelled(&self) -> impl Future<Output = ()> + Send + use<> {
        self.token.clone().cancelled_owned()
    }

    /// Whether the work should end.
    pub fn is_cancelled(&self) -> bool {
        self.token.is_cancelled()
    }

    /// The token of [`cancelled`](Self::cancelled), for code that takes one.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Whether the node may act as leader at this moment. Call it before every effect that is not
    /// [fenced](Self::fenced), as near to it as possible.
    ///
    /// # Errors
    ///
    /// [`AuthorityLost`] if the term is over or authority has lapsed.
    pub fn check(&self) -> Result<(), AuthorityLost> {
        if self.inner.gate.is_open() {
            Ok(())
        } else {
            Err(AuthorityLost::Office { term: self.term() })
        }
    }

    /// Time until authority ends unless it is extended; zero if it is over.
    pub fn authority_left(&self) -> Duration {
        self.inner.gate.left()
    }

    /// Fenced access to the leader's data in the cluster's store: writes of a former leader fail there.
    pub fn fenced(&self) -> Fenced {
        let right = Right::Leader(Arc::clone(&self.inner.gate));
        Fenced::new(self.inner.env.clone(), right, Arc::clone(&self.inner.known))
    }
}

/// Context that a follower's routine receives. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FollowerContext {
    node: Arc<dyn Node>,
    token: CancellationToken,
}

impl FollowerContext {
    pub(crate) fn new(node: Arc<dyn Node>, token: CancellationToken) -> Self {
        Self { node, token }
    }

    /// Node that runs this work.
    pub fn node(&self) -> &Arc<dyn Node> {
        &self.node
    }

    /// Resolves when the work should end.
    pub fn cancelled(&self) -> impl Future<Output = ()> + Send + use<> {
        self.token.clone().cancelled_owned()
    }

    /// Whether the work should end.
    pub fn is_cancelled(&self) -> bool {
        self.token.is_cancelled()
    }

    /// The token of [`cancelled`](Self::cancelled), for code that takes one.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }
}

/// Context that a shard's worker receives. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ShardContext {
    inner: Arc<ShardInner>,
    token: CancellationToken,
}

#[derive(Debug)]
struct ShardInner {
    gate: Arc<ShardGate>,
    work: WorkType,
    shard: ShardId,
    epoch: ShardEpoch,
    node: Arc<dyn Node>,
    env: Env,
    known: Arc<Known>,
}

impl ShardContext {
    pub(crate) fn new(
        gate: Arc<ShardGate>,
        (work, shard, epoch): (WorkType, ShardId, ShardEpoch),
        node: Arc<dyn Node>,
        env: Env,
        token: CancellationToken,
    ) -> Self {
        let known = Arc::new(Known::new(&env.keys, gate.held().lease()));
        Self { inner: Arc::new(ShardInner { gate, work, shard, epoch, node, env, known }), token }
    }

    /// Copy of this context with another token. `token` must end with this context's token at the latest.
    pub(crate) fn with_token(&self, token: CancellationToken) -> Self {
        Self { inner: Arc::clone(&self.inner), token }
    }

    /// Work type of the shard.
    pub fn work(&self) -> &WorkType {
        &self.inner.work
    }

    /// Shard that the work runs for.
    pub fn shard(&self) -> ShardId {
        self.inner.shard
    }

    /// Epoch of this ownership. The epoch grows from owner to owner of the shard.
    pub fn epoch(&self) -> ShardEpoch {
        self.inner.epoch
    }

    /// Node that runs this work.
    pub fn node(&self) -> &Arc<dyn Node> {
        &self.inner.node
    }

    /// Resolves when the work should end.
    pub fn cancelled(&self) -> impl Future<Output = ()> + Send + use<> {
        self.token.clone().cancelled_owned()
    }

    /// Whether the work should end.
    pub fn is_cancelled(&self) -> bool {
        self.token.is_cancelled()
    }

    /// The token of [`cancelled`](Self::cancelled), for code that takes one.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Whether the node may act on the shard at this moment. Call it before every effect that is not
    /// [fenced](Self::fenced), as near to it as possible.
    ///
    /// # Errors
    ///
    /// [`AuthorityLost`] if the shard is not held any more or authority has lapsed.
    pub fn check(&self) -> Result<(), AuthorityLost> {
        if self.inner.gate.is_open() {
            Ok(())
        } else {
            let (work, shard) = (self.inner.work.clone(), self.inner.shard);
            Err(AuthorityLost::Shard { work, shard })
        }
    }

    /// Time until authority over the shard ends unless it is extended; zero if it is over.
    pub fn authority_left(&self) -> Duration {
        self.inner.gate.left()
    }

    /// Fenced access to the shard's data in the cluster's store: writes of a former owner fail there.
    pub fn fenced(&self) -> Fenced {
        let (gate, work) = (Arc::clone(&self.inner.gate), self.inner.work.clone());
        let right = Right::Shard { gate, work, shard: self.inner.shard };
        Fenced::new(self.inner.env.clone(), right, Arc::clone(&self.inner.known))
    }
}
