//! The status server and its page, over real HTTP and in a real browser.

#![allow(clippy::unwrap_used, reason = "what a test's helper cannot do ends the test")]
#![allow(
    clippy::assigning_clones,
    clippy::float_cmp,
    reason = "scenes read better so; counts are exact"
)]

mod actions;
mod browser;
mod browsing;
#[allow(unreachable_pub, reason = "shared with the binary's own tests")]
#[path = "../support/docs.rs"]
mod docs;
mod driven;
mod events;
mod hosted;
mod http;
mod limits;
mod metrics;
mod probes;
mod scene;
mod served;
#[allow(unreachable_pub, reason = "shared with other test binaries")]
#[path = "../support/tools.rs"]
mod tools;
mod using;
