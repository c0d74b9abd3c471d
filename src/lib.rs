//! Highly available Kubernetes controllers: fenced leader election over etcd, shard work on the
//! followers.

pub mod clock;
pub mod engine;
pub mod k8s;
pub mod node;
pub mod operator;
pub mod store;
pub mod tasks;
pub mod telemetry;
