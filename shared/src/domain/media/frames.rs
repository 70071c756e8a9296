//! Streams of frames without a container: MPEG audio, AAC in ADTS, AC-3, MPEG-TS.
//!
//! A frame's header states its length. A header is taken as real if two more follow, each at the stated distance, or
//! if one does and the bytes end there. A stream may be cut anywhere, so the first frame may begin after the first
//! byte. If there are no such headers, a header at the first byte is enough.

use super::format::Format;

/// How many headers in a row count as a detection.
const ENOUGH: usize = 3;

/// A parsed header: the format, the bits that all frames of a stream share, and the frame's length in bytes.
type Header = ((Format, u32), usize);

/// The format of a stream that begins with these bytes. The first bytes may be the rest of a frame.
pub(super) fn detect(head: &[u8]) -> Option<Format> {
    transport_stream(head)
        .then_some(Format::MpegTs)
        .or_else(|| (0..head.len()).find_map(|at| row(head, at)))
        .or_else(|| header(head).map(|((format, _), _)| format))
}

/// The format of the frames that begin at `start`, if any.
fn row(head: &[u8], start: usize) -> Option<Format> {
    let (first, _) = header(&head[start..])?;
    let (mut at, mut found) = (start, 0);
    while let Some((_, length)) = head.get(at..).and_then(header).filter(|(shared, _)| *shared == first)
        && found < ENOUGH
    {
        found += 1;
        at += length;
    }
    let ends_here = at + 6 > head.len() && found > 1;
    (found >= ENOUGH || ends_here).then_some(first.0)
}

fn header(bytes: &[u8]) -> Option<Header> {
    match bytes {
        [0xFF, second, ..] if second & 0xF6 == 0xF0 => adts(bytes),
        [0xFF, second, ..] if second & 0xE0 == 0xE0 => mpeg(bytes),
        [0x0B, 0x77, ..] => ac3(bytes),
        _ => None,
    }
}

/// MPEG 1, 2 and 2.5, layers I to III (ISO/IEC 11172-3, 13818-3). A free bit rate states no length.
fn mpeg(bytes: &[u8]) -> Option<Header> {
    const RATES: [[u32; 14]; 5] = [
        [32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448],
        [32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384],
        [32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320],
        [32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256],
        [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
    ];
    let &[_, b, c, d] = bytes.first_chunk()?;
    let (version, layer) = (b >> 3 & 3, b >> 1 & 3);
    let first_version = version == 3;
    let rates = match (first_version, layer) {
        (true, 3) => RATES[0],
        (true, 2) => RATES[1],
        (true, _) => RATES[2],
        (false, 3) => RATES[3],
        (false, _) => RATES[4],
    };
    let rate = rates.get(usize::from(c >> 4).checked_sub(1)?)? * 1000;
    let sampled =
        [44_100, 48_000, 32_000].get(usize::from(c >> 2 & 3))? >> [2, 0, 1, 0][usize::from(version)];
    // Reserved values.
    if version == 1 || layer == 0 || d & 3 == 2 {
        return None;
    }
    let padding = u32::from(c >> 1 & 1);
    let length = match (layer, first_version) {
        (3, _) => (12 * rate / sampled + padding) * 4,
        (1, false) => 72 * rate / sampled + padding,
        _ => 144 * rate / sampled + padding,
    };
    let format = if layer == 1 { Format::Mp3 } else { Format::Mp2 };
    Some(((format, sampled << 2 | u32::from(layer)), length as usize))
}

/// AAC in ADTS (ISO/IEC 13818-7).
fn adts(bytes: &[u8]) -> Option<Header> {
    let &[_, version, rates, high, middle, low] = bytes.first_chunk()?;
    let rate = rates >> 2 & 15;
    let length = usize::from(high & 3) << 11 | usize::from(middle) << 3 | usize::from(low >> 5);
    (rate < 13 && length >= 7).then(|| ((Format::Aac, u32::from(rate) << 8 | u32::from(version)), length))
}

/// AC-3 and E-AC-3 (ETSI TS 102 366).
fn ac3(bytes: &[u8]) -> Option<Header> {
    const RATES: [usize; 19] =
        [32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640];
    let &[_, _, high, low, rates, version] = bytes.first_chunk()?;
    let (sampled, code) = (rates >> 6, usize::from(rates & 63));
    let length = match version >> 3 {
        0..=10 => {
            let rate = *RATES.get(code / 2)?;
            match sampled {
                0 => rate * 4,
                1 => (rate * 96_000 / 44_100 + code % 2) * 2,
                2 => rate * 6,
                _ => return None,
            }
        }
        11..=16 => (usize::from(high & 7) << 8 | usize::from(low)) * 2 + 2,
        _ => return None,
    };
    Some(((Format::Ac3, u32::from(sampled)), length.max(6)))
}

/// Packets of 188 bytes with the same first byte. Discs have a timestamp of four bytes before each packet.
fn transport_stream(head: &[u8]) -> bool {
    [188, 192].into_iter().any(|length| {
        (0..length).any(|start| {
            let firsts = || head.iter().skip(start).step_by(length).take(ENOUGH + 1);
            let packets = firsts().count();
            firsts().all(|byte| *byte == 0x47) && (packets > ENOUGH || start == 0 && packets > 1)
        })
    })
}
