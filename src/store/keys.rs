//! The only catalogue of all stored keys: the layout, value and lease of each key, its writers and its
//! watchers. No other module spells a key.
//!
//! `/C` is the cluster's prefix (`C` its name), `L` a lease in lower-case hex without padding, `id` a node
//! id in decimal, `w` a work type. The first four rows are the Go package's layout, byte for byte; all
//! other keys are this project's own and lie under `/C/bellwether`.
//!
//! | key | value ([`values`](super::values)) | lease | written by | watched by |
//! | --- | --- | --- | --- | --- |
//! | `/C/election/L` | the node's id, decimal | L | its node; deleted by a successor's TAKE | every node |
//! | `/C/nodes/id` | metadata JSON: `ID Address Start Role` | L | its node | every node |
//! | `/C/state-data/tick/id` | the tick it runs at, nanoseconds, decimal | L | its node | no node; read by joiners |
//! | `/C/state-data/{key}/id` | a user's value, raw | L | its node | users' watches |
//! | `/C/bellwether/members/id` | incarnation, D, F, offered tick, policy, pod UID, work types, draining | L | its node | every node |
//! | `/C/bellwether/held/L` | nonce; shards with epochs, by work type | L | its node; END empties it | every node |
//! | `/C/bellwether/beat` | the record: term, lease, id, n, D, ended | none | the node in office; a first candidate seeds it; END | every node |
//! | `/C/bellwether/plan/w` | per shard: owner, epoch, draining | none | the node in office | every node |
//! | `/C/bellwether/tick` | the cluster's tick, nanoseconds, decimal | none | the first joiner, the node in office | every node |
//! | `/C/bellwether/resign` | the term that is asked to end, decimal | a short one | command line | every node |
//! | `/C/bellwether/drain/id` | since, why | none | command line | every node |
//! | `/C/bellwether-data/leader/{key}` | a user's value, raw | none | the node in office (T7) | no node |
//! | `/C/bellwether-data/every/{name}` | last run, milliseconds of Unix time, decimal | none | the node in office (T7) | no node |
//! | `/C/bellwether-data/shard/w/{shard}/{key}` | a user's value, raw | none | the shard's owner (T16) | no node |
//! | `/C/bellwether-data/claim/{name}` | the claimer's id, decimal | L | whichever node comes first | no node |
//! | `/C/bellwether-data/settled/L` | empty | L | its node, with a delete after an unanswered put (T17) | no node |
//!
//! Every node watches a single range, [`Keys::watched`] (R2, views). `bellwether-data` sorts before
//! `bellwether/`, so that users' writes stay out of that range. T7 fences a write by leadership, T16 by the
//! ownership of a shard; T17 is a node's write of its own keys.
//!
//! Names are validated where they enter ([`InvalidName`]). Keys that are read back are untrusted: a key
//! that is not in the catalogue, or not spelt as this module spells it (`007`, upper-case hex), is foreign.

use std::fmt;

use crate::{
    engine::{LeaseId, NodeId, ShardId, WorkType},
    store::KeyRange,
};

/// First segment, below the cluster's, of candidate keys: the Go package's constant.
pub const ELECTION_PREFIX: &str = "election";
/// First segment, below the cluster's, of the nodes' state: the Go package's constant.
pub const STATE_DATA_PREFIX: &str = "state-data";
/// First segment, below the cluster's, of the nodes' metadata: the Go package's constant.
pub const NODES_PREFIX: &str = "nodes";
/// First segment, below the cluster's, of the keys that the Go package does not have.
pub const BELLWETHER_PREFIX: &str = "bellwether";
/// First segment, below the cluster's, of fenced data of users, which no node watches.
pub const DATA_PREFIX: &str = "bellwether-data";
/// The user key that the Go package keeps for itself, with all that lies below it.
pub const RESERVED_STATE_KEY: &str = "tick";

/// Longest cluster name, in bytes.
pub const MAX_CLUSTER_BYTES: usize = 255;
/// Longest user key, in bytes.
pub const MAX_KEY_BYTES: usize = 1024;
/// Longest name of a work type or of a periodic job, in bytes.
pub const MAX_NAME_BYTES: usize = 128;

