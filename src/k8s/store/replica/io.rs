//! Requests to the API server about the object of a cluster, and their results.

use serde_json::Value;

use crate::{
    k8s::store::object::{Object, Unreadable},
    store::StoreError,
};

/// Request to the API server, about the object of the cluster.
#[derive(Clone, Debug, PartialEq)]
pub enum Io {
    /// GET without a resource version: a quorum read.
    Read,
    /// POST: the object does not exist.
    Create(Value),
    /// PUT; the body holds the resource version that must still be the newest.
    Replace(Value),
}

/// Result of a request to the API server.
#[derive(Debug)]
pub enum Reply {
    /// The object, as it is after the request.
    Object(Box<Result<Object, Unreadable>>),
    /// There is no such object.
    Missing,
    /// Another process has written since, or (for POST) the object exists.
    Conflict,
    /// The request did not take effect, and will not.
    Refused(StoreError),
    /// The request may have taken effect, or may still.
    Lost(StoreError),
}
