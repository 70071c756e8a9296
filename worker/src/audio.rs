//! Opens the audio for each call. Size, type and stated length are checked before anything is sent to the model.
//!
//! Remote audio is first spooled to disk. So a slow or broken download never looks like a failure of the model, and only
//! a few kilobytes of each chunk are in memory.

mod chunk;
mod length;
mod opened;
mod spool;
mod web;

use std::io::{self, Seek};
use std::path::PathBuf;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata};
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use longhand_shared::AudioPath;
use longhand_shared::domain::job::ErrorCode;
use longhand_shared::domain::media::{self, Format, MAX_AUDIO_BYTES, MAX_AUDIO_LENGTH, NotAudio};
use longhand_shared::domain::path::{AudioSources, InvalidPath};
use longhand_shared::net::outbound::Outbound;
use tokio::fs::File;
use tokio_util::io::ReaderStream;
use tracing::warn;

pub use chunk::ChunkAudio;
pub use opened::AudioError;
use opened::Opened;

const READ_BYTES: usize = 32 * 1024;

pub struct Audio {
    /// The file's name with an extension of its format, which some models rely on.
    pub name: String,
    /// The media type, detected from the first bytes.
    pub mime: &'static str,
    pub bytes: u64,
    /// The length that the file states.
    pub length: Option<Duration>,
    pub body: BoxStream<'static, io::Result<Bytes>>,
}

#[derive(Clone, Debug)]
pub struct AudioStore {
    s3: Client,
    outbound: Outbound,
    sources: AudioSources,
}

impl AudioStore {
    pub fn new(s3: Client, outbound: Outbound, sources: AudioSources) -> Self {
        Self { s3, outbound, sources }
    }

    /// Opens the audio at `path`.
    pub async fn open(&self, path: &AudioPath) -> Result<Audio, AudioError> {
        let opened = match path {
            AudioPath::S3 { bucket, key } => {
                self.sources.check(path).map_err(|error| not_allowed(path, &error))?;
                self.open_object(bucket, key, encoding_hint(path)).await?
            }
            AudioPath::Web(text) => {
                let url = self.sources.url(text).map_err(|error| not_allowed(path, &error))?;
                web::open(&self.outbound, &url).await?
            }
            AudioPath::Local(relative) => self.open_file(path, relative).await?,
        };
        let shown = path.shown();
        if opened.bytes == 0 {
            return Err(AudioError::bad(ErrorCode::AudioEmpty, format!("{shown} is empty")));
        }
        if opened.bytes > MAX_AUDIO_BYTES {
            let message =
                format!("{shown} has {} bytes, more than the maximum of {MAX_AUDIO_BYTES}", opened.bytes);
            return Err(AudioError::bad(ErrorCode::AudioTooLarge, message));
        }
        let unreadable = |error: io::Error| AudioError::Unavailable(format!("{shown}: {error}"));
        let (format, stated, file) = inspect(opened.file).await.map_err(unreadable)?;
        let format = format
            .map_err(|error| AudioError::bad(ErrorCode::AudioUnsupported, format!("{shown} {error}")))?;
        if let Some(length) = stated.filter(|length| *length > MAX_AUDIO_LENGTH) {
            let (stated, most) = (length.as_secs(), MAX_AUDIO_LENGTH.as_secs());
            let message = format!("{shown} is {stated} s long, more than {most} s; split it into chunks");
            return Err(AudioError::bad(ErrorCode::AudioTooLong, message));
        }
        Ok(Audio {
            name: format.file_name(path.file_name()),
            mime: format.mime(),
            bytes: opened.bytes,
            length: stated,
            body: ReaderStream::with_capacity(file, READ_BYTES).boxed(),
        })
    }

