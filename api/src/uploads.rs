//! `POST /uploads`: signed addresses to upload audio to the bucket, for clients without an AWS account.

use aws_sdk_s3::Client;
use aws_sdk_s3::error::DisplayErrorContext;
use axum::Json;
use axum::extract::{Request, State};
use futures::future::try_join_all;
use longhand_shared::domain::media::{MAX_AUDIO_BYTES, announced};
use longhand_shared::domain::path::AudioSources;
use longhand_shared::domain::upload::{Upload, Uploads, folder, safe_name};
use longhand_shared::{AudioPath, Timestamp, UserId};
use serde_json::Value;
use uuid::Uuid;

use crate::auth::caller::Caller;
use crate::body;
use crate::error::ApiError;
use crate::error_codes::Code;
use crate::input::{Fields, kind};
use crate::openapi::examples;
use crate::openapi::problems::{AUTHENTICATED, COMMON, JSON_BODY, problems};
use crate::signer::Signing;
use crate::state::App;

/// The longest name of a file, in characters.
const MAX_NAME_CHARS: usize = 255;

struct File {
    name: String,
    content_type: String,
    bytes: i64,
}

problems!(Problems: COMMON, AUTHENTICATED, JSON_BODY, &[
    Code::Forbidden,
    Code::NoUploads,
    Code::RateLimited,
    Code::UploadsUnavailable,
]);

/// Get upload URLs
///
/// Upload each file with the `method`, `url` and `headers` of its entry, then submit its `audioChunkPath`.
#[utoipa::path(
    post,
    path = "/uploads",
    tag = "Uploads",
    operation_id = "createUploads",
    request_body(
        content = ref("#/components/schemas/NewUploads"),
        content_type = "application/json",
        examples(("example" = (value = json!(examples::new_uploads())))),
    ),
    responses(
        (
            status = 200,
            description = "One entry for each file, in their order. A URL is valid until `expiresTime`, at most 15 minutes, and is a secret until then.",
            body = Uploads,
            examples(("example" = (value = json!(examples::uploads())))),
        ),
        Problems,
    ),
)]
pub(crate) async fn create(
    State(app): State<App>,
    caller: Caller,
    request: Request,
) -> Result<Json<Uploads>, ApiError> {
    let mut fields = Fields::of_body(body::json(request).await?)?;
    let user = caller.user(&mut fields)?;
    let files = files(&mut fields);
    let (user, files) = fields.finish(user.zip(files))?;
    app.limits.rate(&user).await?;
    let bucket = app.sources.buckets.first().ok_or(ApiError::NoUploads)?;
    let signing = app.upload_signer.begin().await?;
    let mut uploads = Vec::with_capacity(files.len());
    for file in files {
        uploads.push(sign(&signing, bucket, &user, file).await?);
    }
    Ok(Json(Uploads { uploads }))
}

/// Deletes those of the paths that the user uploaded. Other audio is not ours to delete.
pub(crate) async fn delete(
    s3: &Client,
    sources: &AudioSources,
    user: &UserId,
    paths: impl Iterator<Item = AudioPath>,
) -> Result<(), ApiError> {
    let (ours, folder) = (sources.buckets.first(), format!("{}/", folder(user)));
    let deletes = paths.filter_map(|path| match path {
        AudioPath::S3 { bucket, key } if Some(&bucket) == ours && key.starts_with(&folder) => {
            // S3 does not fail for an object that does not exist.
            Some(s3.delete_object().bucket(bucket).key(key).send())
        }
        _ => None,
    });
    let failed = |error| ApiError::CannotDelete { cause: DisplayErrorContext(&error).to_string() };
    try_join_all(deletes).await.map_err(failed)?;
    Ok(())
}

/// Size and type are signed headers: S3 refuses a file with others.
async fn sign(signing: &Signing, bucket: &str, user: &UserId, file: File) -> Result<Upload, ApiError> {
    let key = format!("{}/{}/{}", folder(user), Uuid::now_v7(), file.name);
    let expires_time = Timestamp::now().plus(signing.presigning.expires());
    let put = signing.s3.put_object().bucket(bucket).key(&key);
    let put = put.content_type(file.content_type).content_length(file.bytes);
    let signed = put
        .presigned(signing.presigning.clone())
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

fn files(fields: &mut Fields) -> Option<Vec<File>> {
    const FIELD: &str = "files";
    let entries = fields.for_chunks(FIELD, "objects")?.into_iter().enumerate();
    Some(entries.filter_map(|(index, entry)| fields.entry(FIELD, index, entry, file)).collect())
}

fn file(fields: &mut Fields) -> Option<File> {
    let name = fields.parsed("name", file_name);
    let content_type = fields.optional_text::<String>("contentType").unwrap_or_default();
    let (content_type, extension) = announced(&content_type);
    let bytes = fields.required("bytes");
    let bytes = bytes.and_then(|value| fields.check("bytes", size(&value)));
    let name = name.unwrap_or_else(|| format!("audio.{extension}"));
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
            // `5.0` is a whole number too: JSON has one kind of number, and some languages write it so.
            let whole =
                number.as_f64().filter(|bytes| bytes.fract() == 0.0).map(|bytes| format!("{bytes:.0}"));
            let bytes = whole.and_then(|bytes| bytes.parse().ok());
            let bytes = bytes.filter(|bytes| (1..=MAX_AUDIO_BYTES.cast_signed()).contains(bytes));
            bytes.ok_or_else(|| format!("must be a whole number from 1 to {MAX_AUDIO_BYTES}, is {number}"))
        }
        other => Err(format!("must be a number, is {}", kind(other))),
    }
}
