//! Writes of a fake API server: what is checked, what the server sets by itself, and what a write changes.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    checks::{check_apply, check_name, check_namespace, check_type, check_uid, check_version},
    failure::{About, Failure},
    form::{
        decode, finalizers, generated, keep_system_fields, metadata, new_uid, normalise, text,
        without_times,
    },
    kinds::{Part, Target},
    managers::{self, Force, Manager, Managers, Operation},
    model::{Model, Place},
};

/// Circumstances of a write.
#[derive(Clone, Debug)]
pub(super) struct Write {
    pub(super) manager: String,
    pub(super) is_dry_run: bool,
    /// Time of the write, as objects contain it.
    pub(super) now: String,
}

/// The kind of a write of an existing object.
pub(super) enum By {
    Update,
    Patch,
    Apply(Managers),
}

/// The body of a patch.
#[derive(Clone, Debug)]
pub(super) enum Patch {
    Merge(Value),
    Json(json_patch::Patch),
    Apply(Value, Force),
}

/// Answer to a write: the status code and the object.
pub(super) type Written = (u16, Arc<Value>);

impl Model {
    /// Creates an object.
    ///
    /// # Errors
    ///
    /// The [`Failure`] that the API server answers with; nothing changes.
    pub(super) fn create(
        &mut self,
        target: &Target,
        mut object: Value,
        write: &Write,
    ) -> Result<Written, Failure> {
        let kind = &target.kind;
        check_type(kind, &object)?;
        let name = match text(&object, "name") {
            "" if text(&object, "generateName").is_empty() => {
                let about = kind.about("");
                let why = "Required value: name or generateName is required";
                return Err(about.invalid("FieldValueRequired", "metadata.name", why));
            }
            "" => generated(text(&object, "generateName")),
            name => name.to_owned(),
        };
        check_namespace(target, &object)?;
        check_name(kind, &name)?;
        if !["", "0"].contains(&text(&object, "resourceVersion")) {
            let message = "resourceVersion should not be set on objects to be created";
            return Err(Failure::new(500, "", message));
        }
        let place = Place::of(kind, &target.namespace, &name);
        if let Some(other) = self.object(&place) {
            let is_deleted = !text(other, "deletionTimestamp").is_empty();
            return Err(kind.about(&name).already_exists(is_deleted));
        }
        begin(target, &mut object, &name, write);
        let manager = manager(target, write, Operation::Update);
        let (empty, none) = (json!({}), Managers::default());
        none.updated((&empty, &object), &kind.schema, &manager, &write.now).write_to(&mut object);
        Ok((201, self.store(place, object, write)))
    }

    /// Replaces an object, or its status.
    ///
    /// # Errors
    ///
    /// As for [`create`](Self::create).
    pub(super) fn update(
        &mut self,
        target: &Target,
        object: Value,
        write: &Write,
    ) -> Result<Written, Failure> {
        let (name, old) = self.existing(target)?;
        check_type(&target.kind, &object)?;
        check_namespace(target, &object)?;
        let given = text(&object, "name");
        if given != name {
            return Err(Failure::bad_request(format!(
                "the name of the object ({given}) does not match the name on the URL ({name})"
            )));
        }
        self.replace(target, &old, object, write, By::Update).map(|object| (200, object))
    }

    /// Patches an object, or its status.
    ///
    /// # Errors
    ///
    /// As for [`create`](Self::create).
    pub(super) fn patch(
        &mut self,
        target: &Target,
        patch: Patch,
        write: &Write,
    ) -> Result<Written, Failure> {
        let (configuration, force) = match patch {
            Patch::Apply(configuration, force) => (configuration, force),
            Patch::Merge(patch) => {
                let (_, old) = self.existing(target)?;
                let mut new = Value::clone(&old);
                json_patch::merge(&mut new, &patch);
                return Ok((200, self.replace(target, &old, new, write, By::Patch)?));
            }
            Patch::Json(patch) => {
                let (_, old) = self.existing(target)?;
                let mut new = Value::clone(&old);
                for step in &patch.0 {
                    if is_absent(step, &new) {
                        continue;
                    }
                    let done = json_patch::patch_unsafe(&mut new, std::slice::from_ref(step));
                    done.map_err(|_| About::patch_failed())?;
                }
                return Ok((200, self.replace(target, &old, new, write, By::Patch)?));
            }
        };
        self.apply(target, configuration, force, write)
    }

