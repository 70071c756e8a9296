//! The length that an audio file states, without decoding it. A length that cannot be read, or is zero, is ignored.
//! `audio.rs` rejects a file that states too long a length.

use std::fs::File;
use std::io::{BufReader, Seek};
use std::panic::catch_unwind;
use std::time::Duration;

use lofty::config::{ParseOptions, ParsingMode};
use lofty::file::AudioFile;
use lofty::probe::Probe;
use longhand_shared::domain::media::ebml;

/// The length that the file states, which begins with `head`. Leaves the file at an undefined position.
pub(super) fn stated(file: &File, head: &[u8]) -> Option<Duration> {
    let mut reader = BufReader::new(file.try_clone().ok()?);
    reader.rewind().ok()?;
    let matroska = head.starts_with(&ebml::MAGIC);
    // A parser that panics on a file knows no length of it.
    let length = catch_unwind(move || if matroska { ebml::duration(&mut reader) } else { by_lofty(reader) });
    length.ok().flatten().filter(|length| !length.is_zero())
}

fn by_lofty(reader: BufReader<File>) -> Option<Duration> {
    let options =
        ParseOptions::new().read_tags(false).read_cover_art(false).parsing_mode(ParsingMode::Relaxed);
    let file = Probe::new(reader).options(options).guess_file_type().ok()?.read().ok()?;
    Some(file.properties().duration())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::Command;

    use super::*;

    /// A tone of so many seconds in a file that ffmpeg makes.
    fn encoded(name: &str, seconds: u32, options: &[&str]) -> Vec<u8> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(name);
        let source = format!("sine=frequency=300:sample_rate=16000:duration={seconds}");
        let done = Command::new("ffmpeg")
            .args(["-v", "error", "-nostdin", "-f", "lavfi", "-i", &source])
            .args(options)
            .arg(&path)
            .status()
            .expect("ffmpeg is needed: `make test` installs it; by hand: apt-get install ffmpeg");
        assert!(done.success(), "{name}");
        std::fs::read(path).expect("ffmpeg wrote it")
    }

    fn stated_by(bytes: &[u8]) -> Option<Duration> {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("written");
        stated(&file, bytes)
    }

    #[test]
    fn the_length_that_each_container_states_is_read() {
        let files: [(&str, &[&str]); 11] = [
            ("a.wav", &[]),
            ("a.flac", &[]),
            ("a.mp3", &["-b:a", "32k"]),
            ("b.mp3", &["-b:a", "32k", "-write_xing", "0"]),
            ("a.ogg", &["-c:a", "libopus", "-b:a", "16k"]),
            ("b.ogg", &["-c:a", "libvorbis"]),
            ("a.m4a", &["-c:a", "aac"]),
            ("b.m4a", &["-c:a", "aac", "-movflags", "+faststart"]),
            ("a.webm", &["-c:a", "libopus", "-b:a", "16k"]),
            ("a.mkv", &["-c:a", "libopus", "-b:a", "16k"]),
            ("a.aiff", &[]),
        ];
        for (name, options) in files {
            for seconds in [4, 400] {
                let stated = stated_by(&encoded(name, seconds, options)).expect(name).as_secs_f64();
                assert!((stated - f64::from(seconds)).abs() < 1.0, "{name} of {seconds} s states {stated}");
            }
        }
    }

    #[test]
    fn damaged_files_are_survived() {
        let good =
            [encoded("a.flac", 2, &[]), encoded("a.m4a", 2, &["-c:a", "aac"]), encoded("a.webm", 2, &[])];
        assert_eq!(stated_by(b""), None);
        assert_eq!(stated_by(b"RIFF\0\0\0\0WAVEfmt "), None);
        for bytes in good {
            for cut in (0..bytes.len()).step_by(397) {
                let _ = stated_by(&bytes[..cut]);
                let mut damaged = bytes.clone();
                damaged[cut] ^= 0xFF;
                let _ = stated_by(&damaged);
            }
        }
    }

    #[test]
    fn a_size_of_nonsense_does_not_end_the_process() {
        let part =
            |id: &[u8], size: u64, content: &[u8]| [id, &((1 << 56) | size).to_be_bytes(), content].concat();
        let info = part(b"\x7B\xA9", 1 << 44, b"title");
        let info = part(b"\x15\x49\xA9\x66", info.len() as u64, &info);
        let segment = part(b"\x18\x53\x80\x67", info.len() as u64, &info);
        let head = part(b"\x42\x82", 4, b"webm");
        let head = part(b"\x1A\x45\xDF\xA3", head.len() as u64, &head);
        assert_eq!(stated_by(&[head, segment].concat()), None);
    }
}
