//! Who this pod is, from the downward API: the node's id, its address, and proof against itself.
//!
//! Pure: takes a lookup of environment variables ([`PodIdentity::from_lookup`]), so that what a manifest
//! lacks can be tested without one. All problems are reported at once, each with the manifest lines that
//! mend it.
//!
//! | variable | from | |
//! | --- | --- | --- |
//! | `POD_NAME` `POD_NAMESPACE` `POD_UID` | `metadata.*` | required |
//! | `POD_IP`, `POD_IPS` | `status.podIP`, `status.podIPs` | one of them; with both, the first must be among the second |
//! | `NODE_NAME` | `spec.nodeName` | required |
//! | `POD_INDEX` | `metadata.labels['apps.kubernetes.io/pod-index']` | empty outside a `StatefulSet` |
//! | `BELLWETHER_ID_FROM` | written by hand: `index`, `name` or `uid` | optional |
//! | `BELLWETHER_PORT` | written by hand | optional |
//!
//! # The node's id
//!
//! - `index`: the pod's index in its `StatefulSet`, which the pod's name must end in.
//! - `name`: the digits that the pod's name ends in, for clusters before Kubernetes 1.28, which have no
//!   index label.
//! - `uid`: the lower 63 bits of the FNV-1a hash of the pod's UID, for Deployments and bare pods.
//!
//! Without `BELLWETHER_ID_FROM` it is `index` where `POD_INDEX` is set and `uid` where it is not; the name
//! is never guessed at. The last part of a Deployment's pod name is drawn from
//! `bcdfghjklmnpqrstvwxz2456789`: it is nothing but digits for one pod in 440, which would make that pod
//! number 24567 among hashes, or clash with another Deployment's pod.
//!
//! # Lives of a pod
//!
//! A restarted container has the UID of the one before. [`PodIdentity::apply`] hands it to the node, which
//! takes the pod's exclusive lock with it; who holds that lock has proof that the earlier life is dead and
//! ends its incarnation at once. Another pod with the same id has another UID: it is refused as long as
//! the holder lives, with a message that names the holder's address.

mod problem;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

pub use self::problem::{IdentityError, Problem};
use super::shard::fnv1a;
use crate::node::ClusterNodeBuilder;

/// The variables that are read.
mod var {
    pub(super) const NAME: &str = "POD_NAME";
    pub(super) const NAMESPACE: &str = "POD_NAMESPACE";
    pub(super) const UID: &str = "POD_UID";
    pub(super) const IP: &str = "POD_IP";
    pub(super) const IPS: &str = "POD_IPS";
    pub(super) const NODE: &str = "NODE_NAME";
    pub(super) const INDEX: &str = "POD_INDEX";
    pub(super) const ID_FROM: &str = "BELLWETHER_ID_FROM";
    pub(super) const PORT: &str = "BELLWETHER_PORT";
}

/// The name of the pod that this process runs in, as far as the downward API tells it: for the eyes of people.
pub(crate) fn name_of_this_pod() -> Option<String> {
    std::env::var(var::NAME).ok().filter(|name| !name.is_empty())
}

/// What the node's id is made of. See the module's docs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdSource {
    /// The index label of a `StatefulSet`'s pod.
    Index,
    /// The digits at the end of the pod's name.
    Name,
    /// The hash of the pod's UID.
    Uid,
}

/// Who this pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodIdentity {
    name: String,
    namespace: String,
    uid: String,
    ips: Vec<IpAddr>,
    node_name: String,
    id: i64,
    id_source: IdSource,
    port: Option<u16>,
}

impl PodIdentity {
    /// From this process's environment.
    ///
    /// # Errors
    ///
    /// Everything that is missing, not understood or contradictory, with the manifest lines that mend it.
    pub fn from_env() -> Result<Self, IdentityError> {
        // What is no text is no name, UID or address either, and is shown as far as it can be.
        Self::from_lookup(|name| {
            std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
        })
    }

