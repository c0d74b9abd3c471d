//! The pod's exclusive lock: proof that an earlier process of the same pod is dead (protocol, proof of
//! death, b).
//!
//! The lock is an abstract Unix socket in the pod's network namespace, bound before the first GRANT and
//! held until the process dies: the kernel frees it then, and not earlier. A process that does not get the
//! lock must not write the pod's UID into its member record. Otherwise a later process that gets the lock
//! could take a living process for a dead one.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    },
};

use crate::hash::fnv1a;

/// Lock that this process holds until the value is dropped.
#[derive(Debug)]
pub(crate) struct PodLock {
    _socket: UnixListener,
}

impl PodLock {
    /// Takes the lock of this cluster and pod.
    ///
    /// # Errors
    ///
    /// `AddrInUse` if another node of this pod holds the lock.
    pub(crate) fn take(cluster: &str, pod_uid: &str) -> io::Result<Self> {
        // A name has at most 107 bytes, so both parts are hashed. A collision only loses the proof.
        let name = format!(
            "bellwether-{:016x}-{:016x}",
            fnv1a(cluster.as_bytes()),
            fnv1a(pod_uid.as_bytes())
        );
        let address = SocketAddr::from_abstract_name(name)?;
        Ok(Self { _socket: UnixListener::bind_addr(&address)? })
    }
}

#[cfg(test)]
mod tests;
