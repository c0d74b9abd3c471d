//! An object of a list or watch that may fail to deserialize.
//!
//! An object that this program's type cannot deserialize (for example, because of a field of a newer
//! definition) must not hide the others: kube decodes a list as a whole. Kube's own guard builds a tree of
//! every object first; this one keeps the text until the type has read it.

use std::borrow::Cow;

use kube::{Resource, core::ObjectMeta};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _},
};
use serde_json::value::RawValue;

/// A deserialized object, or the metadata of an object that the type cannot deserialize.
#[derive(Clone, Debug)]
pub(super) struct Guarded<K>(pub(super) Result<K, Unreadable>);

/// An object that the type cannot deserialize.
#[derive(Clone, Debug)]
pub(super) struct Unreadable {
    meta: ObjectMeta,
    /// Field that fails to deserialize, and the reason. The value is left out, because it may be a secret.
    pub(super) why: String,
}

/// Error of the decoder, without the value that it found.
fn why<K: DeserializeOwned>(text: &str, plainly: &serde_json::Error) -> String {
    // Deserializes again with path tracking, only after a failure.
    let mut decoder = serde_json::Deserializer::from_str(text);
    let path = serde_path_to_error::deserialize::<_, K>(&mut decoder)
        .err()
        .map(|error| error.path().to_string())
        .filter(|path| path != ".");
    let said = plainly.to_string();
    let without = [("string", '"'), ("variant", '`')].iter().find_map(|(what, quote)| {
        let (before, found) = said.split_once(&format!(" {what} {quote}"))?;
        let (_, after) = found.rsplit_once(&format!("{quote}, expected "))?;
        Some(format!("{before} {what}, expected {after}"))
    });
    let said = without.unwrap_or(said);
    path.map_or_else(|| said.clone(), |path| format!("{path}: {said}"))
}

/// The part that every object has.
#[derive(Deserialize)]
struct Meta {
    metadata: ObjectMeta,
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Guarded<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        match serde_json::from_str(text.get()) {
            Ok(object) => Ok(Self(Ok(object))),
            Err(error) => {
                // Without metadata the object has no name, and the whole list is rejected.
                let Meta { metadata } =
                    serde_json::from_str(text.get()).map_err(D::Error::custom)?;
                let why = why::<K>(text.get(), &error);
                Ok(Self(Err(Unreadable { meta: metadata, why })))
            }
        }
    }
}

impl<K: Resource> Resource for Guarded<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(kind: &K::DynamicType) -> Cow<'_, str> {
        K::kind(kind)
    }

    fn group(kind: &K::DynamicType) -> Cow<'_, str> {
        K::group(kind)
    }

    fn version(kind: &K::DynamicType) -> Cow<'_, str> {
        K::version(kind)
    }

    fn api_version(kind: &K::DynamicType) -> Cow<'_, str> {
        K::api_version(kind)
    }

    fn plural(kind: &K::DynamicType) -> Cow<'_, str> {
        K::plural(kind)
    }

    fn metadata_api() -> bool {
        K::metadata_api()
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.as_ref().map_or_else(|it| &it.meta, K::meta)
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.as_mut().map_or_else(|it| &mut it.meta, K::meta_mut)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "it is never read")]
    struct Login {
        metadata: ObjectMeta,
        users: BTreeMap<String, Vec<u32>>,
        #[serde(default)]
        by: Option<By>,
    }

    #[derive(Debug, Deserialize)]
    enum By {
        Password,
        Certificate,
    }

    fn why_not(users: &str) -> String {
        why_not_with(users, "null")
    }

    fn why_not_with(users: &str, by: &str) -> String {
        let text = format!(r#"{{"metadata": {{"name": "a"}}, "users": {users}, "by": {by}}}"#);
        let guarded: Guarded<Login> = serde_json::from_str(&text).unwrap();
        guarded.0.unwrap_err().why
    }

    #[test]
    fn what_is_wrong_is_named_by_its_field_and_not_by_what_it_holds() {
        for secret in ["hunter2", r#"a\", expected \"b"#] {
            let said = why_not(&format!(r#"{{"root": [7, "{secret}"]}}"#));
            assert!(
                said.starts_with("users.root[1]: invalid type: string, expected u32"),
                "{said}"
            );
            assert!(!said.contains("hunter2"), "{said}");
        }
        let said = why_not(r#"{"root": [-1]}"#);
        assert!(
            said.starts_with("users.root[0]: invalid value: integer `-1`, expected u32"),
            "{said}"
        );
        let said = why_not_with("{}", r#""hunter2""#);
        let words = "by: unknown variant, expected `Password` or `Certificate`";
        assert!(said.starts_with(words), "{said}");
    }
}
