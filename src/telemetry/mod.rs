//! Output of a node for people and machines: metrics, probes, the status page, logs.
//!
//! The status server does not know the modules behind a page: every module creates and registers its own
//! metrics struct, and the server gets all information about a node through [`StatusSource`].
//! [`NodeSource`] implements this trait for any node. A [`Host`](crate::host::Host) does for its node what this
//! example does.
//!
//! ```no_run
//! # async fn example(node: std::sync::Arc<dyn bellwether::node::Node>) -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use bellwether::telemetry::{NodeSource, StatusServer, metrics};
//!
//! let mut server = StatusServer::bind("0.0.0.0:8080".into()).await?;
//! // /metrics, /livez, /readyz, /leader, /status and the page.
//! server.serve(Arc::new(NodeSource::new(node)), metrics::registry()?)?;
//! // … the node joins, works and leaves …
//! server.close().await;
//! # Ok(())
//! # }
//! ```

pub mod logs;
pub mod metrics;
#[cfg(feature = "status")]
pub mod node;
#[cfg(feature = "status")]
mod page;
pub(crate) mod process;
pub mod program;
#[cfg(feature = "status")]
pub mod server;
#[cfg(feature = "status")]
pub mod source;
pub(crate) mod sparing;

/// Re-exported for metrics of your own, in the same registry.
pub use prometheus;

#[cfg(feature = "status")]
pub use self::{
    node::NodeSource,
    server::{BindError, Server, ServerConfig, StatusServer, StatusServerError},
    source::{Action, ActionError, Leader, Leadership, Probe, StatusSource},
};
