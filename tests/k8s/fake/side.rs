//! An API of the two that programs run against.

use std::{collections::BTreeMap, time::Duration};

use bellwether::k8s::kube::{Client, client::Body};
use futures::StreamExt as _;
use http::{Method, Request, header::CONTENT_TYPE};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use super::program::{KINDS, Kind, Known, Step, What};

const MERGE: &str = "application/merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

/// Name of the object that ends a watch.
const LAST: &str = "last";

pub(super) struct Side {
    client: Client,
    namespace: String,
    /// Versions and UIDs in answers about an object, oldest first.
    known: BTreeMap<(&'static str, &'static str), Vec<(String, String)>>,
    /// Version of each kind's list before the program.
    since: BTreeMap<&'static str, String>,
    /// Names of the UIDs that were seen.
    uids: Vec<String>,
}

/// A request as it is sent.
struct Sent {
    method: Method,
    path: String,
    query: String,
    media_type: &'static str,
    body: Value,
}

impl Side {
    pub(super) fn new(client: Client, namespace: &str) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
            known: BTreeMap::new(),
            since: BTreeMap::new(),
            uids: Vec::new(),
        }
    }

    fn path(&self, kind: Kind) -> String {
        let root = if kind.api_version.contains('/') { "apis" } else { "api" };
        format!("/{root}/{}/namespaces/{}/{}", kind.api_version, self.namespace, kind.plural)
    }

    async fn send(&self, sent: Sent) -> (u16, Value) {
        let Sent { method, path, query, media_type, body } = sent;
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = Request::builder()
            .method(method)
            .uri(format!("{path}?{query}"))
            .header(CONTENT_TYPE, media_type)
            .body(Body::from(body))
            .unwrap();
        let answer = self.client.send(request).await.unwrap();
        let code = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&body).unwrap())
    }

    /// Notes where the events of the program begin.
    pub(super) async fn begin(&mut self) {
        for kind in KINDS {
            let (_, list) = self.send(get(self.path(kind), String::new())).await;
            let version = list["metadata"]["resourceVersion"].as_str().unwrap();
            self.since.insert(kind.plural, version.to_owned());
        }
    }

    fn known(&self, step: &Step, which: Known) -> Option<&(String, String)> {
        let all = self.known.get(&(step.kind.plural, step.name))?;
        match which {
            Known::Absent => None,
            Known::Newest => all.last(),
            Known::Earlier => all.get(all.len().saturating_sub(3)),
        }
    }

    fn request(&self, step: &Step) -> Sent {
        let mut sent = get(format!("{}/{}", self.path(step.kind), step.name), String::new());
        let mut query = vec![format!("fieldManager={}", step.manager)];
        if step.is_dry_run {
            query.push("dryRun=All".to_owned());
        }
        let version = self.known(step, step.version).map(|it| it.0.clone());
        let uid = self.known(step, step.uid).map(|it| it.1.clone());
        let whole = |object: &Value| {
            let mut object = object.clone();
            object["apiVersion"] = json!(step.kind.api_version);
            object["kind"] = json!(step.kind.kind);
            object["metadata"]["name"] = json!(step.name);
            for (field, value) in [("resourceVersion", &version), ("uid", &uid)] {
                if let Some(value) = value {
                    object["metadata"][field] = json!(value);
                }
            }
            object
        };
        let (method, part, media_type, body) = match &step.what {
            What::Get => return sent,
            What::List(selector) => {
                let selector: String = selector.bytes().map(|it| format!("%{it:02X}")).collect();
                return get(self.path(step.kind), format!("labelSelector={selector}"));
            }
            What::Create(object) => {
                sent.path = self.path(step.kind);
                let mut object = whole(object);
                object["metadata"].as_object_mut().unwrap().remove("resourceVersion");
                (Method::POST, "", "application/json", object)
            }
            What::Update(object) => (Method::PUT, "", "application/json", whole(object)),
            What::UpdateStatus(object) => {
                (Method::PUT, "/status", "application/json", whole(object))
            }
            What::Merge(object) => (Method::PATCH, "", MERGE, whole(object)),
            What::MergeStatus(object) => (Method::PATCH, "/status", MERGE, whole(object)),
            What::Json(patch) => (Method::PATCH, "", "application/json-patch+json", patch.clone()),
            What::Apply(object, force) => {
                query.push(format!("force={force}"));
                (Method::PATCH, "", APPLY, whole(object))
            }
            What::ApplyStatus(object, force) => {
                query.push(format!("force={force}"));
                (Method::PATCH, "/status", APPLY, whole(object))
            }
            What::Delete(policy) => {
                // A deletion that changes finalizers first does not meet its own precondition on the real server.
                let version = version.filter(|_| policy.is_none());
                let mut options = json!({
                    "kind": "DeleteOptions", "apiVersion": "v1",
                    "preconditions": { "uid": uid, "resourceVersion": version },
                });
                if let Some(policy) = policy {
                    options["propagationPolicy"] = json!(policy);
                }
                if step.is_dry_run {
                    options["dryRun"] = json!(["All"]);
                }
                query.clear();
                (Method::DELETE, "", "application/json", options)
            }
        };
        sent.path.push_str(part);
        Sent { method, query: query.join("&"), media_type, body, ..sent }
    }

    /// Runs a step; returns the answer in the form that both sides share.
    pub(super) async fn step(&mut self, step: &Step) -> Value {
        let sent = self.request(step);
        let (code, mut answer) = self.send(sent).await;
        let known = self.known.entry((step.kind.plural, step.name)).or_default();
        let text = |field: &str| answer["metadata"][field].as_str().unwrap_or_default().to_owned();
        let is_object = answer["kind"] == step.kind.kind;
        let newest = (text("resourceVersion"), text("uid"));
        if is_object && step.is_dry_run {
            // A dry run shows a UID and a version that nothing has.
        } else if is_object && known.last() != Some(&newest) {
            answer["isNewVersion"] = json!(known.last().is_none_or(|it| it.0 != newest.0));
            known.push(newest);
        }
        self.normalise(&mut answer, step.is_dry_run);
        json!({ "code": code, "answer": answer })
    }

    /// Events of the program for a kind.
    pub(super) async fn events(&mut self, kind: Kind) -> Vec<Value> {
        let object = json!({
            "apiVersion": kind.api_version, "kind": kind.kind, "metadata": { "name": LAST },
            "spec": {},
        });
        let create =
            Sent { method: Method::POST, body: object, ..get(self.path(kind), String::new()) };
        assert_eq!(self.send(create).await.0, 201);
        let query = format!("watch=true&resourceVersion={}", self.since[kind.plural]);
        let request = Request::get(format!("{}?{query}", self.path(kind))).body(Body::empty());
        let answer = self.client.send(request.unwrap()).await.unwrap();
        let mut stream = answer.into_body().into_data_stream();
        let (mut text, mut events) = (Vec::new(), Vec::new());
        loop {
            let piece = tokio::time::timeout(Duration::from_secs(60), stream.next()).await;
            text.extend(piece.expect("the events come").unwrap().unwrap());
            while let Some(end) = text.iter().position(|it| *it == b'\n') {
                let mut event: Value = serde_json::from_slice(&text[..end]).unwrap();
                text.drain(..=end);
                if event["object"]["metadata"]["name"] == LAST {
                    return events;
                }
                self.normalise(&mut event["object"], false);
                events.push(event);
            }
        }
    }

    /// Replaces values that differ by nature by names, or removes them.
    fn normalise(&mut self, answer: &mut Value, is_dry_run: bool) {
        if answer["kind"] == "Status" {
            self.normalise_status(answer);
            return;
        }
        if let Some(items) = answer.get_mut("items") {
            let mut items = items.take();
            items.as_array_mut().unwrap().iter_mut().for_each(|it| self.normalise(it, false));
            *answer = items;
            return;
        }
        // Items of lists do not name their kind.
        for field in ["kind", "apiVersion"] {
            answer.as_object_mut().unwrap().remove(field);
        }
        let uid = answer["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let uid = if is_dry_run { "any".to_owned() } else { self.name_of(&uid) };
        let namespace = self.namespace.clone();
        let meta = answer["metadata"].as_object_mut().unwrap();
        meta.remove("resourceVersion");
        meta.insert("uid".to_owned(), json!(uid));
        assert_eq!(meta.remove("namespace"), Some(json!(namespace)));
        for field in ["creationTimestamp", "deletionTimestamp"] {
            if let Some(time) = meta.get_mut(field) {
                assert!(time.as_str().is_some_and(|it| it.ends_with('Z')), "{time}");
                *time = json!("a time");
            }
        }
        for entry in
            meta.get_mut("managedFields").and_then(Value::as_array_mut).into_iter().flatten()
        {
            if let Some(time) = entry.get_mut("time") {
                *time = json!("a time");
            }
        }
        if let Some(entries) = meta.get_mut("managedFields").and_then(Value::as_array_mut) {
            entries.sort_by_key(Value::to_string);
        }
    }

    fn normalise_status(&mut self, status: &mut Value) {
        let mut text = status.to_string();
        for (at, uid) in self.uids.iter().enumerate() {
            text = text.replace(uid, &format!("uid-{at}"));
        }
        for (version, _) in self.known.values().flatten() {
            for end in [",", "\""] {
                text = text.replace(&format!(": {version}{end}"), &format!(": version{end}"));
            }
            text = text.replace(&format!("({version})"), "(version)");
        }
        // The real server names its storage and the key in it.
        while let Some(at) = text.find("StorageError: ") {
            let end = text[at..].find("AdditionalErrorMsg: ").map_or(at + 1, |it| at + it + 20);
            text.replace_range(at..end, "");
        }
        *status = serde_json::from_str(&text).unwrap();
        status.as_object_mut().unwrap().remove("metadata");
        // The real server reports conflicts in no order, and some invalid fields twice.
        if let Some(causes) = status.pointer_mut("/details/causes").and_then(Value::as_array_mut) {
            causes.sort_by_key(Value::to_string);
            causes.dedup();
            if status["reason"] == "Invalid" {
                status.as_object_mut().unwrap().remove("message");
            }
        }
    }

    fn name_of(&mut self, uid: &str) -> String {
        let at = self.uids.iter().position(|it| it == uid).unwrap_or_else(|| {
            self.uids.push(uid.to_owned());
            self.uids.len() - 1
        });
        format!("uid-{at}")
    }
}

fn get(path: String, query: String) -> Sent {
    let (method, media_type) = (Method::GET, "application/json");
    Sent { method, path, query, media_type, body: Value::Null }
}