    /// From anything that knows the values of variables. Empty counts as not set: that is what the
    /// downward API makes of a label that the pod does not have.
    ///
    /// # Errors
    ///
    /// As [`Self::from_env`].
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, IdentityError> {
        let mut form = Form { lookup, problems: Vec::new() };
        let name = form.required(var::NAME);
        let namespace = form.required(var::NAMESPACE);
        let uid = form.uid();
        let ips = form.ips();
        let node_name = form.required(var::NODE);
        let port = form.port();
        let id = form.id(name.as_deref(), uid.as_deref());
        let (Some(name), Some(namespace), Some(uid), Some(node_name), Some((id, id_source)), true) =
            (name, namespace, uid, node_name, id, form.problems.is_empty())
        else {
            return Err(IdentityError::new(form.problems));
        };
        Ok(Self { name, namespace, uid, ips, node_name, id, id_source, port })
    }

    /// The pod's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The pod's namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The pod's UID.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// The pod's addresses, the preferred one first; never none.
    pub fn ips(&self) -> &[IpAddr] {
        &self.ips
    }

    /// The name of the machine the pod runs on.
    pub fn node_name(&self) -> &str {
        &self.node_name
    }

    /// The node id: not negative.
    pub fn id(&self) -> i64 {
        self.id
    }

    /// What the id is made of.
    pub fn id_source(&self) -> IdSource {
        self.id_source
    }

    /// The port it can be reached at, if one was set.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// With that port unless the environment has set one.
    #[must_use]
    pub fn or_port(mut self, port: u16) -> Self {
        self.port.get_or_insert(port);
        self
    }

    /// Where the node can be reached: `10.1.2.3:8080`, `[fd00::7]:8080`; without a port the address alone.
    pub fn address(&self) -> String {
        let ip = self.ips[0];
        match self.port {
            Some(port) => SocketAddr::new(ip, port).to_string(),
            None => ip.to_string(),
        }
    }

    /// Gives a node this pod's id, address and UID.
    #[must_use]
    pub fn apply(&self, node: ClusterNodeBuilder) -> ClusterNodeBuilder {
        node.id(self.id).address(self.address()).pod_uid(&self.uid)
    }
}

/// What has been read, and what was wrong with it.
struct Form<L> {
    lookup: L,
    problems: Vec<Problem>,
}

impl<L: Fn(&str) -> Option<String>> Form<L> {
    fn optional(&self, name: &'static str) -> Option<String> {
        (self.lookup)(name).map(|it| it.trim().to_owned()).filter(|it| !it.is_empty())
    }

    fn required(&mut self, name: &'static str) -> Option<String> {
        let value = self.optional(name);
        if value.is_none() {
            self.problems.push(Problem::Missing { variable: name });
        }
        value
    }

    fn invalid(&mut self, variable: &'static str, value: &str, wanted: &'static str) {
        self.problems.push(Problem::Invalid { variable, value: value.to_owned(), wanted });
    }

