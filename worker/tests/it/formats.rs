//! Formats of audio: files that ffmpeg makes, whole, cut and with other brands, are recognised by their structure and
//! sent under a name that fits; what is clearly not audio is refused.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use longhand_shared::domain::job::ErrorCode;
use longhand_shared::domain::media::Format::{self, *};
use longhand_worker::audio::{Audio, AudioError};

use crate::support::audio_store;

/// One second of a tone in a file that ffmpeg makes with these options, the last of them a muxer.
pub(crate) fn encoded(options: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("made");
    let options: Vec<&str> = options.split_whitespace().collect();
    let done = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-f", "lavfi", "-i"])
        .arg("sine=frequency=300:sample_rate=16000:duration=1")
        .args(["-strict", "-2"])
        .args(&options)
        .arg(&path)
        .status()
        .expect("ffmpeg is needed: `make test` installs it; by hand: apt-get install ffmpeg");
    assert!(done.success(), "{options:?}");
    std::fs::read(path).expect("ffmpeg wrote it")
}

/// How many seconds of sound ffmpeg decodes.
fn decoded_seconds(bytes: &[u8]) -> f64 {
    let mut child = Command::new("ffmpeg")
        .args(["-v", "quiet", "-i", "pipe:0", "-f", "s16le", "-ac", "1", "-ar", "16000", "pipe:1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("ffmpeg");
    // It may stop reading early.
    let _ = child.stdin.take().expect("piped").write_all(bytes);
    let output = child.wait_with_output().expect("it ran").stdout;
    f64::from(u32::try_from(output.len()).expect("a second or two")) / 32_000.0
}

async fn open(root: &Path, name: &str, bytes: &[u8]) -> Result<Audio, AudioError> {
    std::fs::write(root.join(name), bytes).expect("written");
    audio_store(root).open(&name.parse().expect("a path")).await
}

async fn assert_is(root: &Path, what: &str, bytes: &[u8], format: Format) {
    let audio = open(root, "voice.txt", bytes).await.map(|audio| (audio.name, audio.mime));
    let name = format!("voice.txt.{}", format.extensions()[0]);
    assert_eq!(audio, Ok((name, format.mime())), "{what}: {:x?}", &bytes[..bytes.len().min(40)]);
}

/// Containers and codecs, each with the options of ffmpeg that make it.
const MADE: [(&str, Format); 47] = [
    ("-f wav", Wav),
    ("-c:a pcm_u8 -f wav", Wav),
    ("-c:a pcm_f32le -f wav", Wav),
    ("-c:a pcm_mulaw -ar 8000 -f wav", Wav),
    ("-c:a adpcm_ms -f wav", Wav),
    ("-c:a libgsm_ms -ar 8000 -f wav", Wav),
    ("-rf64 always -f wav", Wav),
    ("-f w64", W64),
    ("-f aiff", Aiff),
    ("-c:a pcm_mulaw -f aiff", Aiff),
    ("-f caf", Caf),
    ("-c:a alac -f caf", Caf),
    ("-f au", Au),
    ("-ar 8000 -f mp3", Mp3),
    ("-ar 11025 -f mp3", Mp3),
    ("-ar 12000 -b:a 8k -f mp3", Mp3),
    ("-ar 16000 -id3v2_version 0 -write_xing 0 -f mp3", Mp3),
    ("-ar 24000 -id3v2_version 4 -f mp3", Mp3),
    ("-ar 44100 -b:a 320k -f mp3", Mp3),
    ("-ar 48000 -ac 2 -q:a 9 -f mp3", Mp3),
    ("-ar 16000 -c:a mp2 -f mp2", Mp2),
    ("-ar 44100 -c:a mp2 -b:a 192k -f mp2", Mp2),
    ("-c:a aac -f adts", Aac),
    ("-c:a aac -ar 48000 -ac 2 -f adts", Aac),
    ("-ar 48000 -c:a ac3 -f ac3", Ac3),
    ("-ar 44100 -c:a ac3 -f ac3", Ac3),
    ("-ar 48000 -c:a eac3 -f eac3", Ac3),
    ("-f flac", Flac),
    ("-c:a libopus -f ogg", Ogg),
    ("-c:a libvorbis -f ogg", Ogg),
    ("-c:a libspeex -f ogg", Ogg),
    ("-c:a flac -f ogg", Ogg),
    ("-c:a aac -f ipod", M4a),
    ("-c:a alac -f ipod", M4a),
    ("-c:a aac -f mp4", Mp4),
    ("-c:a aac -movflags frag_keyframe+empty_moov -f mp4", Mp4),
    ("-c:a aac -movflags +faststart -f mov", Mp4),
    ("-c:a aac -f 3gp", Mp4),
    ("-c:a aac -f 3g2", Mp4),
    ("-c:a libopus -f webm", WebM),
    ("-c:a libvorbis -f webm", WebM),
    ("-c:a libmp3lame -f matroska", Matroska),
    ("-c:a pcm_s16le -f matroska", Matroska),
    ("-c:a wmav2 -f asf", Asf),
    ("-c:a libmp3lame -f avi", Avi),
    ("-c:a wavpack -f wv", WavPack),
    ("-c:a libmp3lame -ar 22050 -f flv", Flv),
];

/// The same for what ffmpeg makes of several packets of one size.
const STREAMS: [(&str, Format); 4] = [
    ("-c:a aac -f mpegts", MpegTs),
    ("-c:a mp2 -ar 48000 -f mpegts", MpegTs),
    ("-c:a aac -mpegts_m2ts_mode 1 -f mpegts", MpegTs),
    ("-c:a mp2 -ar 48000 -f vob", MpegPs),
];

#[tokio::test]
async fn each_container_is_recognised_by_its_structure() {
    let root = tempfile::tempdir().expect("a folder");
    for (options, format) in MADE.into_iter().chain(STREAMS) {
        assert_is(root.path(), options, &encoded(options), format).await;
    }
    // ffmpeg can only read these.
    let amr = [b"#!AMR\n".as_slice(), &[0x3C; 32], &[0x7C; 50]].concat();
    assert_is(root.path(), "AMR", &amr, Amr).await;
    let wide = [b"#!AMR-WB\n".as_slice(), &[0x44; 61]].concat();
    assert_is(root.path(), "AMR-WB", &wide, AmrWb).await;
}

fn with_box(kind: [u8; 4], bytes: &[u8]) -> Vec<u8> {
    [b"\0\0\0\x10".as_slice(), &kind, &[0; 8], bytes].concat()
}

#[tokio::test]
async fn any_brand_and_any_first_box_of_mp4_are_audio() {
    let root = tempfile::tempdir().expect("a folder");
    let m4a = encoded("-c:a aac -f ipod");
    let brands = [
        (b"M4A ", M4a),
        (b"M4B ", M4a),
        (b"M4P ", M4a),
        (b"F4A ", M4a),
        (b"qt  ", Mp4),
        (b"3gp4", Mp4),
        (b"3gp5", Mp4),
        (b"3g2a", Mp4),
        (b"isom", Mp4),
        (b"iso2", Mp4),
        (b"iso7", Mp4),
        (b"iso9", Mp4),
        (b"mp41", Mp4),
        (b"mp42", Mp4),
        (b"dash", Mp4),
        (b"M4V ", Mp4),
        (b"MSNV", Mp4),
        (b"xyz1", Mp4),
    ];
    for (brand, format) in brands {
        let mut branded = m4a.clone();
        branded[8..12].copy_from_slice(brand);
        assert!(decoded_seconds(&branded) > 0.9, "{brand:?}");
        assert_is(root.path(), &format!("{brand:?}"), &branded, format).await;
    }
    for kind in [b"free", b"wide", b"skip"] {
        assert_is(root.path(), &format!("{kind:?}"), &with_box(*kind, &m4a), M4a).await;
    }
    // Old QuickTime files, and files whose first box is cut off, begin with the sound or its index.
    let whole = encoded("-c:a aac -f mov");
    assert_is(root.path(), "mdat", &whole[20..], Mp4).await;
    let index_first = encoded("-c:a aac -movflags +faststart -f mov");
    assert_is(root.path(), "moov", &index_first[20..], Mp4).await;
    assert_is(root.path(), "wide, mdat", &with_box(*b"wide", &whole[20..]), Mp4).await;
}

#[tokio::test]
async fn streams_are_recognised_from_the_middle_of_a_frame() {
    let root = tempfile::tempdir().expect("a folder");
    let streams = [
        ("-ar 8000 -id3v2_version 0 -f mp3", Mp3),
        ("-ar 16000 -id3v2_version 0 -write_xing 0 -f mp3", Mp3),
        ("-ar 44100 -b:a 128k -id3v2_version 0 -f mp3", Mp3),
        ("-ar 48000 -c:a mp2 -f mp2", Mp2),
        ("-c:a aac -f adts", Aac),
        ("-ar 44100 -c:a ac3 -f ac3", Ac3),
        ("-c:a aac -f mpegts", MpegTs),
    ];
    for (options, format) in streams {
        let whole = encoded(options);
        for cut in [1, 7, 50, 187] {
            assert_is(root.path(), &format!("{options} cut at {cut}"), &whole[cut..], format).await;
        }
        if format != MpegTs {
            for zeros in [1, 417, 5_000, 100_000] {
                let late = [vec![0; zeros], whole.clone()].concat();
                assert_is(root.path(), &format!("{options} after {zeros} zeros"), &late, format).await;
            }
        }
    }
    // A tag as long as a picture, and other streams than MP3 after a tag.
    let mp3 = encoded("-f mp3");
    let tag = [b"ID3\x04\0\0\0\x07\x68\x00".as_slice(), &vec![0x55; 127_000]].concat();
    assert_is(root.path(), "a long tag", &[tag, mp3].concat(), Mp3).await;
    let tag = [b"ID3\x04\0\0\0\0\0\x14".as_slice(), &[0; 20]].concat();
    for (options, format) in [("-c:a aac -f adts", Aac), ("-f flac", Flac), ("-f mp3", Mp3)] {
        assert_is(root.path(), options, &[tag.clone(), encoded(options)].concat(), format).await;
    }
}

#[tokio::test]
async fn a_doctype_is_read_and_not_searched_for() {
    let root = tempfile::tempdir().expect("a folder");
    let webm = encoded("-c:a libopus -f webm");
    let at = webm.windows(4).position(|part| part == b"webm").expect("a DocType");
    // GStreamer fills the kind up with zeros.
    let padded = [&webm[..at - 1], b"\x88webm\0\0\0\0", &webm[at + 4..]].concat();
    let header = webm[4] & 0x7F;
    let mut padded = padded;
    padded[4] = 0x80 | (header + 4);
    assert_is(root.path(), "padded", &padded, WebM).await;
    assert!(decoded_seconds(&padded) > 0.9);
    let void =
        [b"\x1A\x45\xDF\xA3".as_slice(), &[0x80 | (header + 12)], b"\xEC\x8Awebm      ", &webm[5..]].concat();
    assert_is(root.path(), "void first", &void, WebM).await;
    let mut other = webm;
    other[at..at + 4].copy_from_slice(b"xxxx");
    assert_is(root.path(), "another kind", &other, Matroska).await;
}

#[tokio::test]
async fn names_fit_the_bytes_whatever_the_client_calls_them() {
    let root = tempfile::tempdir().expect("a folder");
    let (opus, m4a, wav) = (encoded("-c:a libopus -f ogg"), encoded("-c:a aac -f ipod"), encoded("-f wav"));
    for (name, bytes, sent) in [
        ("voice.opus", &opus, "voice.ogg"),
        ("voice.oga", &opus, "voice.oga"),
        ("voice.webm", &m4a, "voice.m4a"),
        ("voice.amr", &m4a, "voice.m4a"),
        ("voice.AAC", &m4a, "voice.m4a"),
        ("voice.mp3", &m4a, "voice.m4a"),
        ("voice.mp4", &m4a, "voice.mp4"),
        ("voice.WAV", &wav, "voice.WAV"),
        ("voice", &wav, "voice.wav"),
        (".wav", &wav, ".wav.wav"),
        ("talk-1.5", &wav, "talk-1.5.wav"),
        ("voice.mp3", &wav, "voice.wav"),
    ] {
        let audio = open(root.path(), name, bytes).await.map(|audio| audio.name);
        assert_eq!(audio.as_deref(), Ok(sent), "{name}");
    }
    let unknown =
        open(root.path(), "voice.xyz", b"\x01\x02\x03\xA0some new codec").await.expect("sent as it is");
    assert_eq!((unknown.name.as_str(), unknown.mime), ("voice.xyz", "application/octet-stream"));
}

#[tokio::test]
async fn only_what_is_clearly_not_audio_is_refused() {
    let root = tempfile::tempdir().expect("a folder");
    let image = |options: &str| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("made");
        let done = Command::new("ffmpeg")
            .args(["-v", "error", "-nostdin", "-f", "lavfi", "-i", "testsrc=size=64x64:rate=1:duration=1"])
            .args(["-frames:v", "1", "-update", "1"])
            .args(options.split_whitespace())
            .arg(&path)
            .status();
        assert!(done.expect("ffmpeg").success(), "{options}");
        std::fs::read(path).expect("written")
    };
    let utf16: Vec<u8> = "\u{feff}Not found\r\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let heic = [b"\0\0\0\x18ftypheic\0\0\0\0mif1heic".as_slice(), &[7; 100]].concat();
    let refused: Vec<(&str, Vec<u8>)> = vec![
        ("is text", b"this is not audio".to_vec()),
        ("is text", "¡Esto no es audio! 这不是音频".as_bytes().to_vec()),
        ("is text", b"Se\xF1or, esto no es audio".to_vec()),
        ("is text", utf16),
        ("is text", b"<?xml version=\"1.0\"?><Error><Code>NoSuchKey</Code></Error>".to_vec()),
        ("is text", b"OggS is how an Ogg file begins".to_vec()),
        ("is HTML", b"\n<!DOCTYPE html><html><body>502</body></html>".to_vec()),
        ("is JSON", b"\xEF\xBB\xBF{\"error\":\"not found\"}".to_vec()),
        ("is of the type application/pdf", b"%PDF-1.7\n%\xE2\xE3\xCF\xD3\n\x00\x01".to_vec()),
        ("is of the type application/pdf", b"%PDF-1.7\n1 0 obj".to_vec()),
        ("is of the type application/zip", b"PK\x03\x04\x14\0\0\0\x08\0abc".to_vec()),
        ("is of the type application/gzip", b"\x1F\x8B\x08\0\0\0\0\0\0\x03abc".to_vec()),
        ("is of the type application/x-executable", [b"\x7FELF\x02\x01\x01".as_slice(), &[0; 60]].concat()),
        ("is of the type image/png", image("-c:v png -f image2")),
        ("is of the type image/jpeg", image("-c:v mjpeg -f image2")),
        ("is of the type image/gif", image("-c:v gif -f gif")),
        ("is of the type image/bmp", image("-c:v bmp -f image2")),
        ("is of the type image/webp", image("-c:v libwebp -f webp")),
        ("is of the type image/tiff", image("-c:v tiff -f image2")),
        ("is an image", heic),
        ("contains only zeros", vec![0; 1]),
        ("contains only zeros", vec![0; 200_000]),
    ];
    for (what, bytes) in refused {
        match open(root.path(), "voice.mp3", &bytes).await.map(|audio| audio.name) {
            Err(AudioError::Bad(error)) => {
                assert_eq!(error.code, ErrorCode::AudioUnsupported);
                assert_eq!(error.message, format!("voice.mp3 is not audio: it {what}"));
            }
            other => panic!("{what}: {other:?}"),
        }
    }
}
