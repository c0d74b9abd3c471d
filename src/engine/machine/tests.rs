//! Tests of the engine's rules, named by their tags in the protocol (R1 to R16, T1 to T19).
//!
//! A [`Rig`] is one engine whose store, clock and transport are the test itself: the test answers calls by
//! hand, in any order, or never.

mod bounds;
mod election;
mod keys;
mod office;
mod rig;
mod session;
mod shards;
