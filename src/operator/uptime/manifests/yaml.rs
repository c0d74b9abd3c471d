//! Parses a YAML document to JSON, with the line of each part.
//!
//! Plain scalars mean what they mean to the API server and kubectl, which read YAML 1.1 as Go does: `no` is
//! false, `010` is eight, `1_000` is a thousand. Errors show no part of the document, which may contain
//! secrets.
//!
//! Bounded: a document whose aliases multiply, or whose nesting is too deep, is rejected.

use std::collections::{BTreeMap, BTreeSet};

use granit_parser::{Event, Parser, ScalarStyle, Span, Tag};
use serde_json::{Number, Value};

/// Maximum number of parts of a document, with aliases resolved.
const MOST_NODES: usize = 200_000;
/// Maximum nesting depth of lists and maps.
const MOST_DEPTH: usize = 64;

/// A part of a document, with its line.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    /// Line at which the part begins, counted from one.
    pub(super) line: u64,
    pub(super) value: Part,
}

/// Value of a part of a document.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Part {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Field>),
}

/// Field of a mapping: its name, line and value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Field {
    pub(super) name: String,
    /// Line of the field's name.
    pub(super) line: u64,
    pub(super) value: Node,
}

/// Error of a malformed document, and its line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unreadable {
    pub(super) line: u64,
    pub(super) message: String,
}

impl Node {
    /// Returns the field of that name, if this is a mapping that has it.
    pub(super) fn field(&self, name: &str) -> Option<&Field> {
        match &self.value {
            Part::Map(fields) => fields.iter().find(|field| field.name == name),
            _ => None,
        }
    }

    /// Returns the text of the field of that name, if its value is a text.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match &self.field(name)?.value.value {
            Part::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the value as JSON, without lines.
    pub(super) fn to_json(&self) -> Value {
        match &self.value {
            Part::Null => Value::Null,
            Part::Bool(is) => Value::Bool(*is),
            Part::Number(number) => Value::Number(number.clone()),
            Part::Text(text) => Value::String(text.clone()),
            Part::List(items) => items.iter().map(Self::to_json).collect(),
            Part::Map(fields) => {
                fields.iter().map(|it| (it.name.clone(), it.value.to_json())).collect()
            }
        }
    }

    /// Returns the line of the field at `path`, like `spec.expect.status[1]`. If the field does not exist,
    /// returns the line of its nearest ancestor that does.
    pub(super) fn line_of(&self, path: &str) -> u64 {
        let mut at = self;
        let mut line = self.line;
        let mut rest = path;
        while !rest.is_empty() {
            if let Some((index, after)) = rest.strip_prefix('[').and_then(|it| it.split_once(']')) {
                let Part::List(items) = &at.value else { break };
                let Some(item) = index.parse().ok().and_then(|index: usize| items.get(index))
                else {
                    break;
                };
                (at, line, rest) = (item, item.line, after);
                continue;
            }
            rest = rest.trim_start_matches('.');
            let Part::Map(fields) = &at.value else { break };
            // A name may contain dots itself, so the longest name that fits is used.
            let fits = |field: &&Field| {
                rest.strip_prefix(field.name.as_str())
                    .is_some_and(|after| after.is_empty() || after.starts_with(['.', '[']))
            };
            let Some(field) = fields.iter().filter(fits).max_by_key(|it| it.name.len()) else {
                break;
            };
            (at, line, rest) = (&field.value, field.line, &rest[field.name.len()..]);
        }
        line
    }
}

/// Reads one document; `None` if it contains only comments.
pub(super) fn read(document: &str) -> Result<Option<Node>, Unreadable> {
    let mut reader = Reader {
        parser: Parser::new_from_str(document),
        line: 1,
        nodes: 0,
        anchors: BTreeMap::new(),
    };
    loop {
        match reader.next()? {
            None | Some((Event::StreamEnd, _)) => return Ok(None),
            Some((Event::DocumentStart(..), _)) => {
                let Some((event, span)) = reader.next()? else { return Ok(None) };
                // An empty scalar, which is not written in the document.
                if matches!(event, Event::Scalar(..)) && span.start.index() == span.end.index() {
                    return Ok(None);
                }
                return Ok(Some(reader.node(event, span, 0)?));
            }
            Some(_) => {}
        }
    }
}

