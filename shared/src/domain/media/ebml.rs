//! The document type and the duration in the header of a Matroska or `WebM` file.
//!
//! Sizes in a file are not trusted: they decide no allocation, and a bounded number of elements is read. A failed
//! allocation would abort the process and all chunks that it works on.

use std::io::{Read, Seek, SeekFrom};
use std::time::Duration;

/// The first bytes of every EBML document.
pub const MAGIC: [u8; 4] = [0x1A, 0x45, 0xDF, 0xA3];

const HEADER: u32 = 0x1A45_DFA3;
const DOC_TYPE: u32 = 0x4282;
const SEGMENT: u32 = 0x1853_8067;
const INFO: u32 = 0x1549_A966;
const CLUSTER: u32 = 0x1F43_B675;
const TIMESTAMP_SCALE: u32 = 0x2A_D7B1;
const DURATION: u32 = 0x4489;

/// Nanoseconds per tick, unless the file states another scale.
const DEFAULT_SCALE: u64 = 1_000_000;

/// How many elements may be skipped.
const MAX_ELEMENTS: usize = 1000;

/// The maximum size of an element's content, in bytes. Only numbers and the document type are read.
const MAX_CONTENT: u64 = 64;

/// An element's id and the range of its content.
#[derive(Clone, Copy)]
struct Element {
    id: u32,
    start: u64,
    end: u64,
}

/// The document type: `webm` or `matroska`. Some writers pad it with zeros.
pub(super) fn doc_type(source: &mut (impl Read + Seek)) -> Option<String> {
    let header = find(source, 0, u64::MAX, HEADER)?;
    let kind = find(source, header.start, header.end, DOC_TYPE)?;
    let kind = String::from_utf8(content(source, kind)?).ok()?;
    Some(kind.trim_end_matches('\0').to_owned())
}

/// The duration that the document states.
pub fn duration(source: &mut (impl Read + Seek)) -> Option<Duration> {
    let segment = find(source, 0, u64::MAX, SEGMENT)?;
    let info = find(source, segment.start, segment.end, INFO)?;
    let ticks = find(source, info.start, info.end, DURATION).and_then(|found| content(source, found))?;
    let ticks = match ticks.len() {
        4 => f64::from(f32::from_be_bytes(ticks.try_into().ok()?)),
        8 => f64::from_be_bytes(ticks.try_into().ok()?),
        _ => return None,
    };
    let scale = find(source, info.start, info.end, TIMESTAMP_SCALE)
        .and_then(|found| content(source, found))
        .filter(|bytes| bytes.len() <= 8)
        .map_or(DEFAULT_SCALE, |bytes| bytes.into_iter().fold(0, |value, byte| value << 8 | u64::from(byte)));
    #[expect(clippy::cast_precision_loss, reason = "a length in seconds need not be exact")]
    Duration::try_from_secs_f64(ticks * scale as f64 / 1e9).ok()
}

/// The first element `id` from `at` to `end`, and before the audio data.
fn find(source: &mut (impl Read + Seek), mut at: u64, end: u64, id: u32) -> Option<Element> {
    for _ in 0..MAX_ELEMENTS {
        let found = (at < end).then(|| element(source, at)).flatten()?;
        if found.id == id {
            return Some(found);
        }
        if found.id == CLUSTER {
            return None;
        }
        at = found.end;
    }
    None
}

/// The element at `at`. An element of unknown size counts as endless.
fn element(source: &mut (impl Read + Seek), at: u64) -> Option<Element> {
    source.seek(SeekFrom::Start(at)).ok()?;
    let (id, id_length) = number(source, 4)?;
    let (size, size_length) = number(source, 8)?;
    let start = at + u64::from(id_length) + u64::from(size_length);
    // The length bits are part of an id, but not of a size.
    let size = size ^ 1 << (7 * size_length);
    let unknown = size == (1 << (7 * size_length)) - 1;
    let end = if unknown { u64::MAX } else { start.saturating_add(size) };
    Some(Element { id: u32::try_from(id).ok()?, start, end })
}

