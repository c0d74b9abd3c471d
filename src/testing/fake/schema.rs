//! How server-side apply merges the lists and maps of a kind.
//!
//! Maps are merged field by field and lists are replaced as a whole, unless a [`Schema`] gives another form.
//! The schema of a custom resource comes from its definition (`x-kubernetes-list-type` and
//! `x-kubernetes-map-type`), the schema of a built-in kind from a table in [`super::builtin`].

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::{Value, json};

/// Form of a list or map that differs from the default.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Form {
    /// A map is merged field by field, a list is replaced as a whole.
    #[default]
    Default,
    /// A map is replaced as a whole.
    AtomicMap,
    /// A list is a set of scalars.
    Set,
    /// A list is a map of items, by these fields and their defaults.
    Keyed(Vec<(String, Option<Value>)>),
}

/// Form of a value and of the values in it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Schema {
    pub(super) form: Form,
    fields: BTreeMap<String, Schema>,
    /// Values of a map with arbitrary keys.
    others: Option<Box<Schema>>,
    items: Option<Box<Schema>>,
}

static DEFAULT: Schema =
    Schema { form: Form::Default, fields: BTreeMap::new(), others: None, items: None };

impl Schema {
    /// The schema of a whole object, with its metadata, from the schema of a custom resource.
    pub(super) fn of_definition(open_api: &Value) -> Self {
        let mut schema = Self::read(open_api);
        schema.fields.remove("metadata");
        schema.with_metadata()
    }

    /// The schema of an object that has these lists and maps: the path in dots, and the form.
    pub(super) fn of_table<'a>(rows: impl IntoIterator<Item = (String, &'a [&'a str])>) -> Self {
        let mut schema = Self::default();
        for (path, keys) in rows {
            schema.place(&path).form = match keys {
                ["atomic map"] => Form::AtomicMap,
                ["set"] => Form::Set,
                keys => Form::Keyed(keys.iter().map(|key| default_of(key)).collect()),
            };
        }
        schema.with_metadata()
    }

    fn with_metadata(mut self) -> Self {
        self.place("metadata.finalizers").form = Form::Set;
        self.place("metadata.ownerReferences").form = Form::Keyed(vec![default_of("uid")]);
        self
    }

    /// The schema at a path of field names. Items of a list are passed through.
    fn place(&mut self, path: &str) -> &mut Self {
        let mut at = self;
        for name in path.split('.') {
            let (name, is_list) = name.strip_suffix("[]").map_or((name, false), |it| (it, true));
            at = at.fields.entry(name.to_owned()).or_default();
            if is_list {
                at = at.items.get_or_insert_default();
            }
        }
        at
    }

    fn read(open_api: &Value) -> Self {
        let list = open_api["x-kubernetes-list-type"].as_str();
        let form = match (list, open_api["x-kubernetes-map-type"].as_str()) {
            (Some("set"), _) => Form::Set,
            (Some("map"), _) => {
                let keys = open_api["x-kubernetes-list-map-keys"].as_array();
                let keys = keys.into_iter().flatten().filter_map(Value::as_str);
                Form::Keyed(keys.map(|key| (key.to_owned(), default_in(open_api, key))).collect())
            }
            (_, Some("atomic")) => Form::AtomicMap,
            _ => Form::Default,
        };
        let fields = open_api["properties"].as_object().into_iter().flatten();
        let inner = |at: &str| open_api.get(at).filter(|it| it.is_object()).map(Self::read);
        Self {
            form,
            fields: fields.map(|(name, of)| (name.clone(), Self::read(of))).collect(),
            others: inner("additionalProperties").map(Box::new),
            items: inner("items").map(Box::new),
        }
    }

    /// The schema of a field of this map.
    pub(super) fn field(&self, name: &str) -> &Self {
        self.fields.get(name).or(self.others.as_deref()).unwrap_or(&DEFAULT)
    }

    /// The schema of the items of this list.
    pub(super) fn items(&self) -> &Self {
        self.items.as_deref().unwrap_or(&DEFAULT)
    }

    /// The schema of the value that an element of a path leads to.
    pub(super) fn inside(&self, element: &str) -> &Self {
        element.strip_prefix("f:").map_or_else(|| self.items(), |name| self.field(name))
    }

    /// Whether the value is merged as a whole.
    pub(super) fn is_leaf(&self, value: &Value) -> bool {
        match value {
            Value::Object(_) => self.form == Form::AtomicMap,
            Value::Array(_) => !matches!(self.form, Form::Set | Form::Keyed(_)),
            _ => true,
        }
    }

    /// The element of a path that leads to an item of this list, as `FieldsV1` writes it; `None` if the item
    /// has no key.
    pub(super) fn element(&self, item: &Value) -> Option<String> {
        match &self.form {
            Form::Set => Some(format!("v:{item}")),
            Form::Keyed(keys) => {
                let mut values = BTreeMap::new();
                for (key, default) in keys {
                    let value = item.get(key).filter(|it| !it.is_null()).or(default.as_ref())?;
                    values.insert(key, value);
                }
                // Fields are written in the order of their names, like the API server does.
                let mut text = "k:{".to_owned();
                for (at, (key, value)) in values.into_iter().enumerate() {
                    let comma = if at == 0 { "" } else { "," };
                    let _ = write!(text, "{comma}{}:{value}", json!(key));
                }
                text.push('}');
                Some(text)
            }
            Form::Default | Form::AtomicMap => None,
        }
    }

    /// The position of an element in this list.
    pub(super) fn position(&self, items: &[Value], element: &str) -> Option<usize> {
        items.iter().position(|item| self.element(item).as_deref() == Some(element))
    }
}

/// The name of a key and its default, from `name` or `name=default`.
fn default_of(key: &str) -> (String, Option<Value>) {
    match key.split_once('=') {
        Some((key, default)) => (key.to_owned(), Some(json!(default))),
        None => (key.to_owned(), None),
    }
}

/// The default of a key, from the schema of a keyed list.
fn default_in(list: &Value, key: &str) -> Option<Value> {
    list.get("items")?.get("properties")?.get(key)?.get("default").cloned()
}