struct Reader<'a> {
    parser: Parser<'a, granit_parser::StrInput<'a>>,
    /// Line of the last event, counted from one.
    line: u64,
    nodes: usize,
    anchors: BTreeMap<usize, Node>,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, Unreadable> {
        let event = loop {
            match self.parser.next_event() {
                Some(Ok((Event::Comment(..), _))) => {}
                event => break event,
            }
        };
        match event {
            None => Ok(None),
            Some(Ok((event, span))) => {
                self.line = span.start.line().max(1) as u64;
                Ok(Some((event, span)))
            }
            Some(Err(error)) => Err(Unreadable {
                line: error.marker().line().max(1) as u64,
                message: "is no YAML from here on: look for a wrong indentation, a missing `:` after a name, or \
                          a quote or bracket that is not closed"
                    .to_owned(),
            }),
        }
    }

    fn wrong<T>(&self, message: &str) -> Result<T, Unreadable> {
        Err(Unreadable { line: self.line, message: message.to_owned() })
    }

    fn count(&mut self, nodes: usize) -> Result<(), Unreadable> {
        self.nodes += nodes;
        if self.nodes > MOST_NODES {
            return self.wrong("has too many parts, with its aliases written out: split it");
        }
        Ok(())
    }

    /// Reads the part that begins with this event.
    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, Unreadable> {
        if depth > MOST_DEPTH {
            return self.wrong("is nested too deep: write it flatter");
        }
        self.count(1)?;
        let line = span.start.line().max(1) as u64;
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                (self.scalar(&text, style, tag.as_deref())?, anchor)
            }
            Event::SequenceStart(_, anchor, _) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        None | Some((Event::SequenceEnd, _)) => break,
                        Some((event, span)) => items.push(self.node(event, span, depth + 1)?),
                    }
                }
                (Part::List(items), anchor)
            }
            Event::MappingStart(_, anchor, _) => (Part::Map(self.fields(depth)?), anchor),
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).cloned() else {
                    return self.wrong("is an alias of something that is not there");
                };
                self.count(size(&node))?;
                return Ok(Node { line, ..node });
            }
            _ => return self.wrong("is no YAML that a manifest can have"),
        };
        let node = Node { line, value };
        if anchor != 0 {
            self.count(size(&node))?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn fields(&mut self, depth: usize) -> Result<Vec<Field>, Unreadable> {
        let mut fields: Vec<Field> = Vec::new();
        let mut names = BTreeSet::new();
        let mut merged = Vec::new();
        loop {
            let (name, line, is_merge) = match self.next()? {
                None | Some((Event::MappingEnd, _)) => break,
                Some((event, span)) => {
                    let is_merge = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, _, None) if text == "<<");
                    let key = self.node(event, span, depth + 1)?;
                    let Some(name) = name_of(&key.value) else {
                        return self.wrong("has a name that is no text: put it in quotes");
                    };
                    (name, key.line, is_merge)
                }
            };
            let Some((event, span)) = self.next()? else { break };
            let value = self.node(event, span, depth + 1)?;
            if is_merge {
                merged.push(value);
                continue;
            }
            if !names.insert(name.clone()) {
                return Err(Unreadable {
                    line,
                    message: "is written twice in one mapping: remove one of them".to_owned(),
                });
            }
            fields.push(Field { name, line, value });
        }
        for value in merged {
            let sources = match value.value {
                Part::List(items) => items,
                _ => vec![value],
            };
            for source in sources {
                let Part::Map(more) = source.value else {
                    return self.wrong("merges (`<<`) something that is no mapping");
                };
                let new = more.into_iter().filter(|field| names.insert(field.name.clone()));
                fields.extend(new);
            }
        }
        Ok(fields)
    }

    fn scalar(
        &self,
        text: &str,
        style: ScalarStyle,
        tag: Option<&Tag>,
    ) -> Result<Part, Unreadable> {
        let is_text = match tag {
            None => style != ScalarStyle::Plain,
            Some(tag) => match tag.core_suffix() {
                Some("str") => true,
                Some(_) => false,
                None if ["", "!"].contains(&tag.suffix()) => true,
                None => return self.wrong("has a tag that is not known: leave it out"),
            },
        };
        if is_text {
            return Ok(Part::Text(text.to_owned()));
        }
        match plain(text) {
            Some(part) => Ok(part),
            None => self.wrong("is a number that JSON cannot hold"),
        }
    }
}

fn size(node: &Node) -> usize {
    1 + match &node.value {
        Part::List(items) => items.iter().map(size).sum(),
        Part::Map(fields) => fields.iter().map(|field| 1 + size(&field.value)).sum(),
        _ => 0,
    }
}

/// Returns the name of a field: numbers and booleans are taken as text, as kubectl does.
fn name_of(part: &Part) -> Option<String> {
    match part {
        Part::Text(text) => Some(text.clone()),
        Part::Bool(is) => Some(is.to_string()),
        Part::Number(number) => Some(number.to_string()),
        Part::Null | Part::List(_) | Part::Map(_) => None,
    }
}

/// Returns the value of a plain scalar in Go's YAML; `None` if JSON has no such value.
fn plain(text: &str) -> Option<Part> {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Some(Part::Bool(true));
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Some(Part::Bool(false));
        }
        "" | "~" | "null" | "Null" | "NULL" => return Some(Part::Null),
        ".nan" | ".NaN" | ".NAN" | ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF"
        | "-.inf" | "-.Inf" | "-.INF" => return None,
        _ => {}
    }
    let is_number = text.starts_with(|it: char| it.is_ascii_digit() || "+-.".contains(it));
    let number = if is_number { number(text) } else { None };
    Some(number.unwrap_or_else(|| Part::Text(text.to_owned())))
}