    fn contradiction(&mut self, one: (&'static str, &str), other: (&'static str, &str)) {
        let owned = |(name, value): (&'static str, &str)| (name, value.to_owned());
        self.problems.push(Problem::Contradiction { one: owned(one), other: owned(other) });
    }

    fn uid(&mut self) -> Option<String> {
        let uid = self.required(var::UID)?;
        if is_uid(&uid) {
            return Some(uid);
        }
        self.invalid(var::UID, &uid, "the pod's UID, as metadata.uid has it");
        None
    }

    fn ips(&mut self) -> Vec<IpAddr> {
        let one = self.optional(var::IP);
        let all = self.optional(var::IPS);
        if one.is_none() && all.is_none() {
            self.problems.push(Problem::Missing { variable: var::IP });
        }
        let listed: Vec<IpAddr> = all
            .iter()
            .flat_map(|all| all.split(','))
            .filter_map(|ip| self.ip(var::IPS, ip))
            .collect();
        let Some(one) = one else { return listed };
        let Some(ip) = self.ip(var::IP, &one) else { return listed };
        if let Some(all) = all.filter(|_| !listed.contains(&ip)) {
            self.contradiction((var::IP, &one), (var::IPS, &all));
        }
        let others = listed.into_iter().filter(|it| *it != ip);
        [ip].into_iter().chain(others).collect()
    }

    fn ip(&mut self, variable: &'static str, text: &str) -> Option<IpAddr> {
        let ip = text.trim().parse::<IpAddr>().ok().filter(|ip| !ip.is_unspecified());
        if ip.is_none() {
            self.invalid(variable, text.trim(), "an IP address that others can reach");
        }
        ip
    }

    fn port(&mut self) -> Option<u16> {
        let text = self.optional(var::PORT)?;
        // Kubernetes sets BELLWETHER_PORT=tcp://10.96.0.9:8080 in every pod of a namespace with a Service
        // called bellwether. Nobody wrote that, so nobody can be told off for it.
        if text.contains("://") {
            return None;
        }
        let port = text.parse().ok().filter(|port| *port != 0);
        if port.is_none() {
            self.invalid(var::PORT, &text, "a port, 1 to 65535");
        }
        port
    }

    fn id(&mut self, name: Option<&str>, uid: Option<&str>) -> Option<(i64, IdSource)> {
        let index = self.optional(var::INDEX);
        let source = match self.optional(var::ID_FROM).as_deref() {
            None if index.is_some() => IdSource::Index,
            None | Some("uid") => IdSource::Uid,
            Some("index") => IdSource::Index,
            Some("name") => IdSource::Name,
            Some(other) => {
                self.invalid(var::ID_FROM, other, "index, name or uid");
                return None;
            }
        };
        let index = self.index(index, name, source);
        let id = match source {
            IdSource::Index => index,
            IdSource::Name => self.ordinal(name?),
            IdSource::Uid => uid.map(hash),
        };
        Some((id?, source))
    }

    /// The index label, which the name of a `StatefulSet`'s pod bears out.
    fn index(
        &mut self,
        index: Option<String>,
        name: Option<&str>,
        source: IdSource,
    ) -> Option<i64> {
        let Some(text) = index else {
            if source == IdSource::Index {
                self.problems.push(Problem::Missing { variable: var::INDEX });
            }
            return None;
        };
        let Some(index) = number(&text) else {
            self.invalid(var::INDEX, &text, "the pod's index in its StatefulSet: 0, 1, 2, …");
            return None;
        };
        if let Some(name) = name.filter(|name| ordinal(name) != Some(index)) {
            self.contradiction((var::INDEX, &text), (var::NAME, name));
        }
        Some(index)
    }

    fn ordinal(&mut self, name: &str) -> Option<i64> {
        let found = ordinal(name);
        if found.is_none() {
            self.invalid(var::NAME, name, "a name that ends in - and the pod's number");
        }
        found
    }
}

/// The number that a `StatefulSet`'s pod name ends in.
fn ordinal(name: &str) -> Option<i64> {
    let (set, digits) = name.rsplit_once('-')?;
    if set.is_empty() { None } else { number(digits) }
}

/// Digits as Kubernetes writes them: no sign, no zeroes in front.
fn number(digits: &str) -> Option<i64> {
    let plain = digits.bytes().all(|it| it.is_ascii_digit());
    let canonical = digits == "0" || !digits.starts_with('0');
    if plain && canonical { digits.parse().ok() } else { None }
}

/// A UUID, or the 32 hexadecimal digits that a static pod has instead.
fn is_uid(text: &str) -> bool {
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    let hex = text.bytes().all(|it| it == b'-' || it.is_ascii_hexdigit());
    hex && (lengths == [32] || lengths == [8, 4, 4, 4, 12])
}

/// The lower 63 bits of the 64-bit FNV-1a hash (RFC 9923): ids are not negative.
fn hash(uid: &str) -> i64 {
    let hash = fnv1a(uid.as_bytes());
    (hash & (u64::MAX >> 1)).cast_signed()
}
