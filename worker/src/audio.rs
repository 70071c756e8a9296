//! Audio as a stream, opened anew for each try: size and type are checked before a byte of it
//! reaches the model, and no more than a few kilobytes of it are held.

mod web;

use std::io;
use std::path::PathBuf;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use longhand_shared::AudioPath;
use longhand_shared::job::{ChunkError, ErrorCode};
use longhand_shared::media::MAX_AUDIO_BYTES;
use longhand_shared::outbound::Outbound;
use longhand_shared::path::{AudioSources, InvalidPath};
use tokio::fs::File;
use tokio_util::io::ReaderStream;
use tracing::warn;

/// How much of the beginning tells the type; every signature lies within.
const HEAD_BYTES: usize = 512;

/// How much of a file is read at a time.
const READ_BYTES: usize = 32 * 1024;

/// Audio about to be sent.
pub struct Audio {
    /// The file's name, with an extension that fits its type: some models go by it.
    pub name: String,
    /// Its media type, told by its first bytes.
    pub mime: &'static str,
    /// Its size.
    pub bytes: u64,
    /// The bytes themselves.
    pub body: BoxStream<'static, io::Result<Bytes>>,
}

/// Why there is no audio.
#[derive(Clone, Debug, PartialEq)]
pub enum AudioError {
    /// Trying again would not help.
    Bad(ChunkError),
    /// The place it is in does not answer.
    Unavailable(String),
}

impl AudioError {
    fn bad(code: ErrorCode, message: impl AsRef<str>) -> Self {
        Self::Bad(ChunkError::new(code, message))
    }
}

/// Where audio is read from.
#[derive(Clone, Debug)]
pub struct AudioStore {
    s3: Client,
    outbound: Outbound,
    sources: AudioSources,
}

/// Bytes and how many there are, from wherever.
struct Opened {
    bytes: u64,
    body: BoxStream<'static, io::Result<Bytes>>,
}

impl AudioStore {
    /// Reads from `sources` alone.
    pub fn new(s3: Client, outbound: Outbound, sources: AudioSources) -> Self {
        Self { s3, outbound, sources }
    }

    /// Opens the audio at `path`.
    pub async fn open(&self, path: &AudioPath) -> Result<Audio, AudioError> {
        let opened = match path {
            AudioPath::S3 { bucket, key } => {
                self.sources.check(path).map_err(|error| not_allowed(path, &error))?;
                self.open_object(bucket, key).await?
            }
            AudioPath::Web(text) => {
                let url = self.sources.url(text).map_err(|error| not_allowed(path, &error))?;
                web::open(&self.outbound, &url).await?
            }
            AudioPath::Local(relative) => self.open_file(path, relative).await?,
        };
        let shown = path.shown();
        if opened.bytes == 0 {
            return Err(AudioError::bad(ErrorCode::AudioEmpty, format!("{shown} has no bytes")));
        }
        if opened.bytes > MAX_AUDIO_BYTES {
            let message = format!("{shown} has {} bytes, more than {MAX_AUDIO_BYTES}", opened.bytes);
            return Err(AudioError::bad(ErrorCode::AudioTooLarge, message));
        }
        let mut body = opened.body;
        let head =
            head(&mut body).await.map_err(|error| AudioError::Unavailable(format!("{shown}: {error}")))?;
        let Some((mime, extension)) = audio_type(&head) else {
            let message =
                format!("{shown} does not begin like WAV, MP3, FLAC, Ogg, M4A, MP4, WebM, AAC or AMR");
            return Err(AudioError::bad(ErrorCode::AudioUnsupported, message));
        };
        Ok(Audio {
            name: with_extension(path.file_name(), extension),
            mime,
            bytes: opened.bytes,
            body: stream::once(async { Ok(head) }).chain(body).boxed(),
        })
    }

