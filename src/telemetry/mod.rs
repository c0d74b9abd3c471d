//! What people and machines see of a node: metrics, probes, the status page, logs.
//!
//! Telemetry knows nobody. Every module makes and registers its own metrics struct; what the server
//! tells about a node it is told through [`StatusSource`].

pub mod grafana;
pub mod logs;
pub mod metrics;
mod page;
pub(crate) mod process;
pub mod rules;
pub mod server;
pub mod source;

pub use self::{
    server::{BindError, Server, ServerConfig},
    source::{Action, ActionError, Leader, Leadership, Probe, StatusSource},
};
