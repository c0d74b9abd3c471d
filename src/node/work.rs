//! What users write: leader routines, follower routines, leader tasks, shard workers, and the contexts
//! these get.

use async_trait::async_trait;

/// Any error of user code.
pub type WorkError = Box<dyn std::error::Error + Send + Sync + 'static>;
