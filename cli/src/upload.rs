//! Uploads local files: to signed addresses from the service, or to a bucket with the user's own credentials.

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Duration;

use aws_config::timeout::TimeoutConfig;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use longhand_shared::domain::id::MAX_CHUNKS;
use longhand_shared::domain::job::InvalidChunkCount;
use longhand_shared::domain::media::{self, Format, MAX_AUDIO_BYTES};
use longhand_shared::domain::upload::{Upload, safe_name};
use longhand_shared::net::backoff::backoff;
use longhand_shared::{AudioPath, UserId};
use reqwest::StatusCode;
use uuid::Uuid;

use crate::bodies::{NewUpload, NewUploads};
use crate::client::Api;
use crate::error::{Exit, Failure, Fault, chain};
use crate::progress;

/// Concurrent uploads.
const AT_ONCE: usize = 4;

/// The time limit of one upload: 5 MB at 0.5 Mbit/s.
const FILE_TIMEOUT: Duration = Duration::from_secs(90);

/// Attempts for each file, as in the AWS SDK.
const TRIES: usize = 3;

/// The pause after the first failed attempt. Doubled after the second.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// The audio of a job, checked and ready to upload.
#[derive(Debug)]
pub(crate) struct Audio {
    /// The files as the user gave them, for messages.
    pub(crate) names: Vec<String>,
    places: Vec<Place>,
}

#[derive(Debug)]
enum Place {
    /// An address that is submitted as it is.
    Remote(String),
    Local(LocalFile),
}

#[derive(Debug)]
struct LocalFile {
    /// The name for messages.
    shown: String,
    content: Content,
    format: Format,
    /// Its name in the bucket: safe characters, with its place in the job as a prefix.
    name: String,
    bytes: u64,
}

#[derive(Debug)]
enum Content {
    File(PathBuf),
    Stdin(Bytes),
}

/// Stdin on the command line.
const STDIN: &str = "-";

/// Whether an argument is a local file and not an address.
pub(crate) fn is_local(name: &str) -> bool {
    !["s3://", "https://", "http://"].iter().any(|scheme| name.starts_with(scheme))
}

impl Audio {
    /// Checks every argument and reports all faults at once.
    pub(crate) fn check(files: &[OsString]) -> Result<Self, Failure> {
        let mut audio = Self { names: Vec::new(), places: Vec::new() };
        let mut faults = Vec::new();
        if files.len() > MAX_CHUNKS {
            faults.push(Fault { detail: InvalidChunkCount(files.len()).to_string(), ..Fault::default() });
        }
        let mut reads_stdin = false;
        for (index, file) in files.iter().enumerate() {
            let name = file.to_string_lossy().into_owned();
            let place = if name == STDIN {
                let again = std::mem::replace(&mut reads_stdin, true);
                if again { Err("is given more than once".to_owned()) } else { stdin(index).map(Place::Local) }
            } else if is_local(&name) {
                check_file(index, file).map(Place::Local)
            } else {
                let path = name.parse::<AudioPath>();
                path.map(|_| Place::Remote(name.clone())).map_err(|error| error.to_string())
            };
            match place {
                Ok(place) => audio.places.push(place),
                Err(detail) => faults.push(Fault::of_file(&name, detail)),
            }
            audio.names.push(if name == STDIN { "stdin".to_owned() } else { name });
        }
        if !faults.is_empty() {
            let message = "nothing was submitted. Problems with these files:";
            return Err(Failure::new(Exit::Refused, "BAD_FILES", message).with_faults(faults));
        }
        Ok(audio)
    }

