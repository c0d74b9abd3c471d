//! The reference operator: work that shows what a cluster can carry, and is useful by itself.

pub mod monitoring;
pub mod uptime;
