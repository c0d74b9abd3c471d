//! Metrics of several nodes in one registry, each with the label `node`. A process with one node does not
//! need the label.

use std::collections::HashMap;

use prometheus::{
    Opts, Registry,
    core::{Collector, Desc, Describer as _},
    proto::MetricFamily,
};

/// Creates a registry for one node; `registry` shows its metrics with the label `node`.
///
/// # Errors
///
/// An error if the registry shows that node already.
pub(super) fn registry_of(registry: &Registry, node: i64) -> prometheus::Result<Registry> {
    let labels = HashMap::from([("node".to_owned(), node.to_string())]);
    let own = Registry::new_custom(None, Some(labels))?;
    let name = format!("bellwether_demo_node_{node}");
    let desc =
        Opts::new(name, "Stands for all metrics of one node; never shown itself.").describe()?;
    registry.register(Box::new(Family { registry: own.clone(), desc }))?;
    Ok(own)
}

struct Family {
    registry: Registry,
    desc: Desc,
}

impl Collector for Family {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }
}
