//! The built binary as its users meet it: flags, exit codes, signals, probes, crashes, freezes. Against a
//! real etcd wherever etcd has a part.

#![allow(clippy::unwrap_used, reason = "here too an unwrap is an assertion of a test")]

#[path = "../support/mod.rs"]
mod support;

mod binary;
mod cluster;
mod demo;
#[cfg(feature = "mutants")]
mod driver;
mod etcd_faults;
mod flags;
mod frozen;
mod go_node;
mod locked_down;
mod logs;
mod restarts;
mod rounds;
mod secrets;
mod signals;
mod supervise;