/// A name that cannot be part of a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {value:?} {problem}")]
pub struct InvalidName {
    /// Thing that the name was meant for.
    pub field: NameField,
    /// Name as it was given; cut short if it is long.
    pub value: String,
    /// Problem with the name; its text includes the remedy.
    pub problem: NameProblem,
}

/// Thing that a name is meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NameField {
    /// Name of a cluster.
    Cluster,
    /// A key of a node's state.
    StateKey,
    /// A key of the leader's or a shard's fenced data.
    DataKey,
    /// Name of a work type.
    WorkType,
    /// Name of a periodic job of the leader.
    Job,
}

impl fmt::Display for NameField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cluster => "cluster name",
            Self::StateKey => "state key",
            Self::DataKey => "data key",
            Self::WorkType => "work type",
            Self::Job => "job name",
        })
    }
}

/// Problem with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NameProblem {
    /// The name is empty.
    Empty,
    /// The name has too many bytes.
    TooLong {
        /// Number of bytes in the name.
        bytes: usize,
        /// Number of bytes allowed.
        most: usize,
    },
    /// The name has a control character.
    Control {
        /// Byte offset of the control character.
        at: usize,
    },
    /// The name has white space at an end, as a shell variable or a YAML scalar gets it by accident.
    Padded,
    /// The name has a slash at an end, or two in a row.
    EmptySegment,
    /// The name has a slash where none is allowed.
    Slash,
    /// The name uses a word that is reserved for this project.
    Reserved {
        /// Word that is reserved.
        word: &'static str,
    },
}

impl fmt::Display for NameProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("is empty: give it at least one character"),
            Self::TooLong { bytes, most } => {
                write!(f, "is {bytes} bytes long: shorten it to at most {most}")
            }
            Self::Control { at } => {
                write!(f, "has a control character at byte {at}: leave it out")
            }
            Self::Padded => f.write_str("begins or ends with white space: trim it"),
            Self::EmptySegment => f.write_str(
                "begins or ends with a slash or has two in a row: use single ones inside",
            ),
            Self::Slash => f.write_str("has a slash: use a dash or a dot instead"),
            Self::Reserved { word } => {
                write!(f, "uses {word:?}, which is reserved: choose another word")
            }
        }
    }
}

/// A key of the catalogue, read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// Candidate key of an incarnation, `/C/election/L`
    Candidate(LeaseId),
    /// Metadata of a node, `/C/nodes/id`
    Node(NodeId),
    /// Tick of a node, `/C/state-data/tick/id`
    TickKey(NodeId),
    /// State of a node, `/C/state-data/{key}/id`
    State {
        /// The user's key, as the user put it.
        key: String,
        /// Node that the state belongs to.
        node: NodeId,
    },
    /// Member record of a node, `/C/bellwether/members/id`
    Member(NodeId),
    /// Held key of an incarnation, `/C/bellwether/held/L`
    Held(LeaseId),
    /// The record of the node in office, `/C/bellwether/beat`
    Record,
    /// Plan of a work type, `/C/bellwether/plan/w`
    Plan(WorkType),
    /// Tick of the cluster, `/C/bellwether/tick`
    Tick,
    /// Request that a term end, `/C/bellwether/resign`
    ResignRequest,
    /// Drain request for a node, `/C/bellwether/drain/id`
    DrainRequest(NodeId),
    /// Any key under `/C/bellwether-data/`, without that prefix.
    Data(String),
}

/// All keys of one cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Keys {
    /// Prefix of all keys, `/C/`
    root: String,
}

