//! Conditions of a status, as Kubernetes' API conventions define them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::crd;
pub use super::crd::schema::conditions as schema;
use crate::clock;

/// Longest message, in characters, that the schema of every condition accepts.
const MOST_MESSAGE_CHARS: usize = 32_768;

#[cfg(test)]
mod tests;

/// Status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// Status `True`: the condition holds.
    True,
    /// Status `False`: the condition does not hold.
    False,
    /// Status `Unknown`: the state is not known.
    Unknown,
}

impl Holds {
    /// The status as the API writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Holds {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// Sets the condition of one type in a list. `last_transition_time` changes only if the status changes.
/// Returns whether anything changed.
///
/// `reason` is one word in CamelCase, of letters and digits. The message is cut to the length that the API
/// accepts. `generation` is the generation of the object that the condition describes.
pub fn set(
    conditions: &mut Vec<Condition>,
    type_: &str,
    holds: Holds,
    (reason, message): (&str, &str),
    generation: Option<i64>,
) -> bool {
    let now = || Time(now());
    let new = Condition {
        type_: type_.to_owned(),
        status: holds.as_str().to_owned(),
        reason: reason.to_owned(),
        message: crd::cut_to(message.to_owned(), MOST_MESSAGE_CHARS),
        observed_generation: generation,
        last_transition_time: now(),
    };
    let Some(old) = conditions.iter_mut().find(|it| it.type_ == type_) else {
        conditions.push(new);
        return true;
    };
    let is_same_status = old.status == new.status;
    let last_transition_time = if is_same_status {
        old.last_transition_time.clone()
    } else {
        new.last_transition_time.clone()
    };
    let new = Condition { last_transition_time, ..new };
    let is_new = *old != new;
    *old = new;
    is_new
}

/// The condition of this type, if the list contains one.
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|it| it.type_ == type_)
}

/// Whether the condition of this type exists and is `True`.
pub fn holds(conditions: &[Condition], type_: &str) -> bool {
    find(conditions, type_).is_some_and(|it| it.status == Holds::True.as_str())
}

/// The wall clock in whole seconds, the resolution of times in the API.
fn now() -> k8s_openapi::jiff::Timestamp {
    let seconds = i64::try_from(clock::unix_ms() / 1000).unwrap_or(i64::MAX);
    k8s_openapi::jiff::Timestamp::from_second(seconds).unwrap_or_default()
}
