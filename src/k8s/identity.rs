//! The identity of this pod, from the downward API: the node's id, its address, and proof against itself.
//!
//! The module is pure: [`PodIdentity::from_lookup`] takes a lookup of environment variables, so that tests
//! need no pod. All problems are reported at once, each with the manifest lines that fix it.
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
//! - `index`: the pod's index in its `StatefulSet`, which must equal the number at the end of the pod's name.
//! - `name`: the number at the end of the pod's name, for clusters before Kubernetes 1.28, which have no
//!   index label.
//! - `uid`: the lower 63 bits of the FNV-1a hash of the pod's UID, for Deployments and bare pods.
//!
//! Without `BELLWETHER_ID_FROM` the source is `index` if `POD_INDEX` is set, and `uid` otherwise; the id is
//! never guessed from the name. The last part of a Deployment's pod name consists of characters of
//! `bcdfghjklmnpqrstvwxz2456789`. For one pod in 440 it has only digits, which would make that pod number
//! 24567 among hashes, or clash with a pod of another Deployment.
//!
//! # Lives of a pod
//!
//! A restarted container has the same UID as the container before. [`PodIdentity::apply`] passes the UID to
//! the node, which takes the pod's exclusive lock with it. The holder of that lock has proof that the earlier
//! process is dead, and ends its incarnation at once. Another pod with the same id has another UID: it is
//! rejected for as long as the holder lives, with a message that contains the holder's address.

mod problem;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

pub use self::problem::{IdentityError, Problem};
use super::shard::fnv1a;
use crate::node::ClusterNodeBuilder;

/// Names of the variables that are read.
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

/// Name of the pod that this process runs in, if the downward API provides it; for display only.
pub(crate) fn name_of_this_pod() -> Option<String> {
    std::env::var(var::NAME).ok().filter(|name| !name.is_empty())
}

/// Source of the node's id. See the module's docs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdSource {
    /// The index label of a `StatefulSet`'s pod.
    Index,
    /// The number at the end of the pod's name.
    Name,
    /// The hash of the pod's UID.
    Uid,
}

/// Identity of the pod that this process runs in.
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
    /// Reads the identity from this process's environment.
    ///
    /// # Errors
    ///
    /// All variables that are missing, invalid or contradictory, with the manifest lines that fix them.
    pub fn from_env() -> Result<Self, IdentityError> {
        // A value that is not UTF-8 is never a valid name, UID or address, and its error shows it as far as possible.
        Self::from_lookup(|name| {
            std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
        })
    }

    /// Reads the identity from any lookup of variables. An empty value counts as not set, because the
    /// downward API sets a variable to the empty string if the pod does not have the label.
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

    /// Name of the pod.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Namespace of the pod.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// UID of the pod.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// Addresses of the pod, the preferred one first; at least one.
    pub fn ips(&self) -> &[IpAddr] {
        &self.ips
    }

    /// Name of the machine that the pod runs on.
    pub fn node_name(&self) -> &str {
        &self.node_name
    }

    /// The node id, which is never negative.
    pub fn id(&self) -> i64 {
        self.id
    }

    /// Source of the node id.
    pub fn id_source(&self) -> IdSource {
        self.id_source
    }

    /// The port of the node, if one was set.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Sets the port, unless the environment has set one.
    #[must_use]
    pub fn or_port(mut self, port: u16) -> Self {
        self.port.get_or_insert(port);
        self
    }

    /// Address of the node: `10.1.2.3:8080`, `[fd00::7]:8080`; without a port the IP address alone.
    pub fn address(&self) -> String {
        let ip = self.ips[0];
        match self.port {
            Some(port) => SocketAddr::new(ip, port).to_string(),
            None => ip.to_string(),
        }
    }

    /// Sets a node's id, address and UID to those of this pod.
    #[must_use]
    pub fn apply(&self, node: ClusterNodeBuilder) -> ClusterNodeBuilder {
        node.id(self.id).address(self.address()).pod_uid(&self.uid)
    }
}

/// Lookup of the variables, and the problems found so far.
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
        // Kubernetes sets BELLWETHER_PORT=tcp://10.96.0.9:8080 in every pod of a namespace that has a Service
        // named bellwether. Such a value is not an error of the manifest.
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

    /// The index label, which must equal the number at the end of the pod's name.
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

/// The number at the end of the name of a `StatefulSet`'s pod.
fn ordinal(name: &str) -> Option<i64> {
    let (set, digits) = name.rsplit_once('-')?;
    if set.is_empty() { None } else { number(digits) }
}

/// Parses digits as Kubernetes writes them: no sign, no leading zeroes.
fn number(digits: &str) -> Option<i64> {
    let plain = digits.bytes().all(|it| it.is_ascii_digit());
    let canonical = digits == "0" || !digits.starts_with('0');
    if plain && canonical { digits.parse().ok() } else { None }
}

/// Whether the text is a UUID, or the 32 hexadecimal digits that a static pod has instead.
fn is_uid(text: &str) -> bool {
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    let hex = text.bytes().all(|it| it == b'-' || it.is_ascii_hexdigit());
    hex && (lengths == [32] || lengths == [8, 4, 4, 4, 12])
}

/// The lower 63 bits of the 64-bit FNV-1a hash (RFC 9923), because ids are not negative.
fn hash(uid: &str) -> i64 {
    let hash = fnv1a(uid.as_bytes());
    (hash & (u64::MAX >> 1)).cast_signed()
}
