//! The status server and its page, over real HTTP and in a real browser.

mod actions;
mod browser;
mod browsing;
mod http;
mod limits;
mod metrics;
mod probes;
mod scene;
mod served;
