//! Local files into the bucket: to addresses that the service gives, or with the user's own credentials.

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::fs::{self, File};
use std::path::PathBuf;
use std::time::Duration;

use aws_config::timeout::TimeoutConfig;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use futures::{StreamExt, TryStreamExt, stream};
use longhand_shared::id::MAX_CHUNKS;
use longhand_shared::job::InvalidChunkCount;
use longhand_shared::media::{MAX_AUDIO_BYTES, type_of_extension};
use longhand_shared::upload::{Upload, safe_name};
use longhand_shared::{AudioPath, UserId};
use reqwest::StatusCode;
use uuid::Uuid;

use crate::client::{Api, NewUpload, NewUploads};
use crate::error::{Exit, Failure, Fault, chain};
use crate::progress;

/// How many files travel at once.
const AT_ONCE: usize = 4;

/// One file, once: 5 MB at 0.5 Mbit/s. A body that stands still is given up long before.
const FILE_TIMEOUT: Duration = Duration::from_secs(90);

/// How often a file is sent before it is given up, as the AWS SDK does.
const TRIES: u32 = 3;

/// After a first try that failed; doubled after the next.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// The audio of a job, looked at and ready to go.
#[derive(Debug)]
pub(crate) struct Audio {
    /// The files as the user named them, for messages.
    pub(crate) names: Vec<String>,
    places: Vec<Place>,
}

#[derive(Debug)]
enum Place {
    /// Where the service finds it.
    There(String),
    /// On this machine.
    Here(LocalFile),
}

#[derive(Debug)]
struct LocalFile {
    path: PathBuf,
    /// Its name in the bucket: safe, and telling its place in the job.
    name: String,
    bytes: u64,
}

impl Audio {
    /// Looks at every argument; all that is wrong is told at once.
    pub(crate) fn check(files: &[OsString]) -> Result<Self, Failure> {
        let mut audio = Self { names: Vec::new(), places: Vec::new() };
        let mut faults = Vec::new();
        if files.len() > MAX_CHUNKS {
            faults.push(Fault { detail: InvalidChunkCount(files.len()).to_string(), ..Fault::default() });
        }
        for (index, file) in files.iter().enumerate() {
            let name = file.to_string_lossy().into_owned();
            let place = if ["s3://", "https://", "http://"].iter().any(|scheme| name.starts_with(scheme)) {
                let path = name.parse::<AudioPath>();
                path.map(|_| Place::There(name.clone())).map_err(|error| error.to_string())
            } else {
                look_at(index, file).map(Place::Here)
            };
            match place {
                Ok(place) => audio.places.push(place),
                Err(detail) => faults.push(Fault::of_file(&name, detail)),
            }
            audio.names.push(name);
        }
        if !faults.is_empty() {
            let message = "nothing was submitted, since the files are not as they must be";
            return Err(Failure::new(Exit::Refused, "BAD_FILES", message).with_faults(faults));
        }
        Ok(audio)
    }

    /// Puts the local files into the bucket, a few at a time; gives what is to be submitted. Without a `bucket` of the
    /// user's own the service says where to.
    pub(crate) async fn upload(
        &self,
        api: &Api,
        user: &UserId,
        bucket: Option<&str>,
    ) -> Result<Vec<String>, Failure> {
        let files = self.places.iter().filter_map(|place| match place {
            Place::Here(file) => Some(file),
            Place::There(_) => None,
        });
        let files: Vec<&LocalFile> = files.collect();
        let put = match bucket {
            _ if files.is_empty() => Vec::new(),
            Some(bucket) => to_bucket(&files, bucket).await?,
            None => to_service(&files, api, user).await?,
        };
        let mut put = put.into_iter();
        let paths = self.places.iter().map(|place| match place {
            Place::There(path) => path.clone(),
            Place::Here(_) => put.next().expect("each file that is here was put into the bucket"),
        });
        Ok(paths.collect())
    }
}

/// Asks the service for an address for each file, and sends them there.
async fn to_service(files: &[&LocalFile], api: &Api, user: &UserId) -> Result<Vec<String>, Failure> {
    let new = |file: &&LocalFile| NewUpload {
        name: file.name.clone(),
        content_type: file.content_type(),
        bytes: file.bytes,
    };
    let signed = api.uploads(&NewUploads { user_id: user, files: files.iter().map(new).collect() }).await;
    let signed = signed.map_err(|mut failure| {
        failure.message = format!("nothing was submitted: {}", failure.message);
        let names: Vec<_> = files.iter().map(|file| file.path.to_string_lossy().into_owned()).collect();
        failure.naming("files", &names)
    })?;
    let uploads = signed.uploads;
    if uploads.len() != files.len() {
        let message = format!("the service gave {} addresses for {} files", uploads.len(), files.len());
        return Err(Failure::new(Exit::Unavailable, "PROTOCOL", message));
    }
    all(files.iter().zip(&uploads).map(|(file, upload)| file.send(api, upload)).collect()).await?;
    Ok(uploads.into_iter().map(|upload| upload.audio_chunk_path).collect())
}

