//! A store in this process: a model of etcd, and the [`Store`](super::Store) over it.
//!
//! [`Model`] is pure: time is an argument, and the simulation drives it as it is.

pub mod model;

pub use model::{Deposed, Model, ModelConfig, Revisions, WithPrevious};
