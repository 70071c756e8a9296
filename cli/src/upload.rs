//! Uploads files: to signed addresses from the service, or to a bucket with the user's own credentials.

use std::fmt::Display;
use std::time::Duration;

use aws_config::timeout::TimeoutConfig;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use futures::{StreamExt, TryStreamExt, stream};
use longhand_shared::UserId;
use longhand_shared::domain::upload::{Upload, folder, safe_name};
use longhand_shared::net::backoff::backoff;
use reqwest::StatusCode;
use uuid::Uuid;

use crate::audio::{Content, LocalFile};
use crate::bodies::{NewUpload, NewUploads};
use crate::client::Api;
use crate::error::{Exit, Failure, chain};
use crate::progress;

/// Concurrent uploads.
const AT_ONCE: usize = 4;

/// The time limit of one upload: 5 MB at 0.5 Mbit/s.
const FILE_TIMEOUT: Duration = Duration::from_secs(90);

/// Attempts for each file, as in the AWS SDK.
const TRIES: usize = 3;

/// The pause after the first failed attempt. Doubled after the second.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// A file with the number of its chunk in the job.
pub(crate) type Numbered = (usize, LocalFile);

/// Uploads files and returns their paths. Without a `bucket` the service provides the addresses.
pub(crate) async fn upload(
    files: &[Numbered],
    api: &Api,
    user: Option<&UserId>,
    bucket: Option<&str>,
) -> Result<Vec<String>, Failure> {
    match bucket {
        _ if files.is_empty() => Ok(Vec::new()),
        Some(bucket) => to_bucket(files, bucket, user).await,
        None => to_service(files, api, user).await,
    }
}

/// A file's name in the bucket: safe characters, with its place in the job as a prefix.
fn key_name((index, file): &Numbered) -> String {
    let name = match &file.content {
        Content::File(path) => path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        Content::Memory(_) => file.format.file_name(&file.shown),
    };
    format!("{index:02}-{}", safe_name(&name))
}

/// Uploads to signed addresses from the service.
async fn to_service(files: &[Numbered], api: &Api, user: Option<&UserId>) -> Result<Vec<String>, Failure> {
    let new = |file: &Numbered| NewUpload {
        name: key_name(file),
        content_type: file.1.format.mime(),
        bytes: file.1.bytes,
    };
    let signed = api.uploads(&NewUploads { user_id: user, files: files.iter().map(new).collect() }).await;
    let signed = signed.map_err(|mut failure| {
        failure.message = format!("nothing was submitted: {}", failure.message);
        let names: Vec<_> = files.iter().map(|(_, file)| file.shown.clone()).collect();
        failure.with_file_names("files", &names)
    })?;
    let uploads = signed.uploads;
    if uploads.len() != files.len() {
        let message = format!("the service returned {} upload URLs for {} files", uploads.len(), files.len());
        return Err(Failure::protocol(message));
    }
    all(files.iter().zip(&uploads).map(|((_, file), upload)| send(file, api, upload)).collect(), AT_ONCE)
        .await?;
    Ok(uploads.into_iter().map(|upload| upload.audio_chunk_path).collect())
}

/// Uploads into a bucket with the user's own credentials. A job may have only its user's uploads, so the recordings of
/// an unknown user have another folder.
async fn to_bucket(files: &[Numbered], bucket: &str, user: Option<&UserId>) -> Result<Vec<String>, Failure> {
    let s3 = s3().await;
    let (folder, upload) = (user.map_or_else(|| "recordings".to_owned(), folder), Uuid::now_v7());
    let key = |file: &Numbered| format!("{folder}/{upload}/{}", key_name(file));
    let keys: Vec<String> = files.iter().map(key).collect();
    all(files.iter().zip(&keys).map(|((_, file), key)| put(file, &s3, bucket, key)).collect(), AT_ONCE)
        .await?;
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

async fn send(file: &LocalFile, api: &Api, upload: &Upload) -> Result<(), Failure> {
    let mut pauses = backoff(FIRST_PAUSE, FIRST_PAUSE * 32).take(TRIES - 1);
    loop {
        let bytes = file.read().await?;
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
            let name = &file.shown;
            let message = format!("nothing was submitted: {name} could not be uploaded: {why}");
            return Err(Failure::new(Exit::Unavailable, "UPLOAD_FAILED", message));
        };
        tokio::time::sleep(pause).await;
    }
}

async fn put(file: &LocalFile, s3: &aws_sdk_s3::Client, bucket: &str, key: &str) -> Result<(), Failure> {
    let body = ByteStream::from(file.read().await?);
    let put = s3.put_object().bucket(bucket).key(key).content_type(file.format.mime()).body(body);
    put.send().await.map(drop).map_err(|error| not_put(&file.shown, bucket, &error))
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
