//! `POST /uploads`: addresses that put audio into the bucket, for clients without an account at AWS.

use std::time::Duration;

use aws_sdk_s3::error::DisplayErrorContext;
use aws_sdk_s3::presigning::PresigningConfig;
use axum::Json;
use axum::extract::{Request, State};
use futures::future::try_join_all;
use longhand_shared::id::MAX_CHUNKS;
use longhand_shared::job::InvalidChunkCount;
use longhand_shared::media::{MAX_AUDIO_BYTES, known_type};
use longhand_shared::path::AudioSources;
use longhand_shared::upload::{Upload, Uploads, folder, safe_name};
use longhand_shared::{AudioPath, Timestamp, UserId};
use serde_json::Value;
use uuid::Uuid;

use crate::auth::Caller;
use crate::error::ApiError;
use crate::input::{Fields, kind};
use crate::{AppState, body};

/// How long an upload may begin.
const LIFETIME: Duration = Duration::from_mins(15);

/// The longest name of a file that is taken, in characters.
const MAX_NAME_CHARS: usize = 255;

/// A file that is going to be uploaded.
struct File {
    name: String,
    content_type: &'static str,
    bytes: i64,
}

/// Signs one address for each file. Nothing is made yet: what is never uploaded leaves nothing behind.
pub(crate) async fn create(
    State(app): State<AppState>,
    caller: Caller,
    request: Request,
) -> Result<Json<Uploads>, ApiError> {
    let fields = Fields::of_body(body::json(request).await?)?;
    let (user, files) = new_uploads(fields, &caller)?;
    app.limits.rate(&user)?;
    let bucket = app.sources.buckets.first().ok_or(ApiError::NoUploads)?;
    let mut uploads = Vec::with_capacity(files.len());
    for file in files {
        uploads.push(sign(&app.s3, bucket, &user, file).await?);
    }
    Ok(Json(Uploads { uploads }))
}

/// Deletes what the user has uploaded, of these paths. Others' audio, and what came here in another way, is
/// not ours to delete.
pub(crate) async fn delete(
    s3: &aws_sdk_s3::Client,
    sources: &AudioSources,
    user: &UserId,
    paths: impl Iterator<Item = AudioPath>,
) -> Result<(), ApiError> {
    let (ours, folder) = (sources.buckets.first(), format!("{}/", folder(user)));
    let deletes = paths.filter_map(|path| match path {
        AudioPath::S3 { bucket, key } if Some(&bucket) == ours && key.starts_with(&folder) => {
            // What is not there is as good as deleted, to S3 too.
            Some(s3.delete_object().bucket(bucket).key(key).send())
        }
        _ => None,
    });
    let failed = |error| ApiError::CannotDelete { cause: DisplayErrorContext(&error).to_string() };
    try_join_all(deletes).await.map_err(failed)?;
    Ok(())
}

/// Signed headers are part of the address: S3 takes the file with this size and this type, or not at all.
async fn sign(s3: &aws_sdk_s3::Client, bucket: &str, user: &UserId, file: File) -> Result<Upload, ApiError> {
    let key = format!("{}/{}/{}", folder(user), Uuid::now_v7(), file.name);
    let expires_time = Timestamp::now().plus(LIFETIME);
    let lifetime = PresigningConfig::expires_in(LIFETIME)
        .map_err(|error| ApiError::Internal { cause: error.to_string() })?;
    let put = s3.put_object().bucket(bucket).key(&key);
    let put = put.content_type(file.content_type).content_length(file.bytes);
    let signed = put
        .presigned(lifetime)
        .await
        .map_err(|error| ApiError::CannotSign { cause: DisplayErrorContext(&error).to_string() })?;
    let headers = signed.headers().map(|(name, value)| (name.to_owned(), value.to_owned()));
    Ok(Upload {
        audio_chunk_path: format!("s3://{bucket}/{key}"),
        url: signed.uri().to_owned(),
        method: signed.method().to_owned(),
        headers: headers.collect(),
        expires_time,
    })
}

fn new_uploads(mut fields: Fields, caller: &Caller) -> Result<(UserId, Vec<File>), ApiError> {
    let user = caller.user(&mut fields)?;
    let files = files(&mut fields);
    fields.finish(user.zip(files))
}

fn files(fields: &mut Fields) -> Option<Vec<File>> {
    const FIELD: &str = "files";
    let entries = match fields.required(FIELD)? {
        Value::Array(entries) => entries,
        other => {
            fields.fault(FIELD, format_args!("must be an array of objects, is {}", kind(&other)));
            return None;
        }
    };
    if !(1..=MAX_CHUNKS).contains(&entries.len()) {
        fields.fault(FIELD, InvalidChunkCount(entries.len()));
    }
    // Those that are too many are not looked at: they have their fault.
    let entries = entries.into_iter().take(MAX_CHUNKS).enumerate();
    Some(entries.filter_map(|(index, entry)| fields.entry(FIELD, index, entry, file)).collect())
}

fn file(fields: &mut Fields) -> Option<File> {
    let name = fields.optional_text::<String>("name").map(|name| file_name(&name));
    let name = name.map(|name| fields.check("name", name));
    let content_type = fields.required_text::<String>("contentType");
    let content_type = content_type.and_then(|text| {
        let known = known_type(&text).ok_or(
            "is not a type of audio that is known here: expected one like audio/wav, audio/mpeg or audio/webm",
        );
        fields.check("contentType", known)
    });
    let bytes = fields.required("bytes");
    let bytes = bytes.and_then(|value| fields.check("bytes", size(&value)));
    let (content_type, extension) = content_type?;
    let name = name.unwrap_or_else(|| Some(format!("audio.{extension}")))?;
    Some(File { name, content_type, bytes: bytes? })
}

fn file_name(name: &str) -> Result<String, String> {
    match name.chars().count() {
        1..=MAX_NAME_CHARS => Ok(safe_name(name)),
        count => Err(format!("must have 1 to {MAX_NAME_CHARS} characters, has {count}")),
    }
}

fn size(value: &Value) -> Result<i64, String> {
    match value {
        Value::Number(number) => {
            // `5.0` is a whole number too: JSON knows one kind, and some languages write it so.
            let whole =
                number.as_f64().filter(|bytes| bytes.fract() == 0.0).map(|bytes| format!("{bytes:.0}"));
            let bytes = whole.and_then(|bytes| bytes.parse().ok());
            let bytes = bytes.filter(|bytes| (1..=MAX_AUDIO_BYTES.cast_signed()).contains(bytes));
            bytes.ok_or_else(|| format!("must be a whole number from 1 to {MAX_AUDIO_BYTES}, is {number}"))
        }
        other => Err(format!("must be a number, is {}", kind(other))),
    }
}