/// A number of variable length, and how many bytes it takes. The leading zero bits encode this count.
fn number(source: &mut impl Read, most: u32) -> Option<(u64, u32)> {
    let mut bytes = [0; 8];
    source.read_exact(&mut bytes[..1]).ok()?;
    let length = bytes[0].leading_zeros() + 1;
    let used = bytes.get_mut(..length as usize).filter(|_| length <= most)?;
    source.read_exact(&mut used[1..]).ok()?;
    Some((used.iter().fold(0, |value, &byte| value << 8 | u64::from(byte)), length))
}

fn content(source: &mut (impl Read + Seek), element: Element) -> Option<Vec<u8>> {
    let size = element.end.checked_sub(element.start).filter(|size| *size <= MAX_CONTENT)?;
    source.seek(SeekFrom::Start(element.start)).ok()?;
    let mut bytes = Vec::new();
    source.take(size).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 == size).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn element(id: &[u8], content: &[u8]) -> Vec<u8> {
        sized(id, content.len() as u64, content)
    }

    /// An element with a stated size that may differ from its content's.
    fn sized(id: &[u8], size: u64, content: &[u8]) -> Vec<u8> {
        [id, &(1 << 56 | size).to_be_bytes(), content].concat()
    }

    fn document(info: &[u8]) -> Cursor<Vec<u8>> {
        let header = element(&MAGIC, &element(b"\x42\x82", b"webm"));
        let segment = element(b"\x18\x53\x80\x67", &element(b"\x15\x49\xA9\x66", info));
        Cursor::new([header, segment].concat())
    }

    #[test]
    fn the_document_type_is_found_anywhere_in_the_header() {
        let version = element(b"\x42\x86", b"\x01");
        for kind in [b"webm".as_slice(), b"webm\0", b"webm\0\0\0\0"] {
            for before in [Vec::new(), version.clone(), element(b"\xEC", &[0; 40])] {
                let fields = [before, element(b"\x42\x82", kind), version.clone()].concat();
                let found = doc_type(&mut Cursor::new(element(&MAGIC, &fields)));
                assert_eq!(found.as_deref(), Some("webm"), "{kind:?}");
            }
        }
        assert_eq!(doc_type(&mut Cursor::new(element(&MAGIC, &version))), None);
        assert_eq!(doc_type(&mut Cursor::new(sized(&MAGIC, 1 << 44, b"\x42\x82"))), None);
    }

    #[test]
    fn the_duration_is_read_in_the_files_scale() {
        let mut plain = document(&element(b"\x44\x89", &400_500_f32.to_be_bytes()));
        assert_eq!(duration(&mut plain), Some(Duration::from_millis(400_500)));
        let scaled =
            [element(b"\x44\x89", &9.0_f64.to_be_bytes()), element(b"\x2A\xD7\xB1", b"\x3B\x9A\xCA\x00")];
        assert_eq!(duration(&mut document(&scaled.concat())), Some(Duration::from_secs(9)));
    }

    /// To allocate 2^44 bytes would abort the process.
    #[test]
    fn invalid_sizes_and_numbers_give_no_duration() {
        for info in [
            sized(b"\x7B\xA9", 1 << 44, b"title"),
            sized(b"\x44\x89", 1 << 44, b"long"),
            sized(b"\x44\x89", 4, b"cut"),
            element(b"\x44\x89", &f64::NAN.to_be_bytes()),
            element(b"\x44\x89", &(-1.0_f64).to_be_bytes()),
            element(b"\x44\x89", &f64::MAX.to_be_bytes()),
            element(b"\x44\x89", b""),
            b"\x00\x00\x00".to_vec(),
            Vec::new(),
        ] {
            assert_eq!(duration(&mut document(&info)), None, "{info:x?}");
        }
    }
}
