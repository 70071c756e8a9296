//! Local files into the bucket.

use std::ffi::OsString;
use std::fmt::Display;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_config::timeout::TimeoutConfig;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use futures::{StreamExt, TryStreamExt, stream};
use longhand_shared::AudioPath;
use longhand_shared::id::MAX_CHUNKS;
use longhand_shared::job::InvalidChunkCount;
use uuid::Uuid;

use crate::error::{Exit, Failure, Fault, chain};
use crate::progress;

/// The largest file that the workers take.
const MAX_FILE_BYTES: u64 = 5 * 1024 * 1024;

/// How many files travel at once.
const AT_ONCE: usize = 4;

/// One file, once: 5 MB at 0.5 Mbit/s. A body that stands still is given up long before.
const FILE_TIMEOUT: Duration = Duration::from_secs(90);

/// The longest name kept in a key; what is cut off is its beginning.
const MAX_NAME_CHARS: usize = 100;

/// The audio of a job, looked at and ready to go.
#[derive(Debug)]
pub(crate) struct Audio {
    /// The files as the user named them, for messages.
    pub(crate) names: Vec<String>,
    /// What is submitted, in the same order.
    pub(crate) paths: Vec<String>,
    /// What must be put into the bucket first.
    uploads: Vec<Upload>,
}

#[derive(Debug)]
struct Upload {
    file: PathBuf,
    bucket: String,
    key: String,
}

impl Audio {
    /// Looks at every argument; all that is wrong is told at once.
    pub(crate) fn check(files: &[OsString], bucket: Option<&str>) -> Result<Self, Failure> {
        let folder = Uuid::now_v7();
        let mut audio = Self { names: Vec::new(), paths: Vec::new(), uploads: Vec::new() };
        let mut faults = Vec::new();
        if files.len() > MAX_CHUNKS {
            faults.push(Fault { detail: InvalidChunkCount(files.len()).to_string(), ..Fault::default() });
        }
        for (index, file) in files.iter().enumerate() {
            let name = file.to_string_lossy().into_owned();
            let fault = if name.starts_with("s3://") {
                audio.paths.push(name.clone());
                name.parse::<AudioPath>().err().map(|error| error.to_string())
            } else {
                let file = PathBuf::from(file);
                let fault = look_at(&file).err();
                let bucket = bucket.unwrap_or_default().to_owned();
                let key = format!("uploads/{folder}/{index:02}-{}", safe_name(&file));
                audio.paths.push(format!("s3://{bucket}/{key}"));
                audio.uploads.push(Upload { file, bucket, key });
                fault
            };
            faults.extend(fault.map(|detail| Fault::of_file(&name, detail)));
            audio.names.push(name);
        }
        if !faults.is_empty() {
            let message = "nothing was submitted, since the files are not as they must be";
            return Err(Failure::new(Exit::Refused, "BAD_FILES", message).with_faults(faults));
        }
        if bucket.is_none() && !audio.uploads.is_empty() {
            let message = "no bucket to put local files into: give --bucket or set LONGHAND_AUDIO_BUCKETS";
            return Err(Failure::new(Exit::Refused, "USAGE", message));
        }
        Ok(audio)
    }

    /// Puts the local files into the bucket, a few at a time, streamed from disk.
    pub(crate) async fn upload(&self) -> Result<(), Failure> {
        if self.uploads.is_empty() {
            return Ok(());
        }
        let s3 = s3().await;
        let progress = progress::steps("uploading files", self.uploads.len());
        let puts: Vec<_> = self.uploads.iter().map(|upload| upload.put(&s3)).collect();
        stream::iter(puts)
            .buffer_unordered(AT_ONCE)
            .try_for_each(async |()| {
                progress.inc(1);
                Ok(())
            })
            .await
    }
}

impl Upload {
    async fn put(&self, s3: &aws_sdk_s3::Client) -> Result<(), Failure> {
        let body = ByteStream::from_path(&self.file).await.map_err(|error| {
            let fault = Fault::of_file(self.file.to_string_lossy(), chain(&error));
            Failure::new(Exit::Refused, "BAD_FILES", "a file could not be read").with_faults(vec![fault])
        })?;
        s3.put_object()
            .bucket(&self.bucket)
            .key(&self.key)
            .set_content_type(content_type(&self.file).map(str::to_owned))
            .body(body)
            .send()
            .await
            .map(drop)
            .map_err(|error| not_put(self.file.display(), &self.bucket, &error))
    }
}

/// A client that gives a file its time.
pub(crate) async fn s3() -> aws_sdk_s3::Client {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(3))
        .operation_attempt_timeout(FILE_TIMEOUT)
        .build();
    let config = longhand_shared::aws::load().await.into_builder().timeout_config(timeouts).build();
    longhand_shared::aws::s3(&config)
}

/// Why a file is not in the bucket.
pub(crate) fn not_put<E, R>(file: impl Display, bucket: &str, error: &SdkError<E, R>) -> Failure
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug,
{
    let why = match error.as_service_error().and_then(|said| said.code().zip(said.message())) {
        Some((code, message)) => format!("{code}: {message}"),
        None => chain(error),
    };
    Failure::new(
        Exit::Unavailable,
        "UPLOAD_FAILED",
        format!("nothing was submitted: {file} could not be put into the bucket {bucket}: {why}"),
    )
}

fn look_at(file: &Path) -> Result<(), String> {
    // Before it is opened: opening a pipe would wait for its writer.
    let metadata = fs::metadata(file).map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("is not a file".to_owned());
    }
    match metadata.len() {
        0 => return Err("is empty".to_owned()),
        1..=MAX_FILE_BYTES => {}
        bytes => return Err(format!("has {bytes} bytes, more than the 5 MB ({MAX_FILE_BYTES}) allowed")),
    }
    File::open(file).map(drop).map_err(|error| error.to_string())
}

/// The file's name with nothing in it that a shell, an address or a log could misread.
fn safe_name(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let safe = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let surplus = name.chars().count().saturating_sub(MAX_NAME_CHARS);
    name.chars().skip(surplus).map(safe).collect()
}

/// By extension, for whoever looks at the bucket. The workers go by the first bytes.
fn content_type(file: &Path) -> Option<&'static str> {
    match file.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "wav" => Some("audio/wav"),
        "mp3" => Some("audio/mpeg"),
        "m4a" | "mp4" => Some("audio/mp4"),
        "flac" => Some("audio/flac"),
        "ogg" | "oga" | "opus" => Some("audio/ogg"),
        "webm" => Some("audio/webm"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_safe_and_keep_their_extension() {
        assert_eq!(safe_name(Path::new("/a/b c/día 1 (2).wav")), "d_a_1__2_.wav");
        assert_eq!(safe_name(Path::new("plain-1.0_x.flac")), "plain-1.0_x.flac");
        let long = safe_name(Path::new(&format!("{}.mp3", "x".repeat(300))));
        assert_eq!((long.len(), long.ends_with("x.mp3")), (MAX_NAME_CHARS, true));
    }

    #[test]
    fn s3_paths_pass_as_they_are_and_need_no_bucket() {
        let audio = Audio::check(&["s3://some/a b.wav".into()], None).expect("a good path");
        assert_eq!(audio.paths, ["s3://some/a b.wav"]);
        assert!(audio.uploads.is_empty());
    }
}