    async fn open_object(&self, bucket: &str, key: &str) -> Result<Opened, AudioError> {
        let object = self.s3.get_object().bucket(bucket).key(key).send().await.map_err(|error| {
            let name = format!("s3://{bucket}/{key}");
            let status = error.raw_response().map(|response| response.status().as_u16());
            match (error.code(), status) {
                (Some("NoSuchKey" | "NoSuchBucket"), _) | (None, Some(404)) => {
                    AudioError::bad(ErrorCode::AudioNotFound, format!("there is no {name}"))
                }
                (Some("InvalidObjectState"), _) => {
                    AudioError::bad(ErrorCode::AudioForbidden, format!("{name} is archived"))
                }
                // Without the right to list the bucket, S3 says this of a missing key too.
                (Some("AccessDenied" | "AllAccessDisabled"), _) => {
                    AudioError::bad(ErrorCode::AudioForbidden, format!("{name} may not be read"))
                }
                // Our own credentials, clock or region, and S3's bad days: not the chunk's fault.
                _ => {
                    warn!(error = describe(&error), "S3 does not give the audio");
                    AudioError::Unavailable(format!("{name} cannot be read just now"))
                }
            }
        })?;
        let bytes = object
            .content_length()
            .and_then(|length| u64::try_from(length).ok())
            .ok_or_else(|| AudioError::Unavailable(format!("s3://{bucket}/{key} came without a length")))?;
        let body = stream::unfold(object.body, |mut body: ByteStream| async {
            let next = body.try_next().await.map_err(io::Error::other).transpose()?;
            Some((next, body))
        });
        // Whoever has read the head may have read it all, and asks again.
        Ok(Opened { bytes, body: body.fuse().boxed() })
    }

    async fn open_file(&self, path: &AudioPath, relative: &str) -> Result<Opened, AudioError> {
        let failed = |error: io::Error| match error.kind() {
            // No file can have a name of over 255 bytes.
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename => {
                AudioError::bad(ErrorCode::AudioNotFound, format!("there is no {path} under the audio root"))
            }
            io::ErrorKind::PermissionDenied => {
                AudioError::bad(ErrorCode::AudioForbidden, format!("{path} may not be read"))
            }
            _ => AudioError::Unavailable(format!("{path}: {error}")),
        };
        let (sources, relative) = (self.sources.clone(), relative.to_owned());
        let real: PathBuf = tokio::task::spawn_blocking(move || sources.resolve(&relative))
            .await
            .map_err(|error| AudioError::Unavailable(error.to_string()))?
            .map_err(|error| not_allowed(path, &error))?;
        let metadata = tokio::fs::metadata(&real).await.map_err(failed)?;
        // A pipe would be waited on for ever.
        if !metadata.is_file() {
            return Err(AudioError::bad(ErrorCode::AudioUnsupported, format!("{path} is not a file")));
        }
        let file = File::open(&real).await.map_err(failed)?;
        let body = ReaderStream::with_capacity(file, READ_BYTES);
        Ok(Opened { bytes: metadata.len(), body: body.boxed() })
    }
}

fn not_allowed(path: &AudioPath, error: &InvalidPath) -> AudioError {
    AudioError::bad(ErrorCode::AudioForbidden, format!("{} {error}", path.shown()))
}

fn describe<E: std::error::Error + Send + Sync + 'static>(
    error: &SdkError<E, aws_sdk_s3::config::http::HttpResponse>,
) -> String {
    DisplayErrorContext(error).to_string()
}

/// The first bytes: at least [`HEAD_BYTES`] of them, unless there are fewer in all.
async fn head(body: &mut BoxStream<'static, io::Result<Bytes>>) -> io::Result<Bytes> {
    let mut head = BytesMut::new();
    while head.len() < HEAD_BYTES
        && let Some(more) = body.try_next().await?
    {
        if head.is_empty() && more.len() >= HEAD_BYTES {
            return Ok(more);
        }
        head.extend_from_slice(&more);
    }
    Ok(head.freeze())
}

/// The media type and the extension that go with these first bytes, if they are audio or a
/// container that models take audio from.
fn audio_type(head: &[u8]) -> Option<(&'static str, &'static str)> {
    // MPEG frames with a checksum begin with a byte pair that the library does not know.
    if head.starts_with(&[0xFF, 0xFA]) {
        return Some(("audio/mpeg", "mp3"));
    }
    let (mime, extension) = match infer::get(head)?.mime_type() {
        "audio/x-wav" => ("audio/wav", "wav"),
        "audio/mpeg" => ("audio/mpeg", "mp3"),
        "audio/x-flac" => ("audio/flac", "flac"),
        "audio/ogg" | "audio/opus" => ("audio/ogg", "ogg"),
        "audio/m4a" => ("audio/mp4", "m4a"),
        "audio/aac" => ("audio/aac", "aac"),
        "audio/amr" => ("audio/amr", "amr"),
        "video/mp4" => ("video/mp4", "mp4"),
        "video/webm" => ("video/webm", "webm"),
        _ => return None,
    };
    Some((mime, extension))
}