    async fn open_object(&self, bucket: &str, key: &str, hint: &str) -> Result<Opened, AudioError> {
        let object = self.s3.get_object().bucket(bucket).key(key).send().await.map_err(|error| {
            let name = format!("s3://{bucket}/{key}");
            let status = error.raw_response().map(|response| response.status().as_u16());
            match (error.code(), status) {
                (Some("NoSuchKey" | "NoSuchBucket"), _) | (None, Some(404)) => {
                    AudioError::bad(ErrorCode::AudioNotFound, format!("there is no {name}{hint}"))
                }
                (Some("InvalidObjectState"), _) => AudioError::bad(
                    ErrorCode::AudioForbidden,
                    format!("{name} is archived: restore it first"),
                ),
                // Without the permission to list the bucket, S3 returns this for a missing key too.
                (Some("AccessDenied" | "AllAccessDisabled"), _) => AudioError::not_yet(
                    ErrorCode::AudioForbidden,
                    format!("no permission to read {name}{hint}"),
                ),
                // A wrong setting, like a wrong policy. S3 sends 307, not 301, while a bucket is new.
                (Some("PermanentRedirect" | "AuthorizationHeaderMalformed"), _) | (None, Some(301)) => {
                    let region = error.raw_response().and_then(|it| it.headers().get("x-amz-bucket-region"));
                    let region = region.map(|region| format!(" ({region})")).unwrap_or_default();
                    let message = format!("{name} is in another region{region} than this service");
                    AudioError::not_yet(ErrorCode::AudioForbidden, message)
                }
                // Invalid credentials, a wrong clock, or an outage of S3: not caused by the chunk.
                _ => {
                    warn!(error = DisplayErrorContext(&error).to_string(), "cannot read the audio from S3");
                    AudioError::Unavailable(format!("{name} cannot be read at the moment"))
                }
            }
        })?;
        let name = format!("s3://{bucket}/{key}");
        let stated = object.content_length().and_then(|length| u64::try_from(length).ok());
        let body = stream::unfold(object.body, |mut body: ByteStream| async {
            let next = body.try_next().await.map_err(io::Error::other).transpose()?;
            Some((next, body))
        });
        spool::spool(&name, stated, body.boxed()).await
    }

    async fn open_file(&self, path: &AudioPath, relative: &str) -> Result<Opened, AudioError> {
        let failed = |error: io::Error| match error.kind() {
            // No file can have a name of over 255 bytes.
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename => {
                let hint = encoding_hint(path);
                AudioError::bad(
                    ErrorCode::AudioNotFound,
                    format!("there is no {path} under the audio root{hint}"),
                )
            }
            io::ErrorKind::PermissionDenied => {
                AudioError::bad(ErrorCode::AudioForbidden, format!("no permission to read {path}"))
            }
            _ => AudioError::Unavailable(format!("{path}: {error}")),
        };
        let (sources, relative) = (self.sources.clone(), relative.to_owned());
        let real: PathBuf = tokio::task::spawn_blocking(move || sources.resolve(&relative))
            .await
            .map_err(|error| AudioError::Unavailable(error.to_string()))?
            .map_err(|error| not_allowed(path, &error))?;
        let metadata = tokio::fs::metadata(&real).await.map_err(failed)?;
        // Opening a pipe would block.
        if !metadata.is_file() {
            return Err(AudioError::bad(ErrorCode::AudioUnsupported, format!("{path} is not a file")));
        }
        let file = File::open(&real).await.map_err(failed)?;
        Ok(Opened { bytes: metadata.len(), file })
    }
}

/// An addition to the message for a missing path that looks URL-encoded.
fn encoding_hint(path: &AudioPath) -> &'static str {
    if path.looks_url_encoded() {
        "; the path looks URL-encoded, but Longhand does not decode paths: send it decoded"
    } else {
        ""
    }
}

fn not_allowed(path: &AudioPath, error: &InvalidPath) -> AudioError {
    AudioError::bad(ErrorCode::AudioForbidden, format!("{} {error}", path.shown()))
}

/// The format that the content shows, the length that it states, and the file at its beginning.
async fn inspect(file: File) -> io::Result<(Result<Format, NotAudio>, Option<Duration>, File)> {
    let mut file = file.into_std().await;
    tokio::task::spawn_blocking(move || {
        let head = media::read_head(&mut file)?;
        let format = media::detect(&head);
        let stated = if format.is_ok() { length::stated(&file, &head) } else { None };
        file.rewind()?;
        Ok((format, stated, File::from_std(file)))
    })
    .await
    .map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;

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
}
