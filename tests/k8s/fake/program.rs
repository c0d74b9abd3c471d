//! A random program of requests. The steps depend on the seed alone: after a change of the fake, a seed runs
//! the same steps.

use std::fmt;

use rand::{RngExt as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::{Map, Value, json};

/// A kind that programs use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) api_version: &'static str,
    pub(super) kind: &'static str,
    pub(super) plural: &'static str,
    pub(super) has_status: bool,
}

pub(super) const KINDS: [Kind; 2] = [
    Kind { api_version: "v1", kind: "ConfigMap", plural: "configmaps", has_status: false },
    Kind {
        api_version: "test.bellwether.dev/v1",
        kind: "Gadget",
        plural: "gadgets",
        has_status: true,
    },
];

const NAMES: [&str; 2] = ["a", "b"];
const MANAGERS: [&str; 3] = ["one", "two", "three"];
const FINALIZERS: [&str; 2] = ["test.bellwether.dev/one", "test.bellwether.dev/two"];

/// A version or UID that a request contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// The request names none.
    Absent,
    /// The value in the newest answer about the object.
    Newest,
    /// The value in an earlier answer about an object of that name.
    Earlier,
}

/// A request, without the values that differ between the two sides.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) kind: Kind,
    pub(super) name: &'static str,
    pub(super) what: What,
    pub(super) manager: &'static str,
    pub(super) version: Known,
    pub(super) uid: Known,
    pub(super) is_dry_run: bool,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    Get,
    List(&'static str),
    Create(Value),
    Update(Value),
    UpdateStatus(Value),
    Merge(Value),
    MergeStatus(Value),
    Json(Value),
    Apply(Value, bool),
    ApplyStatus(Value, bool),
    Delete(Option<&'static str>),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name, what, manager, version, uid, is_dry_run } = self;
        write!(
            f,
            "{what:?} of {} {name} by {manager}, version {version:?}, uid {uid:?}{}",
            kind.plural,
            if *is_dry_run { ", dry run" } else { "" }
        )
    }
}

pub(super) struct Program {
    rng: StdRng,
}

impl Program {
    pub(super) fn new(rng: StdRng) -> Self {
        Self { rng }
    }

    fn one_in(&mut self, of: u32) -> bool {
        self.rng.random_range(0..of) == 0
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        *all.choose(&mut self.rng).expect("not empty")
    }

    pub(super) fn next_step(&mut self) -> Step {
        let kind = self.of(&KINDS);
        let what = self.what(kind);
        Step {
            kind,
            name: self.of(&NAMES),
            what,
            manager: self.of(&MANAGERS),
            version: self.of(&[
                Known::Absent,
                Known::Absent,
                Known::Newest,
                Known::Newest,
                Known::Earlier,
            ]),
            uid: self.of(&[
                Known::Absent,
                Known::Absent,
                Known::Absent,
                Known::Newest,
                Known::Earlier,
            ]),
            is_dry_run: self.one_in(20),
        }
    }

    fn what(&mut self, kind: Kind) -> What {
        let force = self.one_in(3);
        match self.rng.random_range(0..100) {
            0..4 => What::Get,
            4..8 => {
                What::List(self.of(&["", "l=x", "l!=x", "l in (x,y)", "l notin (x)", "!l", "l"]))
            }
            8..18 => What::Create(self.object(kind)),
            18..30 => What::Update(self.object(kind)),
            30..36 if kind.has_status => What::UpdateStatus(self.with_status(kind)),
            36..46 => What::Merge(self.object(kind)),
            46..51 if kind.has_status => What::MergeStatus(self.with_status(kind)),
            51..61 => What::Json(self.json_patch()),
            61..84 => What::Apply(self.object(kind), force),
            84..90 if kind.has_status => What::ApplyStatus(self.with_status(kind), force),
            90..100 => What::Delete(self.of(&[
                None,
                None,
                None,
                Some("Background"),
                Some("Foreground"),
                Some("Orphan"),
            ])),
            _ => What::Apply(self.object(kind), force),
        }
    }

