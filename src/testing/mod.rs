//! Test kit for operators.
//!
//! | what | for |
//! | --- | --- |
//! | [`Fake`] | unit tests: a `Context` and a fake API in memory, without any server |
//! | [`Environment`] | integration tests: an API server with its etcd, namespaces, users with rules of their own |
//! | [`Cluster`] | several operators in one process, whose leader is killed, frozen or cut off |
//! | [`until`], [`gone`], [`eventually`] | waiting for what must become true |

mod cluster;
pub mod environment;
pub mod fake;
mod ports;
mod waiting;

#[doc(inline)]
pub use self::{
    cluster::Cluster,
    environment::{Environment, EnvironmentError, EnvironmentOptions, Space, User, rule},
    fake::{Call, Failure, Fake},
    waiting::{WITHIN, eventually, gone, until},
};
#[doc(hidden)]
pub use self::{
    environment::{janitor, pki},
    ports::ReservedPort,
};
