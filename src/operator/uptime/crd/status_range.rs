//! Ranges of HTTP status codes, in the notation of manifests.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::k8s::crd::value::FromText;

/// Status code or a range of them, both ends included: `200`, `200-299` or `2xx`.
///
/// A range whose ends are in the wrong order can be parsed, and contains no code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StatusRange {
    /// First code of the range.
    pub from: u16,
    /// Last code of the range.
    pub to: u16,
}

impl StatusRange {
    /// Whether the range contains the code.
    pub const fn contains(self, code: u16) -> bool {
        self.from <= code && code <= self.to
    }
}

impl fmt::Display for StatusRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.from == self.to {
            write!(f, "{}", self.from)
        } else {
            write!(f, "{}-{}", self.from, self.to)
        }
    }
}

/// Error for text that is not a range of status codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a status code from 100 to 599, nor a range like `200-299` or `2xx`")]
pub struct NotAStatusRange;

/// Pattern of exactly the texts that [`StatusRange::from_str`] accepts.
const STATUS_RANGE: &str = "^([1-5]xx|[1-5][0-9]{2}(-[1-5][0-9]{2})?)$";

impl FromStr for StatusRange {
    type Err = NotAStatusRange;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let code = |text: &str| match text.as_bytes() {
            [b'1'..=b'5', b'0'..=b'9', b'0'..=b'9'] => text.parse().map_err(|_| NotAStatusRange),
            _ => Err(NotAStatusRange),
        };
        if let [class @ b'1'..=b'5', b'x', b'x'] = text.as_bytes() {
            let from = u16::from(class - b'0') * 100;
            return Ok(Self { from, to: from + 99 });
        }
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        Ok(Self { from: code(from)?, to: code(to)? })
    }
}

impl JsonSchema for StatusRange {
    fn schema_name() -> Cow<'static, str> {
        "StatusRange".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // The pattern applies to texts, the bounds apply to numbers.
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "pattern": STATUS_RANGE,
            "maxLength": 7,
            "minimum": 100,
            "maximum": 599,
            "example": "200-299",
        })
    }
}

impl Serialize for StatusRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.from == self.to {
            serializer.serialize_u16(self.from)
        } else {
            serializer.collect_str(self)
        }
    }
}

impl<'de> Deserialize<'de> for StatusRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FromText::new(
            "a status code like 200, or a range like `200-299` or `2xx`",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: serde::de::DeserializeOwned>(json: &str) -> Result<T, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn a_range_is_read_exactly_where_the_schema_takes_it() {
        let schema = regex::Regex::new(STATUS_RANGE).unwrap();
        for text in [
            "",
            "200",
            "099",
            "600",
            "+20",
            "2xx",
            "0xx",
            "6xx",
            "2XX",
            "02xx",
            "200-299",
            "299-200",
            "200-",
            "-200",
            "200 - 299",
            "200-600",
            "200-299-300",
            "20",
            "2000",
            "ok",
            "2x",
        ] {
            assert_eq!(text.parse::<StatusRange>().is_ok(), schema.is_match(text), "{text:?}");
        }
    }

    #[test]
    fn status_codes_are_read_as_numbers_ranges_and_classes() {
        let range = |from, to| Ok(StatusRange { from, to });
        assert_eq!(read("200"), range(200, 200));
        assert_eq!(read("\"404\""), range(404, 404));
        assert_eq!(read("\"200-299\""), range(200, 299));
        assert_eq!(read("\"5xx\""), range(500, 599));
        for bad in ["99", "600", "\"9xx\"", "\"65535xx\"", "\"ok\"", "\"\"", "-1"] {
            assert!(read::<StatusRange>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_range_of_status_codes_is_written_as_it_is_read() {
        for json in ["200", "\"200-299\""] {
            let range: StatusRange = read(json).unwrap();
            assert_eq!(serde_json::to_string(&range).unwrap(), json);
        }
    }
}
