//! A model of the API server: the Lease of the cluster, the Leases of the incarnations, and what watches saw of
//! them.

use std::{
    collections::{BTreeMap, VecDeque},
    rc::Rc,
};

use bellwether::{
    engine::LeaseId,
    k8s::store::pure::{ANNOTATION, Io, Object, Reply, State, Unreadable, Writer},
    store::memory::Contents,
};
use serde_json::{Value, json};

use crate::{
    chance::{SECONDS, Time},
    depot::Image,
};

/// Versions of the object that a watch can still be continued from.
const KEPT: usize = 30;

/// The object at one version.
#[derive(Debug)]
pub struct Version {
    pub number: u64,
    pub raw: Value,
    pub read: Result<Object, Unreadable>,
}

/// The Lease of an incarnation.
#[derive(Clone, Copy, Debug)]
pub struct LeaseObject {
    pub version: u64,
    /// Time to live, in seconds.
    pub ttl: u64,
    pub renewed_at: Time,
    /// Time of the renewal by the clock of the wall, in ms, as the renewing process wrote it.
    pub renew_time: i64,
}

/// Everything that a backup of the API server's own store holds.
#[derive(Clone)]
struct Backup {
    object: Option<Rc<Version>>,
    leases: BTreeMap<LeaseId, LeaseObject>,
    image: Image,
}

/// Result of a write.
pub enum Written {
    /// The write took effect; holds the object after it.
    Accepted(Rc<Version>),
    Refused(Reply),
}

/// Objects of the API server, with their history.
#[derive(Default)]
pub struct Server {
    /// Number of the last write of any object.
    version: u64,
    /// Number of objects of the cluster's name so far.
    pub objects: u64,
    pub object: Option<Rc<Version>>,
    /// Last versions of the object, oldest first.
    log: VecDeque<Rc<Version>>,
    pub leases: BTreeMap<LeaseId, LeaseObject>,
    /// Number of restores: a request that was sent before the last one never arrives.
    pub era: u32,
    backups: VecDeque<Backup>,
}

impl Server {
    /// Answer to a read of the object.
    pub fn read(&self) -> Reply {
        match &self.object {
            Some(version) => Reply::Object(Box::new(version.read.clone())),
            None => Reply::Missing,
        }
    }

    /// State of the cluster, if the object exists and has a readable one.
    pub fn state(&self) -> Option<&State> {
        self.object.as_ref()?.read.as_ref().ok()?.state.as_ref()
    }

    /// Carries out a write of the object.
    pub fn write(&mut self, io: &Io) -> Written {
        match (io, &self.object) {
            (Io::Read, _) => Written::Refused(self.read()),
            (Io::Create(_), Some(_)) => Written::Refused(Reply::Conflict),
            (Io::Create(body), None) => Written::Accepted(self.create(body.clone())),
            (Io::Replace(_), None) => Written::Refused(Reply::Missing),
            (Io::Replace(body), Some(object)) => {
                let (theirs, ours) = (&body["metadata"], &object.raw["metadata"]);
                let is_newest = theirs["resourceVersion"].is_null()
                    || theirs["resourceVersion"] == ours["resourceVersion"];
                if is_newest && theirs["uid"] == ours["uid"] {
                    Written::Accepted(self.put(body.clone()))
                } else {
                    Written::Refused(Reply::Conflict)
                }
            }
        }
    }

    /// Creates the object, with a new UID.
    pub fn create(&mut self, mut body: Value) -> Rc<Version> {
        self.objects += 1;
        body["metadata"]["uid"] = json!(format!("uid-{}", self.objects));
        self.put(body)
    }

    /// Replaces the object by this one.
    pub fn put(&mut self, mut raw: Value) -> Rc<Version> {
        self.version += 1;
        raw["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let read = Object::read(raw.clone());
        let version = Rc::new(Version { number: self.version, raw, read });
        self.object = Some(Rc::clone(&version));
        self.log.push_back(Rc::clone(&version));
        if KEPT < self.log.len() {
            self.log.pop_front();
        }
        version
    }

    /// Writes the contents of the state as another process would.
    pub fn put_contents(&mut self, contents: Contents) -> Option<Rc<Version>> {
        let state = self.state()?;
        let state = state.written(Writer(0), state.writes + 1, contents);
        self.put_annotation(Some(state.encode().expect("keys are text")))
    }

    /// Edits the annotation by hand; `None` removes it.
    pub fn put_annotation(&mut self, text: Option<String>) -> Option<Rc<Version>> {
        let mut raw = self.object.as_ref()?.raw.clone();
        raw["metadata"]["annotations"][ANNOTATION] = text.map_or(Value::Null, Value::String);
        if raw["metadata"]["annotations"][ANNOTATION].is_null() {
            raw["metadata"]["annotations"] = json!({});
        }
        Some(self.put(raw))
    }

    pub fn delete(&mut self) {
        self.object = None;
        self.log.clear();
    }

    /// Versions after this one; `None` if some are forgotten.
    pub fn since(&self, number: u64) -> Option<Vec<Rc<Version>>> {
        let first = self.log.front()?;
        if number < first.number {
            return None;
        }
        Some(self.log.iter().filter(|it| number < it.number).cloned().collect())
    }

    pub fn create_lease(&mut self, now: Time, lease: LeaseId, ttl: u64, renew_time: i64) -> bool {
        if self.leases.contains_key(&lease) {
            return false;
        }
        self.version += 1;
        let object = LeaseObject { version: self.version, ttl, renewed_at: now, renew_time };
        self.leases.insert(lease, object);
        true
    }

    pub fn renew(&mut self, now: Time, lease: LeaseId, renew_time: i64) -> bool {
        let version = self.version + 1;
        let Some(object) = self.leases.get_mut(&lease) else { return false };
        self.version = version;
        *object = LeaseObject { version, renewed_at: now, renew_time, ..*object };
        true
    }

    /// Time until which a lease must not be ended for want of a renewal.
    pub fn lives_until(&self, lease: LeaseId) -> Time {
        self.leases.get(&lease).map_or(0, |it| it.renewed_at + it.ttl * SECONDS)
    }

    pub fn back_up(&mut self, image: Image) {
        let object = self.object.clone();
        self.backups.push_back(Backup { object, leases: self.leases.clone(), image });
        if 8 < self.backups.len() {
            self.backups.pop_front();
        }
    }

    pub fn backups(&self) -> usize {
        self.backups.len()
    }

    /// Goes back to that backup. Versions go on above all that there were: who restores the store of an API server
    /// raises its revisions (`etcdutl snapshot restore --bump-revision`), as Kubernetes asks for.
    pub fn restore(&mut self, n: usize) -> Image {
        let Backup { object, leases, image } = self.backups[n].clone();
        self.backups.clear();
        self.era += 1;
        self.version += 1_000;
        self.leases = leases;
        self.log.clear();
        self.object = None;
        if let Some(object) = object {
            self.put(object.raw.clone());
        }
        image
    }
}
