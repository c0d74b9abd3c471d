//! The built binary as its users see it: flags, exit codes, signals, probes, crashes, freezes. All tests that
//! need etcd use a real one.

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
