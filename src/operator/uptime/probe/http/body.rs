//! Text of a body: decoded, in its character set, and read only as far as needed.

use std::{sync::Arc, time::Duration};

use encoding_rs::{Encoding, UTF_8};
use http::{HeaderMap, Response, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Failure, coding};

/// Maximum number of decoded bytes of a body that are examined.
const MOST_BODY_BYTES: usize = 1 << 20;
/// Maximum number of bytes of the bodies that are kept as a whole, over all runs of a process.
const MOST_KEPT_BYTES: usize = 64 << 20;
/// A document that names its own character set does so within this (HTML, 4.2.5.4).
const NAMED_WITHIN: usize = 1024;

/// Memory that the bodies of all runs share. A body takes its part as the text grows.
#[derive(Clone, Debug)]
pub(in super::super) struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self::of(MOST_KEPT_BYTES)
    }
}

impl Room {
    pub(in super::super) fn of(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes)))
    }

    /// Takes this many more bytes, or fails at once: a run that waited here would hold memory that other runs wait for.
    fn take(&self, taken: &mut Option<OwnedSemaphorePermit>, bytes: usize) -> Result<(), Failure> {
        let full = |_| {
            Failure::own(
                "the bodies of the checks that run now fill this node's memory for them: expect \
                 `bodyContains`, which keeps no body, check smaller pages, or run more nodes",
            )
        };
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let more = Arc::clone(&self.0).try_acquire_many_owned(bytes).map_err(full)?;
        match taken {
            Some(taken) => taken.merge(more),
            None => *taken = Some(more),
        }
        Ok(())
    }
}

/// Text of a body, as far as it was read. Only the end is kept if `bodyContains` is all that is expected.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) text: String,
    pub(super) ended: Ended,
    /// Part of the shared memory, returned when the text is dropped.
    pub(super) room: Option<OwnedSemaphorePermit>,
}

/// Reason why the reading of a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The body has ended.
    Whole,
    /// The text contains the expected text.
    Enough,
    /// The body is longer than the examined part.
    Cut,
    /// The body did not end in time.
    Late,
}

/// Reads a body until it ends, contains `enough`, or `within` is over.
///
/// # Errors
///
/// The body broke off, cannot be decoded, or does not fit into the shared memory.
pub(super) async fn read(
    response: Response<Incoming>,
    enough: Option<&str>,
    within: Duration,
    room: &Room,
) -> Result<Read, Failure> {
    let mut taken = None;
    let (head, mut body) = response.into_parts();
    let mut decoder = coding::Decoder::of(&head.headers, MOST_BODY_BYTES)?;
    let mut text = Text::of(&head.headers);
    let reading = async {
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|error| Failure::of_connection("the body broke off", &error))?;
            let Ok(bytes) = frame.into_data() else { continue };
            let has_room = decoder.push(&bytes)?;
            let before = text.kept_bytes();
            if text.push(&decoder.take(), enough) {
                return Ok(Ended::Enough);
            }
            if enough.is_none() {
                room.take(&mut taken, text.kept_bytes().saturating_sub(before))?;
            }
            if !has_room {
                return Ok(Ended::Cut);
            }
        }
        Ok(Ended::Whole)
    };
    let ended = tokio::time::timeout(within, reading).await;
    let ended = ended.unwrap_or(Ok(Ended::Late))?;
    Ok(Read { text: text.finish(), ended, room: taken })
}

/// Incremental decoder of text. The character set is that of a byte order mark, else of the Content-Type,
/// else of the document itself, else UTF-8. Malformed bytes are replaced, so that the rest can be searched.
struct Text {
    named: Option<&'static Encoding>,
    is_markup: bool,
    /// First bytes, until their character set is known.
    first: Vec<u8>,
    decoder: Option<encoding_rs::Decoder>,
    /// All of it, or its end.
    whole: String,
}

impl Text {
    fn of(headers: &HeaderMap) -> Self {
        let type_ = headers.get(header::CONTENT_TYPE).map(|it| it.as_bytes().to_ascii_lowercase());
        let type_ = String::from_utf8(type_.unwrap_or_default()).unwrap_or_default();
        let named = type_.split(';').skip(1).find_map(|it| it.trim().strip_prefix("charset="));
        let named =
            named.and_then(|it| Encoding::for_label(it.trim_matches(['"', '\'']).as_bytes()));
        let is_markup = type_.contains("html") || type_.contains("xml");
        Self { named, is_markup, first: Vec::new(), decoder: None, whole: String::new() }
    }

    /// Adds these bytes; returns whether the text contains `enough` now.
    fn push(&mut self, bytes: &[u8], enough: Option<&str>) -> bool {
        let from = if let Some(decoder) = &mut self.decoder {
            let before = self.whole.len();
            append(decoder, &mut self.whole, bytes);
            before
        } else {
            self.first.extend_from_slice(bytes);
            let mut decoder = self.encoding().new_decoder();
            self.whole.clear();
            append(&mut decoder, &mut self.whole, &self.first);
            if self.named.is_some() || !self.is_markup || self.first.len() >= NAMED_WITHIN {
                self.decoder = Some(decoder);
                self.first = Vec::new();
            }
            0
        };
        let Some(enough) = enough else { return false };
        let found = self.whole[self.before(from, enough)..].contains(enough);
        if !found && self.decoder.is_some() {
            // The expected text can still begin in the rest.
            self.whole.drain(..self.before(self.whole.len(), enough));
        }
        found
    }

