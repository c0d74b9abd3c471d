//! Values as people write them in manifests: spans, times, ranges of status codes.
//!
//! Each is read from text and written back as text that reads the same, so that a manifest survives a
//! round trip through the API server.

use std::{fmt, marker::PhantomData, str::FromStr, time::Duration};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Unexpected, Visitor},
};

#[cfg(test)]
mod tests;

/// A span of time, written `500ms`, `30s` or `1m30s`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Span {
    /// So many seconds.
    pub const fn secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    /// So many milliseconds.
    pub const fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = humantime::format_duration(self.0).to_string();
        f.pad(&text.replace(' ', ""))
    }
}

impl FromStr for Span {
    type Err = humantime::DurationError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        humantime::parse_duration(text).map(Self)
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

/// A point in time, in milliseconds of Unix time; written as in RFC 3339, `2026-03-01T12:00:00.000Z`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnixMs(pub u64);

/// The last millisecond of the year 9999: RFC 3339 has no words for what comes after.
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

impl<'de> Deserialize<'de> for UnixMs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FromText::new("a time like `2026-03-01T12:00:00Z`"))
    }
}

/// One status code or a range of them, both ends included: `200`, `200-299` or `2xx`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StatusRange {
    /// The first code in it.
    pub from: u16,
    /// The last code in it.
    pub to: u16,
}

impl StatusRange {
    /// Whether the code is in it.
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

/// Text that is no range of status codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a status code from 100 to 599, nor a range like `200-299` or `2xx`")]
pub struct NotAStatusRange;

impl FromStr for StatusRange {
    type Err = NotAStatusRange;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if let Some(class) = text.strip_suffix("xx") {
            let first = class.parse().unwrap_or(u16::MAX).saturating_mul(100);
            return Self::checked(first, first.saturating_add(99));
        }
        let code = |text: &str| text.trim().parse::<u16>().map_err(|_| NotAStatusRange);
        match text.split_once('-') {
            Some((from, to)) => Self::checked(code(from)?, code(to)?),
            None => Self::checked(code(text)?, code(text)?),
        }
    }
}

impl StatusRange {
    fn checked(from: u16, to: u16) -> Result<Self, NotAStatusRange> {
        if (100..=599).contains(&from) && (from..=599).contains(&to) {
            Ok(Self { from, to })
        } else {
            Err(NotAStatusRange)
        }
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

/// Reads a value from text, or from a whole number that is taken as text. Says what was expected in the
/// words given.
struct FromText<T> {
    expected: &'static str,
    value: PhantomData<T>,
}

impl<T> FromText<T> {
    const fn new(expected: &'static str) -> Self {
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