    fn apply(
        &mut self,
        target: &Target,
        mut configuration: Value,
        force: Force,
        write: &Write,
    ) -> Result<Written, Failure> {
        let kind = Arc::clone(&target.kind);
        let name = target.name.clone().unwrap_or_default();
        check_apply(target, &configuration, write)?;
        let version = text(&configuration, "resourceVersion").to_owned();
        let uid = text(&configuration, "uid").to_owned();
        // An empty map is a field too.
        decode(&kind, &mut configuration);
        if kind.has_status
            && let Value::Object(fields) = &mut configuration
        {
            match target.part {
                Part::Whole => drop(fields.remove("status")),
                Part::Status => fields.retain(|it, _| it == "status"),
            }
        }
        for field in ["resourceVersion", "uid", "creationTimestamp", "generation"] {
            metadata(&mut configuration).remove(field);
        }
        let by = manager(target, write, Operation::Apply);
        let place = Place::of(&kind, &target.namespace, &name);
        let Some(old) = self.object(&place).cloned() else {
            if target.part == Part::Status {
                return Err(kind.about(&name).not_found());
            }
            if !uid.is_empty() {
                return Err(kind.about(&name).conflict(&format!(
                    "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
                )));
            }
            check_name(&kind, &name)?;
            let empty = json!({});
            let applied =
                managers::apply(&empty, &configuration, &kind.schema, (by, force), &write.now);
            let (mut object, managers) = applied?;
            begin(target, &mut object, &name, write);
            object["apiVersion"] = json!(kind.api_version());
            object["kind"] = json!(kind.kind);
            managers.write_to(&mut object);
            return Ok((201, self.store(place, object, write)));
        };
        let applied = managers::apply(&old, &configuration, &kind.schema, (by, force), &write.now);
        let (mut object, managers) = applied?;
        for (field, value) in [("resourceVersion", version), ("uid", uid)] {
            if !value.is_empty() {
                metadata(&mut object).insert(field.to_owned(), json!(value));
            }
        }
        let object = self.replace(target, &old, object, write, By::Apply(managers))?;
        Ok((200, object))
    }

    /// Deletes an object: removes it, or marks it while finalizers are left.
    ///
    /// # Errors
    ///
    /// As for [`create`](Self::create).
    pub(super) fn delete(
        &mut self,
        target: &Target,
        options: &Value,
        write: &Write,
    ) -> Result<Written, Failure> {
        let (name, old) = self.existing(target)?;
        let about = target.kind.about(&name);
        let asked = |field: &str| options["preconditions"][field].as_str();
        if let Some(uid) = asked("uid").filter(|uid| *uid != text(&old, "uid")) {
            let found = text(&old, "uid");
            return Err(about.unmet("UID", uid, found, "deleted and then recreated"));
        }
        let version = text(&old, "resourceVersion");
        if let Some(asked) = asked("resourceVersion").filter(|it| *it != version) {
            return Err(about.unmet("ResourceVersion", asked, version, "modified"));
        }
        let place = Place::of(&target.kind, &target.namespace, &name);
        let before = finalizers(&old);
        let after = finalizers_of_deletion(&before, options["propagationPolicy"].as_str());
        if after.is_empty() {
            if !write.is_dry_run {
                if before != after {
                    // The server first writes the object without the finalizers of policies.
                    let mut object = Value::clone(&old);
                    metadata(&mut object).remove("finalizers");
                    self.put(place.clone(), object);
                }
                self.remove(&place);
            }
            let mut details = json!({ "name": name, "kind": target.kind.plural });
            details["uid"] = json!(text(&old, "uid"));
            if !target.kind.group.is_empty() {
                details["group"] = json!(target.kind.group);
            }
            let status = json!({
                "kind": "Status",
                "apiVersion": "v1",
                "metadata": {},
                "status": "Success",
                "details": details,
            });
            return Ok((200, Arc::new(status)));
        }
        let mut object = Value::clone(&old);
        let meta = metadata(&mut object);
        if meta.get("deletionTimestamp").is_none() {
            meta.insert("deletionTimestamp".to_owned(), json!(write.now));
            meta.insert("deletionGracePeriodSeconds".to_owned(), json!(0));
            if let Some(generation) = meta.get("generation").and_then(Value::as_i64) {
                meta.insert("generation".to_owned(), json!(generation + 1));
            }
        } else if before == after {
            return Ok((200, old));
        }
        meta.insert("finalizers".to_owned(), json!(after));
        Ok((200, self.store(place, object, write)))
    }

    fn existing(&self, target: &Target) -> Result<(String, Arc<Value>), Failure> {
        let name = target.name.clone().unwrap_or_default();
        let place = Place::of(&target.kind, &target.namespace, &name);
        match self.object(&place) {
            Some(object) => Ok((name, Arc::clone(object))),
            None => Err(target.kind.about(&name).not_found()),
        }
    }

