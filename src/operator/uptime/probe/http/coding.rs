//! Content codings: decompresses the body of an answer.
//!
//! Bounded: however large a few bytes decompress to, only the requested number of bytes is kept, and the rest
//! is not decompressed.

use std::io::{self, Write};

use brotli_decompressor::DecompressorWriter;
use flate2::write::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::{HeaderMap, header};

use super::Failure;

/// Size of the output buffer of a brotli stream, in bytes.
const BROTLI_BUFFER: usize = 4096;

/// A buffer for a limited number of bytes, which rejects more.
#[derive(Debug)]
pub(super) struct Bounded {
    bytes: Vec<u8>,
    room: usize,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.room);
        self.bytes.extend_from_slice(&bytes[..taken]);
        self.room -= taken;
        if taken == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Decoder of a content coding (RFC 9110, 8.4.1), with the decoded bytes that were not taken yet.
pub(super) enum Decoder {
    Identity(Bounded),
    Gzip(Box<MultiGzDecoder<Bounded>>),
    /// `deflate`, until its first two bytes show whether it has a zlib header: servers differ.
    Deflate {
        first: Vec<u8>,
        into: Bounded,
    },
    Zlib(Box<ZlibDecoder<Bounded>>),
    Raw(Box<DeflateDecoder<Bounded>>),
    Brotli(Box<DecompressorWriter<Bounded>>),
}

impl Decoder {
    /// Returns the decoder that the answer needs, for at most `room` decoded bytes.
    pub(super) fn of(headers: &HeaderMap, room: usize) -> Result<Self, Failure> {
        let into = Bounded { bytes: Vec::new(), room };
        let mut codings = headers
            .get_all(header::CONTENT_ENCODING)
            .iter()
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
            .map(|coding| coding.trim_ascii().to_ascii_lowercase())
            .filter(|coding| !coding.is_empty() && coding != b"identity");
        let (coding, another) = (codings.next(), codings.next());
        let unknown = || {
            Failure::new(
                "the body has a content coding that cannot be decoded: let the server answer with gzip, \
                 deflate, br or none",
            )
        };
        if another.is_some() {
            return Err(unknown());
        }
        Ok(match coding.as_deref() {
            None => Self::Identity(into),
            Some(b"gzip" | b"x-gzip") => Self::Gzip(Box::new(MultiGzDecoder::new(into))),
            Some(b"deflate") => Self::Deflate { first: Vec::new(), into },
            Some(b"br") => Self::Brotli(Box::new(DecompressorWriter::new(into, BROTLI_BUFFER))),
            Some(_) => return Err(unknown()),
        })
    }

    /// Decodes these bytes as well. Returns whether there is room for more.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<bool, Failure> {
        if let Self::Deflate { first, into } = self {
            first.extend_from_slice(bytes);
            let [one, two, ..] = first[..] else { return Ok(true) };
            let first = std::mem::take(first);
            let into = Bounded { bytes: Vec::new(), room: into.room };
            // RFC 1950, 2.2: the method is 8, and the first two bytes are a multiple of 31.
            let is_zlib = one & 0x0f == 8 && u16::from_be_bytes([one, two]) % 31 == 0;
            *self = if is_zlib {
                Self::Zlib(Box::new(ZlibDecoder::new(into)))
            } else {
                Self::Raw(Box::new(DeflateDecoder::new(into)))
            };
            return self.push(&first);
        }
        // Each write is flushed, because the decoded bytes are needed now: the rest of the body may arrive
        // late.
        let written = match self {
            Self::Identity(into) => into.write_all(bytes),
            Self::Gzip(decoder) => decoder.write_all(bytes).and_then(|()| decoder.flush()),
            Self::Zlib(decoder) => decoder.write_all(bytes).and_then(|()| decoder.flush()),
            Self::Raw(decoder) => decoder.write_all(bytes).and_then(|()| decoder.flush()),
            Self::Brotli(decoder) => decoder.write_all(bytes).and_then(|()| decoder.flush()),
            Self::Deflate { .. } => Ok(()),
        };
        let is_full = self.into().room == 0;
        match written {
            _ if is_full => Ok(false),
            Ok(()) => Ok(true),
            Err(_) => Err(Failure::new("the body is not coded as its Content-Encoding says")),
        }
    }

    /// Returns the bytes decoded since the last call.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.into().bytes)
    }

    fn into(&mut self) -> &mut Bounded {
        match self {
            Self::Identity(into) | Self::Deflate { into, .. } => into,
            Self::Gzip(decoder) => decoder.get_mut(),
            Self::Zlib(decoder) => decoder.get_mut(),
            Self::Raw(decoder) => decoder.get_mut(),
            Self::Brotli(decoder) => decoder.get_mut(),
        }
    }
}

#[cfg(test)]
mod tests {
    use flate2::{
        Compression,
        write::{DeflateEncoder, GzEncoder, ZlibEncoder},
    };
    use http::HeaderValue;

    use super::*;

    const TEXT: &[u8] = b"all is well";
    /// `all is well`, by the reference encoder of brotli.
    const BROTLI: &[u8] = b"\x0b\x05\x80all is well\x03";

    fn decoder(coding: &'static str, room: usize) -> Decoder {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding));
        Decoder::of(&headers, room).unwrap()
    }

    fn packed<W: Write>(mut encoder: W, text: &[u8]) -> W {
        encoder.write_all(text).unwrap();
        encoder
    }

    #[test]
    fn each_coding_is_decoded_byte_by_byte() {
        let level = Compression::default();
        let codings: [(&str, Vec<u8>); 6] = [
            ("identity", TEXT.to_vec()),
            ("gzip", packed(GzEncoder::new(Vec::new(), level), TEXT).finish().unwrap()),
            ("X-Gzip", packed(GzEncoder::new(Vec::new(), level), TEXT).finish().unwrap()),
            ("deflate", packed(ZlibEncoder::new(Vec::new(), level), TEXT).finish().unwrap()),
            ("deflate", packed(DeflateEncoder::new(Vec::new(), level), TEXT).finish().unwrap()),
            ("br", BROTLI.to_vec()),
        ];
        for (coding, bytes) in codings {
            let mut decoder = decoder(coding, 100);
            let mut text = Vec::new();
            for byte in bytes {
                assert!(decoder.push(&[byte]).unwrap(), "{coding}");
                text.extend(decoder.take());
            }
            assert_eq!(text, TEXT, "{coding}");
        }
    }

    #[test]
    fn what_unpacks_to_more_than_there_is_room_for_is_cut() {
        let zeros = vec![0; 10 << 20];
        let bytes = packed(GzEncoder::new(Vec::new(), Compression::best()), &zeros);
        let mut decoder = decoder("gzip", 1000);
        assert!(!decoder.push(&bytes.finish().unwrap()).unwrap());
        assert_eq!(decoder.take().len(), 1000);
    }

    #[test]
    fn what_is_not_coded_as_it_says_is_a_failure_that_shows_nothing_of_it() {
        for coding in ["gzip", "deflate", "br"] {
            let failure = decoder(coding, 100).push(&[0xff; 100]).unwrap_err();
            assert!(failure.text.contains("Content-Encoding"), "{coding}: {failure:?}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip, zstd"));
        assert!(Decoder::of(&headers, 100).is_err());
    }
}
