//! The deployment kit: dashboards, alerts, the chart. The tests run the programs that will read these files:
//! promtool, Prometheus, helm.

#![allow(clippy::unwrap_used, reason = "here too an unwrap is an assertion of a test")]
#![allow(clippy::float_cmp, reason = "what Prometheus counts is exact")]

#[path = "../support/mod.rs"]
mod support;

mod alerts;
#[allow(dead_code, reason = "shared with the tests of the page")]
#[path = "../web/browser.rs"]
mod browser;
mod chart;
mod dashboards;
mod everyday;
mod files;
mod library;
mod lint;
mod live;
mod matrix;
mod pictures;
mod render;
mod values;
mod wiring;