impl Keys {
    /// Creates the keys of the cluster with that name. Slashes inside are allowed (`team/shop`).
    ///
    /// # Errors
    ///
    /// [`InvalidName`] if the name is empty, longer than [`MAX_CLUSTER_BYTES`], has control characters,
    /// white space at an end, an empty segment, or a segment below the first that would make the name part
    /// of another cluster (`shop/nodes`).
    pub fn new(cluster: &str) -> Result<Self, InvalidName> {
        let field = NameField::Cluster;
        check(field, cluster, MAX_CLUSTER_BYTES)?;
        let reserved =
            [ELECTION_PREFIX, STATE_DATA_PREFIX, NODES_PREFIX, BELLWETHER_PREFIX, DATA_PREFIX];
        for segment in cluster.split('/').skip(1) {
            if let Some(word) = reserved.into_iter().find(|word| *word == segment) {
                return Err(invalid(field, cluster, NameProblem::Reserved { word }));
            }
        }
        Ok(Self { root: format!("/{cluster}/") })
    }

    /// Name of the cluster.
    pub fn cluster(&self) -> &str {
        &self.root[1..self.root.len() - 1]
    }

    /// Range of all keys of the cluster.
    pub fn all(&self) -> KeyRange {
        KeyRange::prefix(self.root.as_str())
    }

    /// The single range that every node lists and watches: `[/C/bellwether/, /C/nodes0)` (R2).
    pub fn watched(&self) -> KeyRange {
        KeyRange { from: self.at(format_args!("{BELLWETHER_PREFIX}/")), to: self.nodes().to }
    }

    /// Candidate key of an incarnation.
    pub fn candidate(&self, lease: LeaseId) -> Vec<u8> {
        self.at(format_args!("{ELECTION_PREFIX}/{lease}"))
    }

    /// Range of all candidate keys.
    pub fn candidates(&self) -> KeyRange {
        KeyRange::prefix(self.at(format_args!("{ELECTION_PREFIX}/")))
    }

    /// Key of a node's metadata.
    pub fn node(&self, id: NodeId) -> Vec<u8> {
        self.at(format_args!("{NODES_PREFIX}/{id}"))
    }

    /// Range of all nodes' metadata.
    pub fn nodes(&self) -> KeyRange {
        KeyRange::prefix(self.at(format_args!("{NODES_PREFIX}/")))
    }

    /// Key of the tick that a node runs at, where the Go package looks for it.
    pub fn tick_key(&self, id: NodeId) -> Vec<u8> {
        self.at(format_args!("{STATE_DATA_PREFIX}/{RESERVED_STATE_KEY}/{id}"))
    }

    /// Range of the ticks of all nodes.
    pub fn tick_keys(&self) -> KeyRange {
        KeyRange::prefix(self.at(format_args!("{STATE_DATA_PREFIX}/{RESERVED_STATE_KEY}/")))
    }

    /// Key of a node's state.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] as [`validate_state_key`].
    pub fn state(&self, key: &str, id: NodeId) -> Result<Vec<u8>, InvalidName> {
        validate_state_key(key)?;
        Ok(self.at(format_args!("{STATE_DATA_PREFIX}/{key}/{id}")))
    }

    /// Range of a key and all keys below it (`k` and `k/10`, not `kk`), of every node.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] as [`validate_state_key`].
    pub fn state_of_all(&self, key: &str) -> Result<KeyRange, InvalidName> {
        validate_state_key(key)?;
        Ok(KeyRange::prefix(self.at(format_args!("{STATE_DATA_PREFIX}/{key}/"))))
    }

    /// Key of a node's member record.
    pub fn member(&self, id: NodeId) -> Vec<u8> {
        self.at(format_args!("{BELLWETHER_PREFIX}/members/{id}"))
    }

    /// Range of all member records.
    pub fn members(&self) -> KeyRange {
        KeyRange::prefix(self.at(format_args!("{BELLWETHER_PREFIX}/members/")))
    }

    /// Held key of an incarnation: the shards that it holds.
    pub fn held(&self, lease: LeaseId) -> Vec<u8> {
        self.at(format_args!("{BELLWETHER_PREFIX}/held/{lease}"))
    }

    /// Range of the held keys of all incarnations.
    pub fn all_held(&self) -> KeyRange {
        KeyRange::prefix(self.at(format_args!("{BELLWETHER_PREFIX}/held/")))
    }

    /// Key of the record, which names the node in office.
    pub fn record(&self) -> Vec<u8> {
        self.at(format_args!("{BELLWETHER_PREFIX}/beat"))
    }

