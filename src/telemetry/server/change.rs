//! Change from one picture to the next, in the form that the page applies.
//!
//! A change is `[value]` where a value is replaced, `[]` where it is removed, and an object where something
//! inside it changed: by field, or by place in a list. In a list, `"+"` comes first: `[index, number of
//! removed items, new items]`. `{}` means no change.

use serde_json::{Map, Value, json};

/// Key of the removed and added items of a list.
const SPLICE: &str = "+";
/// Fields that identify an item of a list in both pictures.
const IDENTITY: [&str; 5] = ["namespace", "name", "id", "term", "work"];

/// Change that turns `old` into `new`.
pub(super) fn between(old: &Value, new: &Value) -> Value {
    inside(old, new).unwrap_or_else(|| json!({}))
}

/// Change inside a value; `None` if both values are equal.
fn inside(old: &Value, new: &Value) -> Option<Value> {
    match (old, new) {
        (old, new) if old == new => None,
        (Value::Object(old), Value::Object(new)) => Some(fields(old, new)),
        (Value::Array(old), Value::Array(new)) => Some(items(old, new)),
        (_, new) => Some(json!([new])),
    }
}

fn fields(old: &Map<String, Value>, new: &Map<String, Value>) -> Value {
    let mut changes = Map::new();
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        changes.insert(key.clone(), json!([]));
    }
    for (key, value) in new {
        let change = match old.get(key) {
            Some(before) => inside(before, value),
            None => Some(json!([value])),
        };
        if let Some(change) = change {
            changes.insert(key.clone(), change);
        }
    }
    Value::Object(changes)
}

/// Change of a list: a common beginning and end stay in place, the items between are removed and added.
fn items(old: &[Value], new: &[Value]) -> Value {
    let shorter = old.len().min(new.len());
    let (mut head, mut tail) = (shorter, 0);
    if old.len() != new.len() || !old.iter().zip(new).all(|(a, b)| is_same(a, b)) {
        head = old.iter().zip(new).take_while(|(a, b)| is_same(a, b)).count();
        let ends = old.iter().rev().zip(new.iter().rev()).take(shorter - head);
        tail = ends.take_while(|(a, b)| is_same(a, b)).count();
    }
    let (gone, come) = (&old[head..old.len() - tail], &new[head..new.len() - tail]);
    let mut changes = Map::new();
    if !gone.is_empty() || !come.is_empty() {
        changes.insert(SPLICE.to_owned(), json!([head, gone.len(), come]));
    }
    let begin = old[..head].iter().zip(new).enumerate();
    let (old_end, new_end) = (&old[old.len() - tail..], &new[new.len() - tail..]);
    let end =
        old_end.iter().zip(new_end).enumerate().map(|(at, pair)| (new.len() - tail + at, pair));
    for (at, (before, after)) in begin.chain(end) {
        if let Some(change) = inside(before, after) {
            changes.insert(at.to_string(), change);
        }
    }
    Value::Object(changes)
}

/// Whether two items have the same identity, with possible changes; a plain value is always the one of its
/// place.
fn is_same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            IDENTITY.iter().all(|key| a.get(*key) == b.get(*key))
        }
        (a, b) => a.is_object() == b.is_object(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Applies a change as the page does.
    pub(crate) fn applied(old: &Value, change: &Value) -> Value {
        let Value::Object(change) = change else { return change[0].clone() };
        let mut fresh = old.clone();
        if let Value::Array(items) = &mut fresh {
            if let Some(splice) = change.get(SPLICE) {
                let at = splice[0].as_u64().unwrap() as usize;
                let gone = splice[1].as_u64().unwrap() as usize;
                items.splice(at..at + gone, splice[2].as_array().unwrap().clone());
            }
            for (key, part) in change.iter().filter(|(key, _)| *key != SPLICE) {
                let at: usize = key.parse().unwrap();
                items[at] = applied(&items[at], part);
            }
        } else if let Value::Object(fields) = &mut fresh {
            for (key, part) in change {
                if *part == json!([]) {
                    fields.remove(key);
                } else {
                    let before = fields.get(key).cloned().unwrap_or_default();
                    fields.insert(key.clone(), applied(&before, part));
                }
            }
        }
        fresh
    }

    #[test]
    fn a_change_says_only_what_changed() {
        let old =
            json!({ "at": 1, "gone": 1, "checks": [{ "name": "a", "ms": 1 }, { "name": "b" }] });
        let new =
            json!({ "at": 1, "come": null, "checks": [{ "name": "a", "ms": 2 }, { "name": "b" }] });
        let change = between(&old, &new);
        assert_eq!(change, json!({ "gone": [], "come": [null], "checks": { "0": { "ms": [2] } } }));
        assert_eq!(between(&new, &new), json!({}));
    }

    #[test]
    fn an_item_that_comes_or_goes_moves_no_other() {
        let item = |name: &str, ms: i32| json!({ "name": name, "ms": ms });
        let old = json!([item("a", 1), item("b", 1), item("d", 1), item("e", 1)]);
        let new = json!([item("a", 2), item("b", 1), item("c", 1), item("d", 1), item("e", 3)]);
        let change = between(&old, &new);
        let wanted = json!({
            "+": [2, 0, [item("c", 1)]], "0": { "ms": [2] }, "4": { "ms": [3] },
        });
        assert_eq!(change, wanted);
        assert_eq!(applied(&old, &change), new);
        let back = between(&new, &old);
        assert_eq!(applied(&new, &back), old);
    }

    /// Arbitrary JSON values of a few levels.
    fn values() -> impl proptest::strategy::Strategy<Value = Value> {
        use proptest::prelude::*;
        let leaf = prop_oneof![
            Just(Value::Null),
            (0..3_i64).prop_map(|it| json!(it)),
            "[ab]{0,1}".prop_map(|it| json!(it)),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
                prop::collection::btree_map("name|id|a|[+]", inner, 0..4)
                    .prop_map(|it| Value::Object(it.into_iter().collect())),
            ]
        })
    }

    proptest::proptest! {
        #[test]
        fn a_change_that_is_applied_yields_the_new_picture(old in values(), new in values()) {
            proptest::prop_assert_eq!(applied(&old, &between(&old, &new)), new);
        }
    }
}
