//! Small examples, one idea each. A test in `tests/examples.rs` runs each of them.
//!
//! | module | what it shows |
//! | --- | --- |
//! | [`minimal`] | the smallest reconciler |
//! | [`outside`] | a finalizer for something outside of the cluster |
//! | [`referenced_secret`] | a change of a referenced Secret is a change of the object that names it |
//! | [`dynamic_kind`] | a kind that is known only at run time |
//! | [`two_controllers`] | two controllers in one process, the second with work on shards |
//! | [`without_kubernetes`] | ticks of the leader and work on shards, without any API server |
//!
//! `cargo run -p small-examples -- minimal run --store memory` runs one of them on the cluster of the kubeconfig.

pub mod dynamic_kind;
pub mod minimal;
pub mod outside;
pub mod referenced_secret;
pub mod two_controllers;
pub mod without_kubernetes;
