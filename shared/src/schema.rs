//! The schemas of the names of things, for the description of the API. They are parsed by hand, so what
//! a text may be is said by hand too, by the limits that the parsers go by.

use utoipa::openapi::schema::{ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::clock::Timestamp;
use crate::id::{ChunkIndex, JobId, MAX_CHUNKS, MAX_USER_ID_BYTES, UserId};
use crate::path::AudioPath;

fn text(description: &str) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).description(Some(description))
}

impl ToSchema for JobId {}

impl PartialSchema for JobId {
    fn schema() -> RefOr<Schema> {
        text("A job's name.")
            .format(Some(SchemaFormat::Custom("uuid".to_owned())))
            .pattern(Some("^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"))
            .into()
    }
}

impl ToSchema for UserId {}

impl PartialSchema for UserId {
    fn schema() -> RefOr<Schema> {
        text("A user's name: visible ASCII characters.")
            .min_length(Some(1))
            .max_length(Some(MAX_USER_ID_BYTES))
            .pattern(Some("^[!-~]+$"))
            .into()
    }
}

impl ToSchema for Timestamp {}

impl PartialSchema for Timestamp {
    fn schema() -> RefOr<Schema> {
        text("A moment, in RFC 3339; in answers always in UTC, to the millisecond.")
            .format(Some(SchemaFormat::Custom("date-time".to_owned())))
            .into()
    }
}

impl ToSchema for ChunkIndex {}

impl PartialSchema for ChunkIndex {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::Integer)
            .description(Some("A chunk's place in its job, from 0."))
            .minimum(Some(0))
            .maximum(Some(MAX_CHUNKS - 1))
            .into()
    }
}

impl ToSchema for AudioPath {}

impl PartialSchema for AudioPath {
    fn schema() -> RefOr<Schema> {
        text(
            "Where audio is: `s3://bucket/key` (up to 1,024 bytes), `https://host/..` (up to 2,048 bytes) or a \
             path under the audio root (up to 1,024 bytes), as far as this service reads from there.",
        )
        .min_length(Some(1))
        .max_length(Some(2048))
        .into()
    }
}