    /// Key of the plan of a work type.
    pub fn plan(&self, work: &WorkType) -> Vec<u8> {
        self.at(format_args!("{BELLWETHER_PREFIX}/plan/{work}"))
    }

    /// Range of all plans.
    pub fn plans(&self) -> KeyRange {
        KeyRange::prefix(self.at(format_args!("{BELLWETHER_PREFIX}/plan/")))
    }

    /// Key of the cluster's tick.
    pub fn tick(&self) -> Vec<u8> {
        self.at(format_args!("{BELLWETHER_PREFIX}/tick"))
    }

    /// Key of the request that a term end.
    pub fn resign_request(&self) -> Vec<u8> {
        self.at(format_args!("{BELLWETHER_PREFIX}/resign"))
    }

    /// Key of the request that a node get no shards and no office.
    pub fn drain_request(&self, id: NodeId) -> Vec<u8> {
        self.at(format_args!("{BELLWETHER_PREFIX}/drain/{id}"))
    }

    /// Range of all drain requests.
    pub fn drain_requests(&self) -> KeyRange {
        KeyRange::prefix(self.at(format_args!("{BELLWETHER_PREFIX}/drain/")))
    }

    /// Key of the leader's fenced data.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] if the key is empty, longer than [`MAX_KEY_BYTES`], has control characters or an
    /// empty segment.
    pub fn leader_data(&self, key: &str) -> Result<Vec<u8>, InvalidName> {
        check(NameField::DataKey, key, MAX_KEY_BYTES)?;
        Ok(self.at(format_args!("{DATA_PREFIX}/leader/{key}")))
    }

    /// Key of the time at which a periodic job of the leader last ran.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] if the name is empty, longer than [`MAX_NAME_BYTES`], has control characters or a
    /// slash.
    pub fn last_run(&self, job: &str) -> Result<Vec<u8>, InvalidName> {
        check_flat(NameField::Job, job)?;
        Ok(self.at(format_args!("{DATA_PREFIX}/every/{job}")))
    }

    /// Key of a name that one node of the cluster can claim.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] as [`leader_data`](Self::leader_data).
    pub fn claim(&self, name: &str) -> Result<Vec<u8>, InvalidName> {
        check(NameField::DataKey, name, MAX_KEY_BYTES)?;
        Ok(self.at(format_args!("{DATA_PREFIX}/claim/{name}")))
    }

    /// Marker of an incarnation (T17): a delete writes the marker if an earlier put of the same key is
    /// unresolved.
    pub fn settled(&self, lease: LeaseId) -> Vec<u8> {
        self.at(format_args!("{DATA_PREFIX}/settled/{lease}"))
    }

    /// Key of a shard's fenced data.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] as [`leader_data`](Self::leader_data).
    pub fn shard_data(
        &self,
        work: &WorkType,
        shard: ShardId,
        key: &str,
    ) -> Result<Vec<u8>, InvalidName> {
        check(NameField::DataKey, key, MAX_KEY_BYTES)?;
        Ok(self.at(format_args!("{DATA_PREFIX}/shard/{work}/{shard}/{key}")))
    }

    /// Returns the key of the catalogue that `key` spells; `None` if `key` is foreign.
    pub fn parse(&self, key: &[u8]) -> Option<Key> {
        let rest = std::str::from_utf8(key).ok()?.strip_prefix(self.root.as_str())?;
        let (prefix, rest) = rest.split_once('/')?;
        match prefix {
            BELLWETHER_PREFIX => parse_own(rest),
            ELECTION_PREFIX => Some(Key::Candidate(parse_lease(rest)?)),
            NODES_PREFIX => Some(Key::Node(parse_id(rest)?)),
            STATE_DATA_PREFIX => parse_state(rest),
            DATA_PREFIX => Some(Key::Data(rest.to_owned())),
            _ => None,
        }
    }

    fn at(&self, rest: fmt::Arguments<'_>) -> Vec<u8> {
        format!("{}{rest}", self.root).into_bytes()
    }
}

