//! Order of the writes of all replicas, from the API server's audit log.

use std::collections::HashMap;

use serde_json::Value;

use crate::kube::Written;

/// Successful write of a replica, with its place in the total order.
struct Done {
    version: u64,
    user: String,
    object: String,
    /// Fence that this write draws, if it is a draw.
    draws: Option<i64>,
    /// Term that this write reports, if it writes the `Election`.
    term: Option<i64>,
}

impl Done {
    fn of(write: &Written, users: &[String]) -> Option<Self> {
        let succeeded = (200..300).contains(&write.code) && users.contains(&write.user);
        // Events do not count: each one is created once, and only its author counts its series. For labels of
        // pods only their final values count.
        if !succeeded || !["uptimechecks/status", "elections/status"].contains(&&*write.resource) {
            return None;
        }
        let version =
            write.response.pointer("/metadata/resourceVersion")?.as_str()?.parse().ok()?;
        let object = format!("{}/{}", write.resource.split('/').next()?, write.name);
        let status = write.request.get("status").and_then(Value::as_object);
        let term = status.and_then(|it| it.get("term")?.as_i64());
        Some(Self { version, user: write.user.clone(), object, draws: drawn(write), term })
    }
}

/// Fence that a write draws: such a write sets no other field.
fn drawn(write: &Written) -> Option<i64> {
    let status = write.request.get("status").and_then(Value::as_object)?;
    (status.len() == 1).then(|| status.get("fence")?.as_i64())?
}

/// Counts over the ordered writes.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Order {
    /// How many writes of replicas succeeded.
    pub(super) writes: usize,
    /// How many fences were drawn.
    pub(super) draws: usize,
    /// How many writes came after a later leader had drawn its fence, and failed on their precondition.
    pub(super) refused_late: usize,
}

/// Fails if a fence did not grow, or if an object was written with an earlier fence after a later one.
pub(super) fn of(writes: &[Written], users: &[String]) -> Result<Order, String> {
    let mut done: Vec<Done> = writes.iter().filter_map(|it| Done::of(it, users)).collect();
    done.sort_by_key(|it| it.version);
    let mut drawn: HashMap<&str, i64> = HashMap::new();
    let mut by_object: HashMap<&str, (i64, &Done)> = HashMap::new();
    let (mut last, mut draws, mut term) = (0, 0, 0);
    for write in &done {
        if let Some(fence) = write.draws {
            if fence <= last {
                return Err(format!("fence {fence} was drawn after {last}"));
            }
            (last, draws) = (fence, draws + 1);
            drawn.insert(&write.user, fence);
            continue;
        }
        if let Some(told) = write.term {
            // The Election is written outside of the controllers: the write names its term.
            if told < term {
                return Err(format!("the Election was written by term {told} after {term}"));
            }
            term = told;
            continue;
        }
        let Some(&fence) = drawn.get(&*write.user) else {
            return Err(format!("{} wrote {} without a fence", write.user, write.object));
        };
        if let Some((later, other)) = by_object.get(&*write.object).filter(|it| fence < it.0) {
            return Err(format!(
                "{} was written by {} with fence {fence} (version {}) after {} had with fence {later} \
                 (version {})",
                write.object, write.user, write.version, other.user, other.version,
            ));
        }
        by_object.insert(&write.object, (fence, write));
    }
    Ok(Order { writes: done.len(), draws, refused_late: refused_late(writes, users) })
}

/// Counts late writes by the server's own clock: those received after the server had answered the draw of a
/// later fence.
fn refused_late(writes: &[Written], users: &[String]) -> usize {
    let drawn: Vec<(&Written, i64)> = writes
        .iter()
        .filter(|it| it.resource == "elections/status" && (200..300).contains(&it.code))
        .filter_map(|it| Some((it, drawn(it)?)))
        .collect();
    let late = |write: &&Written| {
        let before = drawn.iter().filter(|(draw, _)| draw.answered < write.received);
        let latest = before.max_by_key(|(_, fence)| fence);
        latest.is_some_and(|(draw, _)| draw.user != write.user)
    };
    let refused = |it: &&Written| {
        it.resource == "uptimechecks/status" && it.code == 409 && users.contains(&it.user)
    };
    writes.iter().filter(refused).filter(late).count()
}

mod tests {
    use serde_json::json;

    use super::{Order, Written, of};

    /// Writes of two leaders, `a` and then `b`, in the order of the answers.
    #[derive(Default)]
    struct Log(Vec<Written>);

    impl Log {
        fn add(
            mut self,
            user: &str,
            resource: &str,
            code: u16,
            status: &serde_json::Value,
        ) -> Self {
            let at = self.0.len();
            self.0.push(Written {
                verb: "patch".to_owned(),
                user: user.to_owned(),
                agent: String::new(),
                group: "bellwether.dev".to_owned(),
                resource: resource.to_owned(),
                namespace: "n".to_owned(),
                name: "one".to_owned(),
                code,
                received: format!("2026-01-01T00:00:{at:02}.000000Z"),
                answered: format!("2026-01-01T00:00:{at:02}.500000Z"),
                request: json!({ "status": status }),
                response: json!({ "metadata": { "resourceVersion": (100 + at).to_string() } }),
            });
            self
        }

        fn draw(self, user: &str, fence: i64) -> Self {
            self.add(user, "elections/status", 200, &json!({ "fence": fence }))
        }

        fn write(self, user: &str, code: u16) -> Self {
            self.add(user, "uptimechecks/status", code, &json!({ "state": "Up", "message": "" }))
        }

        fn judged(&self) -> Result<Order, String> {
            of(&self.0, &["a".to_owned(), "b".to_owned()])
        }
    }

    #[test]
    fn a_write_of_an_earlier_leader_after_a_later_one_is_found() {
        let log = Log::default().draw("a", 1).write("a", 200).draw("b", 2).write("b", 200);
        assert_eq!(log.judged(), Ok(Order { writes: 4, draws: 2, refused_late: 0 }));
        let said = log.write("a", 200).judged().unwrap_err();
        assert!(said.contains("written by a with fence 1 (version 104) after b had"), "{said}");
    }

    #[test]
    fn the_order_is_that_of_the_store_and_not_that_of_the_log() {
        let mut log = Log::default().draw("a", 1).draw("b", 2).write("b", 200).write("a", 200);
        log.0.swap(2, 3);
        assert!(log.judged().is_err());
        log.0[2].response["metadata"]["resourceVersion"] = json!("101");
        log.0[3].response["metadata"]["resourceVersion"] = json!("103");
        log.0[1].response["metadata"]["resourceVersion"] = json!("102");
        assert!(log.judged().is_ok());
    }

    #[test]
    fn a_refused_write_of_an_earlier_leader_is_counted_and_a_usual_conflict_is_not() {
        let log = Log::default().draw("a", 1).write("a", 409).draw("b", 2).write("b", 409);
        assert_eq!(log.write("a", 409).judged().unwrap().refused_late, 1);
    }

    #[test]
    fn fences_that_do_not_grow_and_writes_without_one_are_found() {
        assert!(Log::default().draw("a", 2).draw("b", 2).judged().is_err());
        assert!(Log::default().write("a", 200).judged().is_err());
    }
}
