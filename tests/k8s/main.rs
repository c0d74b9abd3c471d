//! Tests against a real kube-apiserver, with a real etcd behind it. All tests share a server; each test has
//! a namespace of its own.

#![allow(clippy::unwrap_used, reason = "here too an unwrap is an assertion of a test")]

#[allow(dead_code, unreachable_pub, reason = "shared with another test binary")]
#[path = "../process/binary.rs"]
mod binary;
#[allow(dead_code, unreachable_pub, reason = "shared with other test binaries")]
#[path = "../support/kube.rs"]
mod kube;
#[path = "../deploy/matrix.rs"]
mod matrix;
#[path = "../support/mod.rs"]
mod support;

mod badinput;
mod chaos;
mod client;
mod controllers;
mod crds;
mod environment;
mod explain;
mod front;
mod helm;
mod identity;
mod processes;
mod rbac;
mod reads;
mod rig;
mod store;
mod store_edges;
mod tour;
mod turned_away;
mod two_clusters;
mod webhook;
mod website;