fn parse_own(rest: &str) -> Option<Key> {
    match rest.split_once('/') {
        None => match rest {
            "beat" => Some(Key::Record),
            "tick" => Some(Key::Tick),
            "resign" => Some(Key::ResignRequest),
            _ => None,
        },
        Some(("members", id)) => Some(Key::Member(parse_id(id)?)),
        Some(("held", lease)) => Some(Key::Held(parse_lease(lease)?)),
        Some(("plan", work)) => Some(Key::Plan(validate_work_type(work).ok()?)),
        Some(("drain", id)) => Some(Key::DrainRequest(parse_id(id)?)),
        Some(_) => None,
    }
}

/// Parses a state key: the node's id is the last segment, after the user's key.
fn parse_state(rest: &str) -> Option<Key> {
    let (key, id) = rest.rsplit_once('/')?;
    let node = parse_id(id)?;
    if key == RESERVED_STATE_KEY {
        return Some(Key::TickKey(node));
    }
    // A key below the reserved one, put by hand on a Go node, is not the state of any node.
    let below_reserved =
        key.strip_prefix(RESERVED_STATE_KEY).is_some_and(|below| below.starts_with('/'));
    (!below_reserved).then(|| Key::State { key: key.to_owned(), node })
}

/// Parses a node id, spelt as this module writes ids: no sign, no leading zeros.
pub(crate) fn parse_id(text: &str) -> Option<NodeId> {
    if text.len() > 1 && text.starts_with('0') || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    NodeId::new(text.parse().ok()?).ok()
}

/// Parses a lease, spelt as this module writes leases: lower-case hex, no padding, above zero.
pub(crate) fn parse_lease(text: &str) -> Option<LeaseId> {
    let canonical = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !canonical || text.is_empty() || text.starts_with('0') {
        return None;
    }
    i64::from_str_radix(text, 16).ok().map(LeaseId)
}

/// Checks whether a user may keep state under this key.
///
/// # Errors
///
/// [`InvalidName`] if the key is empty, longer than [`MAX_KEY_BYTES`], has control characters or an empty
/// segment, or is [`RESERVED_STATE_KEY`] or below it.
pub fn validate_state_key(key: &str) -> Result<(), InvalidName> {
    let field = NameField::StateKey;
    check(field, key, MAX_KEY_BYTES)?;
    if key.split('/').next() == Some(RESERVED_STATE_KEY) {
        let word = RESERVED_STATE_KEY;
        return Err(invalid(field, key, NameProblem::Reserved { word }));
    }
    Ok(())
}

/// Validates the name of a work type.
///
/// # Errors
///
/// [`InvalidName`] if the name is empty, longer than [`MAX_NAME_BYTES`], has control characters or a slash.
pub fn validate_work_type(name: &str) -> Result<WorkType, InvalidName> {
    check_flat(NameField::WorkType, name)?;
    Ok(WorkType::new(name))
}

fn check_flat(field: NameField, name: &str) -> Result<(), InvalidName> {
    check(field, name, MAX_NAME_BYTES)?;
    if name.contains('/') {
        return Err(invalid(field, name, NameProblem::Slash));
    }
    Ok(())
}

fn check(field: NameField, name: &str, most: usize) -> Result<(), InvalidName> {
    let problem = if name.is_empty() {
        NameProblem::Empty
    } else if name.len() > most {
        NameProblem::TooLong { bytes: name.len(), most }
    } else if let Some((at, _)) = name.char_indices().find(|(_, c)| c.is_control()) {
        NameProblem::Control { at }
    } else if name.trim() != name {
        NameProblem::Padded
    } else if name.split('/').any(str::is_empty) {
        NameProblem::EmptySegment
    } else {
        return Ok(());
    };
    Err(invalid(field, name, problem))
}

fn invalid(field: NameField, name: &str, problem: NameProblem) -> InvalidName {
    const SHOWN: usize = 80;
    let value = match name.char_indices().nth(SHOWN) {
        Some((cut, _)) => format!("{}…", &name[..cut]),
        None => name.to_owned(),
    };
    InvalidName { field, value, problem }
}

#[cfg(test)]
mod tests;
