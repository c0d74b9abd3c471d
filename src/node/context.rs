//! Contexts that user work receives: the node it works for, how long it may act, and what it may write.

use std::{future::Future, ops::Deref, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    Node,
    env::Env,
    fenced::{Fenced, Owner},
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
    base: FollowerContext,
}

#[derive(Debug)]
struct LeaderInner {
    gate: Arc<LeaderGate>,
    env: Env,
    known: Arc<Known>,
}

impl Deref for LeaderContext {
    type Target = FollowerContext;

    fn deref(&self) -> &FollowerContext {
        &self.base
    }
}

impl LeaderContext {
    pub(crate) fn new(
        gate: Arc<LeaderGate>,
        node: Arc<dyn Node>,
        env: Env,
        token: CancellationToken,
    ) -> Self {
        let known = Arc::new(Known::new(&env.keys, gate.office().lease));
        let base = FollowerContext { node, token };
        Self { inner: Arc::new(LeaderInner { gate, env, known }), base }
    }

    /// Copy of this context with another token. `token` must end with this context's token at the latest.
    pub(crate) fn with_token(&self, token: CancellationToken) -> Self {
        Self { inner: Arc::clone(&self.inner), base: self.base.with_token(token) }
    }

    /// Copy of this context with a gate of its own, which only the test extends.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn apart(&self) -> (Self, Arc<LeaderGate>) {
        let gate = Arc::new(LeaderGate::new(self.inner.gate.office()));
        let (node, env) = (Arc::clone(self.node()), self.inner.env.clone());
        (Self::new(Arc::clone(&gate), node, env, self.token()), gate)
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
        let owner = Owner::Leader(Arc::clone(&self.inner.gate));
        Fenced::new(self.inner.env.clone(), owner, Arc::clone(&self.inner.known))
    }
}

/// Context that a follower's routine receives: the node, and when to end. Cheap to clone.
///
/// The contexts of other work dereference to this one.
#[derive(Clone, Debug)]
pub struct FollowerContext {
    node: Arc<dyn Node>,
    token: CancellationToken,
}

impl FollowerContext {
    pub(crate) fn new(node: Arc<dyn Node>, token: CancellationToken) -> Self {
        Self { node, token }
    }

    pub(crate) fn with_token(&self, token: CancellationToken) -> Self {
        Self { node: Arc::clone(&self.node), token }
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
    base: FollowerContext,
}

#[derive(Debug)]
struct ShardInner {
    gate: Arc<ShardGate>,
    work: WorkType,
    shard: ShardId,
    epoch: ShardEpoch,
    env: Env,
    known: Arc<Known>,
}

impl Deref for ShardContext {
    type Target = FollowerContext;

    fn deref(&self) -> &FollowerContext {
        &self.base
    }
}

impl ShardContext {
    /// Creates a context of a shard on the node of a leader, with a gate of its own, closed until it is extended.
    #[cfg(feature = "testing")]
    pub(crate) fn beside(
        leader: &LeaderContext,
        work: WorkType,
        shard: ShardId,
        token: CancellationToken,
    ) -> (Self, Arc<super::gate::HeldGate>) {
        let held = Arc::new(super::gate::HeldGate::new(leader.gate().office().lease));
        let gate = Arc::new(ShardGate::new(Arc::clone(&held)));
        let (node, env) = (Arc::clone(leader.node()), leader.env().clone());
        let context = Self::new(gate, (work, shard, ShardEpoch(1)), node, env, token);
        (context, held)
    }

    pub(crate) fn new(
        gate: Arc<ShardGate>,
        (work, shard, epoch): (WorkType, ShardId, ShardEpoch),
        node: Arc<dyn Node>,
        env: Env,
        token: CancellationToken,
    ) -> Self {
        let known = Arc::new(Known::new(&env.keys, gate.held().lease()));
        let base = FollowerContext { node, token };
        Self { inner: Arc::new(ShardInner { gate, work, shard, epoch, env, known }), base }
    }

    /// Copy of this context with another token. `token` must end with this context's token at the latest.
    pub(crate) fn with_token(&self, token: CancellationToken) -> Self {
        Self { inner: Arc::clone(&self.inner), base: self.base.with_token(token) }
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
        let owner = Owner::Shard { gate, work, shard: self.inner.shard };
        Fenced::new(self.inner.env.clone(), owner, Arc::clone(&self.inner.known))
    }
}