    /// Where a text that ends behind `at` can begin.
    fn before(&self, at: usize, text: &str) -> usize {
        let from = at.saturating_sub(text.len());
        (0..=from).rev().find(|at| self.whole.is_char_boundary(*at)).unwrap_or(0)
    }

    fn kept_bytes(&self) -> usize {
        self.whole.len() + self.first.len()
    }

    fn finish(self) -> String {
        self.whole
    }

    fn encoding(&self) -> &'static Encoding {
        let own = || self.is_markup.then(|| named_within(&self.first)).flatten();
        self.named.or_else(own).unwrap_or(UTF_8)
    }
}

/// Decodes these bytes too. The decoder keeps an incomplete character at their end.
fn append(decoder: &mut encoding_rs::Decoder, text: &mut String, bytes: &[u8]) {
    text.reserve(decoder.max_utf8_buffer_length(bytes.len()).unwrap_or(bytes.len() * 3));
    let (_, read, _) = decoder.decode_to_string(bytes, text, false);
    debug_assert_eq!(read, bytes.len(), "there is room for all of it");
}

/// Returns the character set that an HTML or XML document names at its beginning.
fn named_within(document: &[u8]) -> Option<&'static Encoding> {
    let begin = &document[..document.len().min(NAMED_WITHIN)];
    let begin = String::from_utf8_lossy(begin).to_ascii_lowercase();
    ["charset=", "encoding="].into_iter().find_map(|name| {
        let (_, value) = begin.split_once(name)?;
        let value = value.trim_start_matches(['"', '\'', ' ']);
        let end = value.find(['"', '\'', ' ', ';', '>', '?', '/'])?;
        let encoding = Encoding::for_label(&value.as_bytes()[..end])?;
        // The declaration was read as ASCII, so an encoding that is not ASCII-compatible is wrong (HTML,
        // 13.2.3.2).
        Some(if encoding.is_ascii_compatible() { encoding } else { UTF_8 })
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn text_of(type_: &'static str, chunks: &[&[u8]]) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(type_));
        let mut text = Text::of(&headers);
        for chunk in chunks {
            text.push(chunk, None);
        }
        text.finish()
    }

    #[test]
    fn the_character_set_is_that_of_the_mark_the_header_or_the_document() {
        let latin = "Sch\u{f6}ne Gr\u{fc}\u{df}e".chars().map(|it| it as u8).collect::<Vec<_>>();
        let greeting = "Schöne Grüße";
        assert_eq!(text_of("text/html; charset=iso-8859-1", &[&latin]), greeting);
        assert_eq!(text_of("text/html; Charset=\"ISO-8859-1\"", &[&latin]), greeting);
        assert_eq!(text_of("text/plain", &[greeting.as_bytes()]), greeting);
        assert_eq!(text_of("text/plain; charset=nonsense", &[greeting.as_bytes()]), greeting);
        let (kanji, _, _) = encoding_rs::SHIFT_JIS.encode("正常");
        assert_eq!(text_of("text/plain;charset=Shift_JIS", &[&kanji[..1], &kanji[1..]]), "正常");
        let page = [b"<meta charset=\"shift_jis\">", kanji.as_ref()].concat();
        assert_eq!(text_of("text/html", &[&page]), "<meta charset=\"shift_jis\">正常");
        let page = [b"<?xml version='1.0' encoding='ISO-8859-1'?>", latin.as_slice()].concat();
        assert!(text_of("application/xml", &[&page[..9], &page[9..]]).ends_with(greeting));
        let utf16: Vec<u8> = "ok".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(text_of("text/plain; charset=utf-16le", &[&utf16]), "ok");
        assert_eq!(text_of("text/plain", &[&[&[0xff, 0xfe], utf16.as_slice()].concat()]), "ok");
        assert_eq!(text_of("text/plain", &["\u{feff}ok".as_bytes()]), "ok");
        assert_eq!(text_of("text/plain", &[b"\xff needle \xff"]), "\u{fffd} needle \u{fffd}");
    }

    #[test]
    fn of_a_body_in_which_one_text_is_looked_for_only_the_end_is_kept() {
        let mut text = Text::of(&HeaderMap::new());
        for _ in 0..100 {
            assert!(!text.push(&[b'x'; 10_000], Some("needle")));
            assert!(text.kept_bytes() <= "needle".len(), "{}", text.kept_bytes());
        }
        assert!(!text.push(b"nee", Some("needle")));
        assert!(text.push(b"dle", Some("needle")));
    }

    #[test]
    fn a_text_is_found_where_two_chunks_meet_and_characters_are_halved() {
        let mut text = Text::of(&HeaderMap::new());
        let bytes = "alles grün".as_bytes();
        let found = bytes.iter().map(|byte| text.push(&[*byte], Some("grün"))).collect::<Vec<_>>();
        assert_eq!(found.iter().filter(|it| **it).count(), 1);
        assert_eq!(found.last(), Some(&true));
        assert!(text.finish().ends_with("grün"));
    }
}