    /// Replaces an object by the state that a write asks for, after all checks.
    fn replace(
        &mut self,
        target: &Target,
        old: &Arc<Value>,
        asked: Value,
        write: &Write,
        by: By,
    ) -> Result<Arc<Value>, Failure> {
        let kind = &target.kind;
        let name = text(old, "name").to_owned();
        let about = kind.about(&name);
        let version = text(&asked, "resourceVersion").to_owned();
        let uid = text(&asked, "uid").to_owned();
        // A replacement names the UID as a precondition, a patch as a field like others.
        if matches!(by, By::Update) {
            check_uid(&about, old, &uid, &by)?;
        }
        check_version(kind, &about, old, &version, &by)?;
        check_uid(&about, old, &uid, &by)?;
        let mut new = combined(target, old, asked);
        normalise(kind, &mut new);
        keep_system_fields(old, &mut new);
        let (before, after) = (finalizers(old), finalizers(&new));
        let is_deleted = !text(old, "deletionTimestamp").is_empty();
        let added: Vec<_> = after.iter().filter(|it| !before.contains(it)).collect();
        if is_deleted && !added.is_empty() {
            let added: Vec<_> = added.iter().map(|it| format!("{it:?}")).collect();
            let why = format!(
                "Forbidden: no new finalizers can be added if the object is being deleted, found new \
                 finalizers []string{{{}}}",
                added.join(", ")
            );
            return Err(about.invalid("FieldValueForbidden", "metadata.finalizers", &why));
        }
        if kind.has_generation && kind.spec(old) != kind.spec(&new) {
            let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
            new["metadata"]["generation"] = json!(generation + 1);
        }
        match by {
            By::Apply(managers) => managers.write_to(&mut new),
            By::Update | By::Patch if Managers::are_reset_by(&new) => {
                Managers::default().write_to(&mut new);
            }
            By::Update | By::Patch => {
                let given = Managers::of(&new);
                let base = if given == Managers::default() { Managers::of(old) } else { given };
                let by = manager(target, write, Operation::Update);
                let managers = base.updated((&**old, &new), &kind.schema, &by, &write.now);
                managers.write_to(&mut new);
            }
        }
        if without_times(old) == without_times(&new) {
            return Ok(Arc::clone(old));
        }
        let place = Place::of(kind, &target.namespace, &name);
        if is_deleted && after.is_empty() {
            if !write.is_dry_run {
                self.remove(&place);
            }
            return Ok(Arc::new(new));
        }
        Ok(self.store(place, new, write))
    }

    fn store(&mut self, place: Place, object: Value, write: &Write) -> Arc<Value> {
        if write.is_dry_run { Arc::new(object) } else { self.put(place, object) }
    }
}

/// Prepares an object that is created.
fn begin(target: &Target, object: &mut Value, name: &str, write: &Write) {
    let kind = &target.kind;
    normalise(kind, object);
    if kind.has_status
        && let Value::Object(fields) = &mut *object
    {
        fields.remove("status");
    }
    let meta = metadata(object);
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "managedFields"] {
        meta.remove(field);
    }
    meta.insert("name".to_owned(), json!(name));
    if kind.is_namespaced {
        meta.insert("namespace".to_owned(), json!(target.namespace));
    } else {
        meta.remove("namespace");
    }
    meta.insert("uid".to_owned(), json!(new_uid()));
    meta.insert("creationTimestamp".to_owned(), json!(write.now));
    if kind.has_generation {
        meta.insert("generation".to_owned(), json!(1));
    } else {
        meta.remove("generation");
    }
}

fn manager(target: &Target, write: &Write, operation: Operation) -> Manager {
    let subresource = match target.part {
        Part::Whole => "",
        Part::Status => "status",
    };
    Manager {
        operation,
        name: write.manager.clone(),
        api_version: target.kind.api_version(),
        subresource: subresource.to_owned(),
    }
}

/// The object that a write of a part leads to: the other part stays as it was.
fn combined(target: &Target, old: &Value, asked: Value) -> Value {
    if !target.kind.has_status {
        return asked;
    }
    let (mut whole, part) = match target.part {
        Part::Whole => (asked, old.get("status").cloned()),
        Part::Status => {
            let mut whole = old.clone();
            // The managers may have changed with the status.
            let managed = asked["metadata"].get("managedFields").cloned();
            if let Some(managed) = managed {
                metadata(&mut whole).insert("managedFields".to_owned(), managed);
            }
            (whole, asked.get("status").cloned())
        }
    };
    if let Value::Object(fields) = &mut whole {
        match part {
            Some(status) => drop(fields.insert("status".to_owned(), status)),
            None => drop(fields.remove("status")),
        }
    }
    whole
}

/// Whether a step of a JSON patch tests that a field is absent, and the field is.
fn is_absent(step: &json_patch::PatchOperation, object: &Value) -> bool {
    let json_patch::PatchOperation::Test(test) = step else { return false };
    test.value.is_null() && object.pointer(test.path.as_str()).is_none()
}

/// Finalizers of an object that is deleted under this policy.
fn finalizers_of_deletion(before: &[String], policy: Option<&str>) -> Vec<String> {
    const OF_POLICIES: [&str; 2] = ["foregroundDeletion", "orphan"];
    let added = match policy {
        None => return before.to_vec(),
        Some("Foreground") => Some(OF_POLICIES[0]),
        Some("Orphan") => Some(OF_POLICIES[1]),
        Some(_) => None,
    };
    let kept = before.iter().filter(|it| !OF_POLICIES.contains(&it.as_str())).cloned();
    kept.chain(added.map(str::to_owned)).collect()
}