/// Puts the files into a bucket with the user's own credentials.
async fn to_bucket(files: &[&LocalFile], bucket: &str) -> Result<Vec<String>, Failure> {
    let s3 = s3().await;
    let folder = Uuid::now_v7();
    let key = |file: &&LocalFile| format!("uploads/{folder}/{}", file.name);
    let keys: Vec<String> = files.iter().map(key).collect();
    all(files.iter().zip(&keys).map(|(file, key)| file.put(&s3, bucket, key)).collect()).await?;
    Ok(keys.iter().map(|key| format!("s3://{bucket}/{key}")).collect())
}

/// A few at a time, with a bar.
async fn all(puts: Vec<impl Future<Output = Result<(), Failure>>>) -> Result<(), Failure> {
    let progress = progress::steps("uploading files", puts.len());
    stream::iter(puts)
        .buffer_unordered(AT_ONCE)
        .try_for_each(async |()| {
            progress.inc(1);
            Ok(())
        })
        .await
}

impl LocalFile {
    fn content_type(&self) -> &'static str {
        let extension = self.path.extension().and_then(|extension| extension.to_str());
        type_of_extension(extension.unwrap_or_default())
    }

    async fn send(&self, api: &Api, upload: &Upload) -> Result<(), Failure> {
        let mut pause = FIRST_PAUSE;
        for turn in 1.. {
            let bytes = tokio::fs::read(&self.path).await.map_err(|error| self.unreadable(&error))?;
            let (why, passing) = match api.put(upload, bytes, FILE_TIMEOUT).await {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                Ok(answer) => {
                    let status = answer.status();
                    let said = answer.text().await.unwrap_or_default();
                    let passing = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
                    (format!("S3 answered {status} {}", code(&said)), passing)
                }
                Err(error) => (chain(&error.without_url()), true),
            };
            if !passing || turn == TRIES {
                let file = self.path.display();
                let message = format!("nothing was submitted: {file} could not be uploaded: {why}");
                return Err(Failure::new(Exit::Unavailable, "UPLOAD_FAILED", message));
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Ok(())
    }

    async fn put(&self, s3: &aws_sdk_s3::Client, bucket: &str, key: &str) -> Result<(), Failure> {
        let body = ByteStream::from_path(&self.path).await.map_err(|error| self.unreadable(&error))?;
        let put = s3.put_object().bucket(bucket).key(key).content_type(self.content_type()).body(body);
        put.send().await.map(drop).map_err(|error| not_put(self.path.display(), bucket, &error))
    }

    fn unreadable(&self, error: &dyn std::error::Error) -> Failure {
        let fault = Fault::of_file(self.path.to_string_lossy(), chain(error));
        Failure::new(Exit::Refused, "BAD_FILES", "a file could not be read").with_faults(vec![fault])
    }
}

/// What S3 calls an error, from the XML it says it in.
fn code(said: &str) -> &str {
    let code = said.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
    code.map_or("", |(code, _)| code)
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

fn look_at(index: usize, file: &OsStr) -> Result<LocalFile, String> {
    let path = PathBuf::from(file);
    // Before it is opened: opening a pipe would wait for its writer.
    let metadata = fs::metadata(&path).map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("is not a file".to_owned());
    }
    match metadata.len() {
        0 => return Err("is empty".to_owned()),
        1..=MAX_AUDIO_BYTES => {}
        bytes => return Err(format!("has {bytes} bytes, more than the 5 MB ({MAX_AUDIO_BYTES}) allowed")),
    }
    File::open(&path).map_err(|error| error.to_string())?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(LocalFile { name: format!("{index:02}-{}", safe_name(&name)), bytes: metadata.len(), path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_elsewhere_passes_as_it_is() {
        let files = ["s3://some/a b.wav".into(), "https://good.example/a.wav?sig=x%20y".into()];
        let audio = Audio::check(&files).expect("good paths");
        assert!(audio.places.iter().all(|place| matches!(place, Place::There(_))), "{audio:?}");
        assert_eq!(audio.names, ["s3://some/a b.wav", "https://good.example/a.wav?sig=x%20y"]);
        assert!(Audio::check(&["https://user:word@good.example/a.wav".into()]).is_err());
    }
}
