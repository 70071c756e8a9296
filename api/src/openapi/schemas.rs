//! The schemas of request bodies. They have no types: a body is read field by field (`input.rs`), so that every
//! fault is reported, and its limits are the constants used here.

use longhand_shared::domain::id::MAX_CHUNKS;
use longhand_shared::domain::job::{
    MAX_METADATA_BYTES, MAX_METADATA_ENTRIES, MAX_PROMPT_CHARS, MAX_START_OFFSET, MAX_TAG_BYTES,
};
use longhand_shared::domain::media::MAX_AUDIO_BYTES;
use serde_json::{Value, json};
use strum::VariantNames;

use crate::tickets::Purpose;

fn user() -> Value {
    json!({
        "anyOf": [{"$ref": "#/components/schemas/UserId"}, {"type": "null"}],
        "description": "The owner: by default the caller. Required where `LONGHAND_AUTH=none`.",
    })
}

/// The body that `jobs/new_job.rs` reads.
pub(super) fn new_job() -> Value {
    json!({
        "type": "object",
        "description": "At most 65,536 bytes of JSON.",
        "required": ["audioChunkPaths"],
        "additionalProperties": false,
        "properties": {
            "userId": user(),
            "audioChunkPaths": {
                "type": "array",
                "minItems": 1,
                "maxItems": MAX_CHUNKS,
                "items": {"$ref": "#/components/schemas/AudioPath"},
                "description": "The chunks, in order, each up to 5 MB.",
            },
            "language": {
                "type": ["string", "null"],
                "maxLength": MAX_TAG_BYTES,
                "pattern": "^([A-Za-z]{2,3}|[IXix][-_][A-Za-z0-9]{1,8})([-_][A-Za-z0-9]{1,8})*$",
                "description": "The language spoken, as a BCP 47 tag: `en`, `pt-BR`. Without it the model detects the language.",
            },
            "prompt": {
                "type": ["string", "null"],
                "minLength": 1,
                "maxLength": MAX_PROMPT_CHARS,
                "description": "Context for the model: names, spellings, preceding text.",
            },
            "timestamps": {
                "enum": ["segment", "word", null],
                "description": "Which times are stored: those of segments (the default), or also those of words.",
            },
            "translate": {
                "type": ["boolean", "null"],
                "description": "`true`: the text is translated to English. If the model cannot translate, the chunks fail (`ASR_REJECTED`).",
            },
            "startOffset": {
                "type": ["number", "null"],
                "minimum": 0,
                "maximum": MAX_START_OFFSET,
                "description": "Where the first chunk begins in a longer recording, in seconds. It is added to the times of \
                                segments, words and captions.",
            },
            "metadata": {
                "type": ["object", "null"],
                "maxProperties": MAX_METADATA_ENTRIES,
                "propertyNames": {"minLength": 1, "maxLength": MAX_METADATA_BYTES},
                "additionalProperties": {"type": "string", "maxLength": MAX_METADATA_BYTES},
                "description": "The client's own notes, returned unchanged. Lengths are in bytes of UTF-8.",
            },
            "callbackUrl": {
                "type": ["string", "null"],
                "format": "uri",
                "description": "An `https://` URL that gets a webhook when the job ends. The server allows only configured hosts.",
            },
        },
    })
}

/// The body that `uploads.rs` reads.
pub(super) fn new_uploads() -> Value {
    json!({
        "type": "object",
        "description": "At most 65,536 bytes of JSON.",
        "required": ["files"],
        "additionalProperties": false,
        "properties": {
            "userId": user(),
            "files": {
                "type": "array",
                "minItems": 1,
                "maxItems": MAX_CHUNKS,
                "items": {
                    "title": "NewUpload",
                    "type": "object",
                    "required": ["bytes"],
                    "additionalProperties": false,
                    "properties": {
                        "name": {
                            "type": ["string", "null"],
                            "minLength": 1,
                            "maxLength": 255,
                            "description": "Characters other than ASCII letters, digits, `.`, `_` and `-` become `_`.",
                        },
                        "contentType": {
                            "type": ["string", "null"],
                            "description": "A hint, such as `audio/wav`; the format is detected from the audio. \
                                            Send what `headers` in the answer says.",
                        },
                        "bytes": {"type": "integer", "minimum": 1, "maximum": MAX_AUDIO_BYTES},
                    },
                },
            },
        },
    })
}

/// The body that `jobs/tickets.rs` reads.
pub(super) fn new_ticket() -> Value {
    json!({
        "type": "object",
        "description": "At most 65,536 bytes of JSON.",
        "required": ["purpose"],
        "additionalProperties": false,
        "properties": {
            "purpose": {"type": "string", "enum": Purpose::VARIANTS, "description": "What the ticket permits."},
        },
    })
}