fn number(text: &str) -> Option<Part> {
    // Numbers that begin with a dot must not contain `_`.
    let digits = if text.starts_with('.') { text.to_owned() } else { text.replace('_', "") };
    if let Some(number) = whole(&digits) {
        return Some(Part::Number(number));
    }
    is_float(&digits)
        .then(|| digits.trim_start_matches('+').parse::<f64>().ok())
        .flatten()
        .and_then(|float| {
            // Whole numbers are written without a decimal point.
            let is_whole = float.fract() == 0.0 && float.abs() < 1e15;
            if is_whole {
                return Some(Part::Number((float as i64).into()));
            }
            Number::from_f64(float).map(Part::Number)
        })
}

/// Parses a whole number as Go's `ParseInt` does with base 0.
fn whole(digits: &str) -> Option<Number> {
    let (is_negative, bare) = match digits.strip_prefix('-') {
        Some(bare) => (true, bare),
        None => (false, digits.strip_prefix('+').unwrap_or(digits)),
    };
    let lower = bare.to_ascii_lowercase();
    let (base, bare) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    if !bare.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    let number = u64::from_str_radix(bare, base).ok()?;
    if !is_negative {
        return Some(number.into());
    }
    i64::try_from(-i128::from(number)).ok().map(Number::from)
}

/// Whether the text matches `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`.
fn is_float(text: &str) -> bool {
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let is_mantissa = match mantissa.split_once('.') {
        Some(("", after)) => !after.is_empty() && are_digits(after),
        Some((before, after)) => are_digits(before) && are_digits(after),
        None => !mantissa.is_empty() && are_digits(mantissa),
    };
    let is_exponent = |text: &str| {
        let text = text.strip_prefix(['-', '+']).unwrap_or(text);
        !text.is_empty() && are_digits(text)
    };
    is_mantissa && exponent.is_none_or(is_exponent)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn json_of(text: &str) -> Value {
        read(text).unwrap().unwrap().to_json()
    }

    #[test]
    fn plain_scalars_mean_what_they_mean_to_kubectl() {
        let cases = [
            ("no", json!(false)),
            ("Y", json!(true)),
            ("off", json!(false)),
            ("nO", json!("nO")),
            ("~", json!(null)),
            ("043240", json!(18080)),
            ("09", json!(9)),
            ("0o17", json!(15)),
            ("0x1F", json!(31)),
            ("-0b11", json!(-3)),
            ("1_000", json!(1000)),
            ("+5", json!(5)),
            ("80.0", json!(80)),
            ("1e2", json!(100)),
            ("1.10", json!(1.1)),
            ("1.2.3", json!("1.2.3")),
            ("10.0.0.1", json!("10.0.0.1")),
            ("1:30", json!("1:30")),
            ("2026-01-01", json!("2026-01-01")),
            ("30s", json!("30s")),
            ("-", json!([null])),
            ("::1", json!("::1")),
            ("'80'", json!("80")),
            ("\"no\"", json!("no")),
            ("!!str 80", json!("80")),
            ("! 80", json!("80")),
            ("|-\n  80", json!("80")),
            ("{no: 1, 2: b, true: c}", json!({"false": 1, "2": "b", "true": "c"})),
            (
                "{a: &a {b: 1, c: 2}, d: {<<: *a, c: 3}}",
                json!({"a": {"b": 1, "c": 2}, "d": {"c": 3, "b": 1}}),
            ),
        ];
        for (text, value) in cases {
            assert_eq!(json_of(text), value, "{text}");
        }
        assert_eq!(read("# nothing\n"), Ok(None));
        assert_eq!(read("---\n# nothing\n"), Ok(None));
    }

    #[test]
    fn what_cannot_be_read_is_named_by_its_line_and_nothing_of_it_is_shown() {
        let cases = [
            ("a: 1\nb: [secret", 2),
            ("a: secret\n b: c\n", 2),
            ("a: 1\nsecret: 2\nsecret: 3\n", 3),
            ("a: .inf", 1),
            ("a: *secret", 1),
            ("a: !secret b", 1),
            ("\"secret", 1),
            ("? [secret]\n: b\n", 1),
        ];
        for (text, line) in cases {
            let error = read(text).unwrap_err();
            assert!(error.line >= line && !error.message.contains("secret"), "{text}: {error:?}");
        }
    }

    #[test]
    fn a_field_is_found_by_its_line() {
        let text = "a:\n  b.c:\n    - 1\n    -\n      d: 2\n";
        let node = read(text).unwrap().unwrap();
        for (path, line) in [
            ("a", 1),
            ("a.b.c", 2),
            ("a.b.c[0]", 3),
            ("a.b.c[1].d", 5),
            ("a.x.y", 1),
            ("a.b.c[7]", 2),
        ] {
            assert_eq!(node.line_of(path), line, "{path}");
        }
    }

    #[test]
    fn what_is_nested_too_deep_is_refused() {
        let text = format!("{}{}", "[".repeat(100), "]".repeat(100));
        assert!(read(&text).is_err());
    }
}
