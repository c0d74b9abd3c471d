//! Controllers in clusters of nodes in one process, on a memory store, against the real API server.

mod badinput;
mod fences;
mod kinds;
mod labels;
mod leaders;
mod objects;
mod outages;
mod replicas;
mod selectors;
mod shards;
mod status;

pub(crate) use replicas::{Replica, SOON, install, server};
pub(crate) use status::get;