    fn texts(&mut self, names: &[&str]) -> Map<String, Value> {
        let mut found = Map::new();
        for name in names {
            if !self.one_in(2) {
                found.insert((*name).to_owned(), json!(self.of(&["x", "y"])));
            }
        }
        found
    }

    fn some(&mut self, all: &[&'static str]) -> Vec<&'static str> {
        let mut found: Vec<_> =
            all.iter().copied().filter(|_| self.rng.random_range(0..2) == 0).collect();
        if self.one_in(3) {
            found.reverse();
        }
        found
    }

    fn metadata(&mut self) -> Value {
        let mut meta = json!({});
        // The real server writes a new version of a custom resource that gets an empty map of labels.
        for (field, names) in [("labels", &["l", "m"][..]), ("annotations", &["n"])] {
            let texts = self.texts(names);
            if !texts.is_empty() {
                meta[field] = json!(texts);
            }
        }
        if self.one_in(4) {
            meta["finalizers"] = json!(self.some(&FINALIZERS));
        }
        meta
    }

    /// An object without its name, version and UID.
    fn object(&mut self, kind: Kind) -> Value {
        let mut object = json!({ "metadata": self.metadata() });
        if kind.kind == "ConfigMap" {
            if !self.one_in(6) {
                object["data"] = json!(self.texts(&["a", "b", "c"]));
            }
            return object;
        }
        object["spec"] = self.spec();
        if self.one_in(4) {
            object["status"] = self.status();
        }
        object
    }

    fn spec(&mut self) -> Value {
        let mut spec = json!({});
        if !self.one_in(2) {
            spec["size"] = json!(self.rng.random_range(1..3));
        }
        if !self.one_in(2) {
            spec["limits"] = json!(self.texts(&["cpu", "memory"]));
        }
        if self.one_in(3) {
            spec["selector"] = json!(self.texts(&["app", "tier"]));
        }
        if !self.one_in(2) {
            let ports = self.some(&["1", "2", "3"]);
            let port = |this: &mut Self, port: &str| {
                let mut item = this.texts(&["name", "comment"]);
                item.insert("port".to_owned(), json!(port.parse::<i64>().expect("a number")));
                Value::Object(item)
            };
            spec["ports"] = ports.into_iter().map(|it| port(self, it)).collect();
        }
        if self.one_in(3) {
            spec["tags"] = json!(self.some(&["p", "q", "r"]));
        }
        if self.one_in(3) {
            spec["plain"] = json!(self.some(&["p", "q"]));
        }
        spec
    }

    fn status(&mut self) -> Value {
        let mut status = json!({});
        if !self.one_in(2) {
            status["ready"] = json!(self.rng.random_range(1..3));
        }
        if !self.one_in(2) {
            status["phase"] = json!(self.of(&["x", "y"]));
        }
        status
    }

    fn with_status(&mut self, kind: Kind) -> Value {
        let mut object = if self.one_in(4) { self.object(kind) } else { json!({ "spec": {} }) };
        object["status"] = self.status();
        object
    }

    fn json_patch(&mut self) -> Value {
        let (all, finalizer) = ("/metadata/finalizers", self.of(&FINALIZERS));
        let first = "/metadata/finalizers/0";
        match self.rng.random_range(0..6) {
            0 => json!([
                { "op": "test", "path": all, "value": null },
                { "op": "add", "path": all, "value": [finalizer] },
            ]),
            // The list stays a set.
            1 => json!([
                { "op": "test", "path": all, "value": [self.of(&FINALIZERS)] },
                { "op": "add", "path": all, "value": FINALIZERS },
            ]),
            2 => json!([
                { "op": "test", "path": first, "value": finalizer },
                { "op": "remove", "path": first },
            ]),
            3 => json!([{ "op": "remove", "path": all }]),
            4 => json!([{ "op": "add", "path": "/metadata/labels", "value": { "l": "x" } }]),
            _ => {
                json!([{ "op": "replace", "path": "/metadata/labels/l", "value": self.of(&["x", "y"]) }])
            }
        }
    }
}