    /// Uploads the local files and returns the paths to submit. Without a `bucket` the service provides the addresses.
    pub(crate) async fn upload(
        &self,
        api: &Api,
        user: Option<&UserId>,
        bucket: Option<&str>,
    ) -> Result<Vec<String>, Failure> {
        let files = self.places.iter().filter_map(|place| match place {
            Place::Local(file) => Some(file),
            Place::Remote(_) => None,
        });
        let files: Vec<&LocalFile> = files.collect();
        let put = match bucket {
            _ if files.is_empty() => Vec::new(),
            Some(bucket) => to_bucket(&files, bucket).await?,
            None => to_service(&files, api, user).await?,
        };
        let mut put = put.into_iter();
        let paths = self.places.iter().map(|place| match place {
            Place::Remote(path) => path.clone(),
            Place::Local(_) => put.next().expect("each local file was uploaded"),
        });
        Ok(paths.collect())
    }
}

/// Uploads to signed addresses from the service.
async fn to_service(files: &[&LocalFile], api: &Api, user: Option<&UserId>) -> Result<Vec<String>, Failure> {
    let new = |file: &&LocalFile| NewUpload {
        name: file.name.clone(),
        content_type: file.format.mime(),
        bytes: file.bytes,
    };
    let signed = api.uploads(&NewUploads { user_id: user, files: files.iter().map(new).collect() }).await;
    let signed = signed.map_err(|mut failure| {
        failure.message = format!("nothing was submitted: {}", failure.message);
        let names: Vec<_> = files.iter().map(|file| file.shown.clone()).collect();
        failure.with_file_names("files", &names)
    })?;
    let uploads = signed.uploads;
    if uploads.len() != files.len() {
        let message = format!("the service gave {} addresses for {} files", uploads.len(), files.len());
        return Err(Failure::protocol(message));
    }
    all(files.iter().zip(&uploads).map(|(file, upload)| file.send(api, upload)).collect(), AT_ONCE).await?;
    Ok(uploads.into_iter().map(|upload| upload.audio_chunk_path).collect())
}

/// Uploads into a bucket with the user's own credentials.
async fn to_bucket(files: &[&LocalFile], bucket: &str) -> Result<Vec<String>, Failure> {
    let s3 = s3().await;
    let folder = Uuid::now_v7();
    let key = |file: &&LocalFile| format!("uploads/{folder}/{}", file.name);
    let keys: Vec<String> = files.iter().map(key).collect();
    all(files.iter().zip(&keys).map(|(file, key)| file.put(&s3, bucket, key)).collect(), AT_ONCE).await?;
    Ok(keys.iter().map(|key| format!("s3://{bucket}/{key}")).collect())
}

/// Runs uploads, at most `at_once` at the same time, with a progress bar.
pub(crate) async fn all(
    puts: Vec<impl Future<Output = Result<(), Failure>>>,
    at_once: usize,
) -> Result<(), Failure> {
    let progress = progress::steps("uploading files", puts.len());
    stream::iter(puts)
        .buffer_unordered(at_once)
        .try_for_each(async |()| {
            progress.inc(1);
            Ok(())
        })
        .await
}

impl LocalFile {
    async fn read(&self) -> Result<Bytes, Failure> {
        match &self.content {
            Content::File(path) => {
                Ok(tokio::fs::read(path).await.map_err(|error| self.unreadable(&error))?.into())
            }
            Content::Stdin(bytes) => Ok(bytes.clone()),
        }
    }

