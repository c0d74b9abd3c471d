//! A finalizer for something outside of the cluster: each `ConfigMap` has an account at a provider. Kubernetes
//! cannot clean up the account, so the map is removed only after the account is gone.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use bellwether::k8s::{k8s_openapi::api::core::v1::ConfigMap, prelude::*};

/// Finalizer that stays until the account is gone.
const FINALIZER: &str = "example.com/account";

/// A provider of accounts, in place of a client for its API. Both calls are idempotent, as they must be: a run may
/// end at any `await`, and another one begins from the start.
#[derive(Debug, Default)]
pub struct Provider {
    accounts: Mutex<BTreeSet<String>>,
}

impl Provider {
    /// Opens an account, unless it is open.
    pub fn open(&self, name: &str) {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
    }

    /// Closes an account, if it is open.
    pub fn close(&self, name: &str) {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// Names of the open accounts.
    pub fn accounts(&self) -> Vec<String> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

/// Opens the account of a map, and closes it before the map is removed.
pub async fn reconcile(
    provider: Arc<Provider>,
    map: Arc<ConfigMap>,
    ctx: Context,
) -> Result<Action, ReconcileError> {
    ctx.finalized(FINALIZER, map, |what| async {
        // The provider knows no fence. Immediately before each effect the node checks that it may still act.
        ctx.check()?;
        match what {
            Finalize::Apply(map) => provider.open(&map.name_any()),
            Finalize::Cleanup(map) => provider.close(&map.name_any()),
        }
        Ok(Action::done())
    })
    .await
}

/// Adds the controller to an operator.
pub fn operator(operator: Operator, provider: Arc<Provider>) -> Operator {
    let work = move |map, ctx| reconcile(Arc::clone(&provider), map, ctx);
    operator.controller(Controller::<ConfigMap>::new(work).finalizes())
}