fn with_extension(name: &str, extension: &str) -> String {
    let known =
        ["wav", "mp3", "mpga", "mpeg", "flac", "ogg", "oga", "opus", "m4a", "mp4", "aac", "amr", "webm"];
    let has_one =
        name.rsplit_once('.').is_some_and(|(_, end)| known.contains(&end.to_ascii_lowercase().as_str()));
    if has_one { name.to_owned() } else { format!("{name}.{extension}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An S3 that nobody listens at; these tests read files.
    fn store(root: Option<PathBuf>) -> AudioStore {
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(aws_sdk_s3::config::BehaviorVersion::latest())
            .build();
        let outbound = Outbound::new().expect("a client");
        AudioStore::new(Client::from_conf(config), outbound, AudioSources { root, ..AudioSources::default() })
    }

    async fn open(store: &AudioStore, path: &str) -> Result<(String, &'static str, Vec<u8>), AudioError> {
        let audio = store.open(&path.parse().expect("a path")).await?;
        let parts: Vec<Bytes> = audio.body.try_collect().await.expect("it can be read");
        Ok((audio.name, audio.mime, parts.concat()))
    }

    fn code(result: Result<(String, &'static str, Vec<u8>), AudioError>) -> ErrorCode {
        match result {
            Err(AudioError::Bad(error)) => error.code,
            other => panic!("expected a bad chunk, got {other:?}"),
        }
    }

    #[tokio::test]
    async fn files_are_checked_before_they_are_sent() {
        let root = tempfile::tempdir().expect("a folder");
        let wav = |bytes: usize| [b"RIFF\0\0\0\0WAVEfmt ".as_slice(), &vec![0; bytes]].concat();
        let limit = usize::try_from(MAX_AUDIO_BYTES).expect("5 MB");
        let files: [(&str, Vec<u8>); 6] = [
            ("good.wav", wav(100_000)),
            ("no-extension", wav(100)),
            ("empty.wav", vec![]),
            ("text.wav", b"this is not audio".to_vec()),
            ("big.wav", wav(limit)),
            ("just.wav", wav(limit - 16)),
        ];
        for (name, bytes) in &files {
            std::fs::write(root.path().join(name), bytes).expect("written");
        }
        std::fs::create_dir(root.path().join("folder")).expect("a folder");
        std::os::unix::fs::symlink("/etc/passwd", root.path().join("out.wav")).expect("a link");
        let store = store(Some(root.path().to_owned()));

        let (name, mime, bytes) = open(&store, "good.wav").await.expect("good");
        assert_eq!((name.as_str(), mime), ("good.wav", "audio/wav"));
        assert_eq!(bytes, files[0].1);
        assert_eq!(open(&store, "no-extension").await.expect("good").0, "no-extension.wav");
        assert!(open(&store, "just.wav").await.is_ok());
        assert_eq!(code(open(&store, "empty.wav").await), ErrorCode::AudioEmpty);
        assert_eq!(code(open(&store, "text.wav").await), ErrorCode::AudioUnsupported);
        assert_eq!(code(open(&store, "big.wav").await), ErrorCode::AudioTooLarge);
        assert_eq!(code(open(&store, "absent.wav").await), ErrorCode::AudioNotFound);
        assert_eq!(code(open(&store, "good.wav/x").await), ErrorCode::AudioNotFound);
        assert_eq!(code(open(&store, "folder").await), ErrorCode::AudioUnsupported);
        assert_eq!(code(open(&store, "out.wav").await), ErrorCode::AudioForbidden);
        assert_eq!(code(open(&store, "s3://elsewhere/a.wav").await), ErrorCode::AudioForbidden);
    }

    #[test]
    fn types_go_by_the_first_bytes() {
        assert_eq!(audio_type(b"fLaC\0\0\0\x22").map(|t| t.1), Some("flac"));
        assert_eq!(audio_type(b"OggS\0\x02").map(|t| t.1), Some("ogg"));
        assert_eq!(audio_type(b"ID3\x04\0\0").map(|t| t.1), Some("mp3"));
        assert_eq!(audio_type(b"\xFF\xFB\x90\x64").map(|t| t.1), Some("mp3"));
        assert_eq!(audio_type(b"\xFF\xFA\x90\x64").map(|t| t.1), Some("mp3"));
        assert_eq!(audio_type(b"\xFF\xF1\x50\x80").map(|t| t.1), Some("aac"));
        let webm = [b"\x1A\x45\xDF\xA3\x42\x82\x84webm".as_slice(), &[0; 300]].concat();
        assert_eq!(audio_type(&webm).map(|t| t.1), Some("webm"));
        assert_eq!(audio_type(b"\x89PNG\r\n\x1a\n"), None);
        assert_eq!(audio_type(b"%PDF-1.7"), None);
    }
}
