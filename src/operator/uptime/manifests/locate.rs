//! Where in a document a field stands.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// The line of the field at `path`, like `spec.expect.status[1]`, counted from one. If it is not there,
/// that of the nearest field above it that is.
pub(super) fn line_of(document: &str, path: &str) -> Option<u64> {
    let segments = segments(path);
    (1..=segments.len()).rev().find_map(|length| {
        let options = serde_saphyr::options! { with_snippet: false };
        let seek = Seek(&segments[..length]);
        serde_saphyr::with_deserializer_from_str_with_options(document, options, |de| {
            seek.deserialize(de)
        })
        .ok()
        .flatten()
    })
}

fn segments(path: &str) -> Vec<Segment<'_>> {
    let parts = path.split(['.', '[']).filter(|part| !part.is_empty());
    parts
        .map(|part| match part.strip_suffix(']').and_then(|index| index.parse().ok()) {
            Some(index) => Segment::Index(index),
            None => Segment::Field(part),
        })
        .collect()
}

#[derive(Clone, Copy)]
enum Segment<'a> {
    Field(&'a str),
    Index(usize),
}

/// Finds the line at which the value at this path, or the key that names it, begins.
#[derive(Clone, Copy)]
struct Seek<'a>(&'a [Segment<'a>]);

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = Option<u64>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seek<'_> {
    type Value = Option<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping or a list")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Some((Segment::Field(name), rest)) = self.0.split_first() else { return skip_map(map) };
        let mut found = None;
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            if key.value != *name {
                map.next_value::<IgnoredAny>()?;
            } else if rest.is_empty() {
                map.next_value::<IgnoredAny>()?;
                found = Some(key.referenced.line());
            } else {
                found = map.next_value_seed(Seek(rest))?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let Some((Segment::Index(index), rest)) = self.0.split_first() else {
            return skip_seq(seq);
        };
        for _ in 0..*index {
            if seq.next_element::<IgnoredAny>()?.is_none() {
                return Ok(None);
            }
        }
        let found = if rest.is_empty() {
            seq.next_element::<Spanned<IgnoredAny>>()?.map(|element| element.referenced.line())
        } else {
            seq.next_element_seed(Seek(rest))?.flatten()
        };
        skip_seq(seq)?;
        Ok(found)
    }
}

fn skip_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<Option<u64>, A::Error> {
    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(None)
}

fn skip_seq<'de, A: SeqAccess<'de>>(mut seq: A) -> Result<Option<u64>, A::Error> {
    while seq.next_element::<IgnoredAny>()?.is_some() {}
    Ok(None)
}
