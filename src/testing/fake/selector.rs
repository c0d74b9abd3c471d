//! Label and field selectors of lists and watches.

use serde_json::Value;

use super::{failure::Failure, kinds::Kind};

/// A requirement of a selector.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    Exists(String),
    Absent(String),
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
}

/// Objects that a list or watch returns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<Requirement>,
}

impl Selector {
    /// Reads the selectors of a request for objects of a kind.
    ///
    /// # Errors
    ///
    /// 400 if a selector cannot be read, or names a field that the kind does not offer.
    pub(super) fn read(
        kind: &Kind,
        labels: Option<&str>,
        fields: Option<&str>,
    ) -> Result<Self, Failure> {
        let labels = requirements(labels.unwrap_or_default())?;
        let fields = requirements(fields.unwrap_or_default())?;
        for requirement in &fields {
            let (Requirement::In(field, _) | Requirement::NotIn(field, _)) = requirement else {
                let text = format!("invalid selector: a field needs a value, in {requirement:?}");
                return Err(Failure::bad_request(text));
            };
            let is_common = ["metadata.name", "metadata.namespace"].contains(&field.as_str());
            if !is_common && kind.selectable.as_ref().is_some_and(|all| !all.contains(field)) {
                return Err(Failure::bad_request(format!("field label not supported: {field}")));
            }
        }
        Ok(Self { labels, fields })
    }

    /// Whether an object is selected.
    pub(super) fn picks(&self, object: &Value) -> bool {
        let label = |name: &str| text(object["metadata"]["labels"].get(name));
        // A field that does not exist counts as empty.
        let field = |path: &str| {
            let value = path.split('.').try_fold(object, |value, name| value.get(name));
            Some(text(value).unwrap_or_default())
        };
        self.labels.iter().all(|it| it.holds(&label))
            && self.fields.iter().all(|it| it.holds(&field))
    }
}

impl Requirement {
    fn holds(&self, value: &dyn Fn(&str) -> Option<String>) -> bool {
        match self {
            Self::Exists(name) => value(name).is_some(),
            Self::Absent(name) => value(name).is_none(),
            Self::In(name, values) => value(name).is_some_and(|it| values.contains(&it)),
            Self::NotIn(name, values) => value(name).is_none_or(|it| !values.contains(&it)),
        }
    }
}

fn text(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text.clone()),
        Value::Null => None,
        value => Some(value.to_string()),
    }
}

fn requirements(selector: &str) -> Result<Vec<Requirement>, Failure> {
    // Commas in parentheses separate values.
    let mut depth = 0_usize;
    let parts = selector.split(|it: char| {
        match it {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        it == ',' && depth == 0
    });
    parts.map(str::trim).filter(|it| !it.is_empty()).map(requirement).collect()
}

fn requirement(text: &str) -> Result<Requirement, Failure> {
    let name = |name: &str| {
        let name = name.trim();
        let is_good = !name.is_empty()
            && name.chars().all(|it| it.is_ascii_alphanumeric() || "-_./".contains(it));
        let why = || Failure::bad_request(format!("unable to parse requirement: {text}"));
        if is_good { Ok(name.to_owned()) } else { Err(why()) }
    };
    let value = |value: &str| vec![value.trim().to_owned()];
    if let Some((left, right)) = text.split_once("!=") {
        return Ok(Requirement::NotIn(name(left)?, value(right)));
    }
    if let Some((left, right)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return Ok(Requirement::In(name(left)?, value(right)));
    }
    if let Some((left, list)) = text.strip_suffix(')').and_then(|it| it.split_once('(')) {
        let values = list.split(',').map(|it| it.trim().to_owned()).collect();
        let left = left.trim();
        if let Some(left) = left.strip_suffix(" notin") {
            return Ok(Requirement::NotIn(name(left)?, values));
        }
        if let Some(left) = left.strip_suffix(" in") {
            return Ok(Requirement::In(name(left)?, values));
        }
    }
    match text.strip_prefix('!') {
        Some(left) => Ok(Requirement::Absent(name(left)?)),
        None => Ok(Requirement::Exists(name(text)?)),
    }
}
