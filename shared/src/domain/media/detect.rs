//! Detects the audio format from a file's first bytes.
//!
//! File names and announced types are often wrong, so detection uses the structure: boxes, chunks, headers with
//! consistent fields. Content that is clearly not audio is rejected. An unknown format goes to the model, which may
//! support it.

use std::fmt;
use std::io::{self, Cursor, Read};

use infer::MatcherType;

use super::format::Format;
use super::{ebml, frames};

/// How many bytes of a file [`detect`] reads.
pub const HEAD_BYTES: usize = 64 * 1024;

/// The minimum number of bytes to detect text. Fewer bytes are ambiguous.
const MIN_TEXT_BYTES: usize = 4;

/// Why a file is clearly not audio: a media type, or a phrase such as "is text".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAudio(&'static str);

impl fmt::Display for NotAudio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("is not audio: it ")?;
        match self.0 {
            mime if mime.contains('/') => write!(f, "is of the type {mime}"),
            what => f.write_str(what),
        }
    }
}

/// Reads the part of a file that [`detect`] needs: the first block of [`HEAD_BYTES`] that is not all zeros.
pub fn read_head(source: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    loop {
        let mut next = Vec::with_capacity(HEAD_BYTES);
        source.take(HEAD_BYTES as u64).read_to_end(&mut next)?;
        if next.is_empty() {
            return Ok(head);
        }
        head = next;
        if head.iter().any(|byte| *byte != 0) {
            return Ok(head);
        }
    }
}

/// Detects a file's format from its first [`HEAD_BYTES`].
pub fn detect(head: &[u8]) -> Result<Format, NotAudio> {
    let head = head.get(..HEAD_BYTES).unwrap_or(head);
    let Some(start) = head.iter().position(|byte| *byte != 0) else {
        return Err(NotAudio("contains only zeros"));
    };
    if head.starts_with(b"#!AMR-WB") {
        return Ok(Format::AmrWb);
    }
    if head.starts_with(b"#!AMR") {
        return Ok(Format::Amr);
    }
    if let Some(text) = text(head) {
        return Err(NotAudio(text));
    }
    if let Some(known) = container(head) {
        return known;
    }
    if let Some(mime) = other(head) {
        return Err(NotAudio(mime));
    }
    // Some encoders and damaged transfers begin with zeros.
    let rest = &head[start..];
    Ok(frames::detect(rest).unwrap_or(Format::Unknown))
}

/// The container at the first byte. An error for an image with the structure of MP4.
fn container(head: &[u8]) -> Option<Result<Format, NotAudio>> {
    const W64: &[u8] = b"riff\x2E\x91\xCF\x11\xA5\xD6\x28\xDB\x04\xC1\x00\x00";
    const ASF: &[u8] = b"\x30\x26\xB2\x75\x8E\x66\xCF\x11";
    let inner = head.get(8..12).unwrap_or_default();
    let format = match head.get(..4)? {
        b"RIFF" | b"RIFX" | b"RF64" | b"BW64" if inner == b"WAVE" => Format::Wav,
        b"RIFF" if inner == b"AVI " => Format::Avi,
        b"FORM" if matches!(inner, b"AIFF" | b"AIFC") => Format::Aiff,
        b"caff" => Format::Caf,
        // In either byte order.
        b".snd" | b"dns." => Format::Au,
        b"fLaC" => Format::Flac,
        b"OggS" => Format::Ogg,
        b"wvpk" => Format::WavPack,
        b"FLV\x01" => Format::Flv,
        b"\x00\x00\x01\xBA" => Format::MpegPs,
        _ if head.starts_with(W64) => Format::W64,
        _ if head.starts_with(ASF) => Format::Asf,
        _ if head.starts_with(&ebml::MAGIC) => match ebml::doc_type(&mut Cursor::new(head)).as_deref() {
            Some("webm") => Format::WebM,
            _ => Format::Matroska,
        },
        _ if head.starts_with(b"ID3") => return id3(head).map(Ok),
        _ => return boxes(head),
    };
    Some(Ok(format))
}

/// The format after an ID3 tag, which is mostly MP3. MP3 also if the tag is longer than the head.
fn id3(head: &[u8]) -> Option<Format> {
    let (fields, sizes) = (head.get(3..6)?, head.get(6..10)?);
    let valid = fields[0] < 0xFF && fields[1] < 0xFF && sizes.iter().all(|byte| *byte < 0x80);
    let size = sizes.iter().fold(0, |size, byte| size << 7 | usize::from(*byte));
    let footer = if fields[2] & 0x10 == 0 { 0 } else { 10 };
    let rest = head.get(10 + size + footer..).unwrap_or_default();
    let start = rest.iter().position(|byte| *byte != 0).unwrap_or(rest.len());
    let known = || match container(rest) {
        Some(Ok(format)) => Some(format),
        _ => frames::detect(&rest[start..]),
    };
    valid.then(|| known().unwrap_or(Format::Mp3))
}

