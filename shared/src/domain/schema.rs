//! `OpenAPI` schemas of ids, timestamps and paths. These types have hand-written parsers, so their schemas are
//! hand-written too. They use the parsers' limits.

use utoipa::openapi::schema::{ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::domain::clock::Timestamp;
use crate::domain::id::{ChunkIndex, JobId, MAX_CHUNKS, MAX_USER_ID_BYTES, UserId};
use crate::domain::path::AudioPath;

fn text(description: &str) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).description(Some(description))
}

impl ToSchema for JobId {}

impl PartialSchema for JobId {
    fn schema() -> RefOr<Schema> {
        text("A job's id.")
            .format(Some(SchemaFormat::Custom("uuid".to_owned())))
            .pattern(Some("^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"))
            .into()
    }
}

impl ToSchema for UserId {}

impl PartialSchema for UserId {
    fn schema() -> RefOr<Schema> {
        text("A user's id: visible ASCII characters.")
            .min_length(Some(1))
            .max_length(Some(MAX_USER_ID_BYTES))
            .pattern(Some("^[!-~]+$"))
            .into()
    }
}

impl ToSchema for Timestamp {}

impl PartialSchema for Timestamp {
    fn schema() -> RefOr<Schema> {
        text("A time in RFC 3339. Answers always have UTC and milliseconds.")
            .format(Some(SchemaFormat::Custom("date-time".to_owned())))
            .into()
    }
}

impl ToSchema for ChunkIndex {}

impl PartialSchema for ChunkIndex {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::Integer)
            .description(Some("A chunk's index in its job, from 0."))
            .minimum(Some(0))
            .maximum(Some(MAX_CHUNKS - 1))
            .into()
    }
}

impl ToSchema for AudioPath {}

impl PartialSchema for AudioPath {
    fn schema() -> RefOr<Schema> {
        text(
            "The audio's path: `s3://bucket/key` (a key of up to 1,024 bytes), `https://host/..` (up to 2,048 bytes), \
             or a path relative to the audio root (up to 1,024 bytes). The service's configuration decides which \
             buckets and hosts are allowed.",
        )
        .min_length(Some(1))
        .max_length(Some(2048))
        .into()
    }
}
