//! Values as people write them in manifests: spans and times.
//!
//! Each value is parsed from text and written as text that parses to the same value, so that a manifest
//! survives a round trip through the API server.

use std::{borrow::Cow, fmt, marker::PhantomData, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Unexpected, Visitor},
};

use super::schema;

#[cfg(test)]
mod tests;

/// A span of time, written `500ms`, `30s` or `1m30s`, as in the Gateway API (GEP-2257). CEL and Go parse it
/// to the same value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// Pattern of exactly the texts that [`Span::from_str`] parses.
pub(crate) const SPAN: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";
/// Length of four numbers of five digits with their units.
const LONGEST_SPAN: usize = 4 * 7;
/// Units with their milliseconds, the longest first.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// The rule for a span of time. A schema's `pattern` could not explain the correct form.
pub(crate) fn of_span() -> serde_json::Value {
    schema::rule(
        &format!("self.matches(r'{SPAN}')"),
        "is no span of time: write it like `30s` or `1m30s`, in `h`, `m`, `s` and `ms`",
    )
}

impl Span {
    /// A span of `secs` seconds.
    pub const fn secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    /// A span of `millis` milliseconds.
    pub const fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }
}

/// Formats hours, minutes, seconds and milliseconds, rounded up, so that a span above zero is never `0s`.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_nanos().div_ceil(1_000_000);
        if rest == 0 {
            return f.pad("0s");
        }
        let mut text = String::new();
        for (unit, millis) in UNITS {
            let count = rest / u128::from(millis);
            rest %= u128::from(millis);
            if count > 0 {
                text.push_str(&count.to_string());
                text.push_str(unit);
            }
        }
        f.pad(&text)
    }
}

/// Error of a text that is not a span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a span of time: write up to four numbers, each with its unit `h`, `m`, `s` or `ms`, like `1m30s`"
)]
#[doc(hidden)]
pub struct NotASpan;

impl FromStr for Span {
    type Err = NotASpan;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut rest = text;
        let mut span = Duration::ZERO;
        for _ in 0..4 {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, after) = rest.split_at(digits);
            let letters = after.bytes().take_while(u8::is_ascii_lowercase).count();
            let (unit, after) = after.split_at(letters);
            let (_, millis) = UNITS.into_iter().find(|(name, _)| *name == unit).ok_or(NotASpan)?;
            if !(1..=5).contains(&digits) {
                return Err(NotASpan);
            }
            let number: u64 = number.parse().map_err(|_| NotASpan)?;
            span += Duration::from_millis(number * millis);
            if after.is_empty() {
                return Ok(Self(span));
            }
            rest = after;
        }
        Err(NotASpan)
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": LONGEST_SPAN,
            "x-kubernetes-validations": [of_span()],
            "example": "1m30s",
        })
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_any(FromText::new("a span of time with its unit, like `30s` or `500ms`"))
    }
}

/// A point in time, in milliseconds of Unix time; written in RFC 3339, `2026-03-01T12:00:00.000Z`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnixMs(pub u64);

/// The last millisecond of the year 9999, the last year of RFC 3339.
const LAST_UNIX_MS: u64 = 253_402_300_799_999;

impl fmt::Display for UnixMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = Duration::from_millis(self.0.min(LAST_UNIX_MS));
        fmt::Display::fmt(&humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + since), f)
    }
}

impl FromStr for UnixMs {
    type Err = humantime::TimestampError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let time = humantime::parse_rfc3339(text)?;
        let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Ok(Self(u64::try_from(since.as_millis()).unwrap_or(LAST_UNIX_MS)))
    }
}

impl Serialize for UnixMs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for UnixMs {
    fn schema_name() -> Cow<'static, str> {
        "UnixMs".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // Narrower than the format: exactly the texts that the type parses.
        json_schema!({
            "type": "string",
            "format": "date-time",
            "pattern": r"^(19[789]|[2-9][0-9]{2})[0-9]-[0-9]{2}-[0-9]{2}T[0-9:]{8}(\.[0-9]{1,9})?Z$",
            "maxLength": 30,
        })
    }
}

impl<'de> Deserialize<'de> for UnixMs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FromText::new("a time like `2026-03-01T12:00:00Z`"))
    }
}

/// Parses a value from text, or from a whole number that is treated as text. `expected` is the description in
/// its errors.
pub(crate) struct FromText<T> {
    expected: &'static str,
    value: PhantomData<T>,
}

impl<T> FromText<T> {
    pub(crate) const fn new(expected: &'static str) -> Self {
        Self { expected, value: PhantomData }
    }
}

impl<T: FromStr> Visitor<'_> for FromText<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        number
            .to_string()
            .parse()
            .map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
    }
}