/// MP4 and related formats: boxes, each with a size and a type.
fn boxes(head: &[u8]) -> Option<Result<Format, NotAudio>> {
    const FIRST: [&[u8; 4]; 12] = [
        b"ftyp", b"free", b"wide", b"skip", b"mdat", b"moov", b"pnot", b"uuid", b"styp", b"moof", b"sidx",
        b"pdin",
    ];
    const AUDIO: [&[u8; 4]; 5] = [b"M4A ", b"M4B ", b"M4P ", b"F4A ", b"F4B "];
    const IMAGE: [&[u8; 4]; 13] = [
        b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"mif2", b"msf1", b"avif", b"avis",
        b"crx ", b"jp2 ",
    ];
    let mut at = 0;
    while let Some(header) = head.get(at..at + 8) {
        let (size, kind) = header.split_at(4);
        let is = |kinds: &[&[u8; 4]], kind: &[u8]| kinds.iter().any(|known| kind == *known);
        let size = size.iter().fold(0, |size, byte| size << 8 | usize::from(*byte));
        // 1: a 64-bit size follows the type. 0: the box extends to the end of the file.
        let valid = is(&FIRST, kind) && (size <= 1 || size >= 8);
        if !valid {
            break;
        }
        if kind == b"ftyp" {
            let brand = head.get(at + 8..at + 12).unwrap_or_default();
            return Some(match brand {
                _ if is(&IMAGE, brand) => Err(NotAudio("is an image")),
                _ if is(&AUDIO, brand) => Ok(Format::M4a),
                _ => Ok(Format::Mp4),
            });
        }
        if size < 8 {
            return Some(Ok(Format::Mp4));
        }
        at += size;
    }
    (at > 0).then_some(Ok(Format::Mp4))
}

/// Detects text. Many hosts send an error page instead of audio, with status 200.
fn text(head: &[u8]) -> Option<&'static str> {
    let text = if let Some(rest) =
        head.strip_prefix(b"\xFF\xFE").filter(|rest| is_utf16(rest, u16::from_le_bytes))
    {
        utf16(rest, u16::from_le_bytes)
    } else if let Some(rest) =
        head.strip_prefix(b"\xFE\xFF").filter(|rest| is_utf16(rest, u16::from_be_bytes))
    {
        utf16(rest, u16::from_be_bytes)
    } else if head.len() >= MIN_TEXT_BYTES && is_bytes_of_text(head) {
        String::from_utf8_lossy(head).into_owned()
    } else {
        return None;
    };
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let lower: String = text.chars().take(300).collect::<String>().to_ascii_lowercase();
    Some(if lower.contains("<html") || lower.contains("<!doctype html") {
        "is HTML"
    } else if text.starts_with(['{', '[']) {
        "is JSON"
    } else if text.starts_with("%PDF-") {
        "application/pdf"
    } else {
        "is text"
    })
}

fn is_control(c: char) -> bool {
    c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1b}')
}

/// Whether the bytes are UTF-8, or an older encoding with mostly ASCII characters.
fn is_bytes_of_text(head: &[u8]) -> bool {
    if head.iter().any(|byte| byte.is_ascii() && is_control(char::from(*byte))) {
        return false;
    }
    let utf8 = std::str::from_utf8(head).map_or_else(|error| error.error_len().is_none(), |_| true);
    let ascii = head.iter().filter(|byte| byte.is_ascii()).count();
    utf8 || ascii * 10 >= head.len() * 7
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> String {
    let units: Vec<u16> = bytes.as_chunks().0.iter().map(|pair| unit(*pair)).collect();
    String::from_utf16_lossy(&units)
}

fn is_utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> bool {
    // A frame of MPEG audio may begin like a byte order mark, so the rest must be valid. Only the last unit may be half
    // a surrogate pair, where the head ends.
    let text = utf16(bytes, unit);
    let whole = text.strip_suffix('\u{fffd}').unwrap_or(&text);
    !whole.is_empty() && !whole.chars().any(|c| is_control(c) || c == '\u{fffd}')
}

/// The media type of a known format that is neither audio nor video.
fn other(head: &[u8]) -> Option<&'static str> {
    let kind = infer::get(head)?;
    let audible =
        matches!(kind.matcher_type(), MatcherType::Audio | MatcherType::Video | MatcherType::Custom);
    (!audible).then(|| kind.mime_type())
}