    async fn send(&self, api: &Api, upload: &Upload) -> Result<(), Failure> {
        let mut pauses = backoff(FIRST_PAUSE, FIRST_PAUSE * 32).take(TRIES - 1);
        loop {
            let bytes = self.read().await?;
            let (why, retryable) = match api.put(upload, bytes, FILE_TIMEOUT).await {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                Ok(answer) => {
                    let status = answer.status();
                    let body = answer.text().await.unwrap_or_default();
                    let retryable = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
                    (format!("S3 answered {status} {}", code(&body)), retryable)
                }
                Err(error) => (chain(&error.without_url()), true),
            };
            let Some(pause) = pauses.next().filter(|_| retryable) else {
                let file = &self.shown;
                let message = format!("nothing was submitted: {file} could not be uploaded: {why}");
                return Err(Failure::new(Exit::Unavailable, "UPLOAD_FAILED", message));
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn put(&self, s3: &aws_sdk_s3::Client, bucket: &str, key: &str) -> Result<(), Failure> {
        let body = ByteStream::from(self.read().await?);
        let put = s3.put_object().bucket(bucket).key(key).content_type(self.format.mime()).body(body);
        put.send().await.map(drop).map_err(|error| not_put(&self.shown, bucket, &error))
    }

    fn unreadable(&self, error: &dyn std::error::Error) -> Failure {
        let fault = Fault::of_file(&self.shown, chain(error));
        Failure::new(Exit::Refused, "BAD_FILES", "a file could not be read").with_faults(vec![fault])
    }
}

/// The error code in S3's XML.
fn code(body: &str) -> &str {
    let code = body.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
    code.map_or("", |(code, _)| code)
}

/// An S3 client with timeouts for uploads.
pub(crate) async fn s3() -> aws_sdk_s3::Client {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(3))
        .operation_attempt_timeout(FILE_TIMEOUT)
        .build();
    let config = longhand_shared::service::aws::load().await.into_builder().timeout_config(timeouts).build();
    longhand_shared::service::aws::s3(&config)
}

pub(crate) fn not_put<E, R>(file: impl Display, bucket: &str, error: &SdkError<E, R>) -> Failure
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug,
{
    let why = match error.as_service_error().and_then(|error| error.code().zip(error.message())) {
        Some((code, message)) => format!("{code}: {message}"),
        None => chain(error),
    };
    Failure::new(
        Exit::Unavailable,
        "UPLOAD_FAILED",
        format!("nothing was submitted: {file} could not be uploaded into the bucket {bucket}: {why}"),
    )
}

fn check_file(index: usize, file: &OsStr) -> Result<LocalFile, String> {
    let path = PathBuf::from(file);
    // Before `open`, which would block on a pipe until it has a writer.
    let metadata = fs::metadata(&path).map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("is not a file".to_owned());
    }
    let bytes = metadata.len();
    check_size(bytes)?;
    let opened = File::open(&path).and_then(|mut file| media::read_head(&mut file));
    let head = opened.map_err(|error| error.to_string())?;
    let format = media::detect(&head).map_err(|error| error.to_string())?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = format!("{index:02}-{}", safe_name(&name));
    Ok(LocalFile {
        shown: file.to_string_lossy().into_owned(),
        content: Content::File(path),
        format,
        name,
        bytes,
    })
}

/// Reads all of stdin.
fn stdin(index: usize) -> Result<LocalFile, String> {
    let mut content = Vec::new();
    let read = io::stdin().lock().take(MAX_AUDIO_BYTES + 1).read_to_end(&mut content);
    let bytes = read.map_err(|error| error.to_string())? as u64;
    if bytes > MAX_AUDIO_BYTES {
        return Err(format!("has more than the 5 MB ({MAX_AUDIO_BYTES} bytes) allowed"));
    }
    check_size(bytes)?;
    let head = media::read_head(&mut content.as_slice()).unwrap_or_default();
    let format = media::detect(&head).map_err(|error| error.to_string())?;
    let name = format!("{index:02}-{}", format.file_name("stdin"));
    Ok(LocalFile { shown: "stdin".to_owned(), content: Content::Stdin(content.into()), format, name, bytes })
}

fn check_size(bytes: u64) -> Result<(), String> {
    match bytes {
        0 => Err("is empty".to_owned()),
        1..=MAX_AUDIO_BYTES => Ok(()),
        bytes => Err(format!("has {bytes} bytes, more than the 5 MB ({MAX_AUDIO_BYTES}) allowed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_submitted_unchanged() {
        let files = ["s3://some/a b.wav".into(), "https://good.example/a.wav?sig=x%20y".into()];
        let audio = Audio::check(&files).expect("good paths");
        assert!(audio.places.iter().all(|place| matches!(place, Place::Remote(_))), "{audio:?}");
        assert_eq!(audio.names, ["s3://some/a b.wav", "https://good.example/a.wav?sig=x%20y"]);
        assert!(Audio::check(&["https://user:word@good.example/a.wav".into()]).is_err());
    }
}
