use std::sync::Arc;

use super::*;
use crate::{
    engine::{BootTime, Revision},
    node::NodeMetrics,
    store::{Op, Txn, keys::Keys, memory::MemoryStore},
};

#[tokio::test]
async fn a_store_that_nobody_compacts_is_told_until_somebody_does() {
    let store = MemoryStore::new();
    let env = Env {
        store: Arc::new(store.clone()),
        keys: Keys::new("shop").unwrap(),
        metrics: NodeMetrics::unregistered(),
        call_timeout: Duration::from_secs(5),
    };
    let put = Op::Put { key: env.keys.record(), value: Vec::new(), lease: None };
    for _ in 0..20 {
        let txn = Txn { then: vec![put.clone()], ..Txn::default() };
        store.with_model(|model| model.txn(BootTime::default(), &txn).unwrap());
    }
    let (mut said, uncompacted) = (false, &env.metrics.store.uncompacted);
    look(&env, 100, &mut said).await;
    assert_eq!((uncompacted.get(), said), (0, false), "it has none that old");
    look(&env, 10, &mut said).await;
    assert_eq!((uncompacted.get(), said), (1, true));
    store.with_model(|model| model.compact(Revision(15)).unwrap());
    look(&env, 10, &mut said).await;
    assert_eq!((uncompacted.get(), said), (0, false));
}
