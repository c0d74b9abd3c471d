//! What every node promises, case by case, over each kind of node and store.

#![allow(clippy::unwrap_used, reason = "helpers of tests may unwrap as the tests do")]

#[path = "../support/mod.rs"]
mod support;

mod first;
