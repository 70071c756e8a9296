//! What a job is: its parts as types that cannot be invalid, and rules that need no store, queue or network.

pub mod attempt;
pub mod callback;
pub mod chunk;
pub mod clock;
pub mod id;
pub mod idempotency;
pub mod job;
pub mod media;
mod options;
pub mod path;
mod schema;
pub mod stitch;
pub mod transcript;
pub mod transcription;
pub mod upload;
pub mod url;
pub mod verdict;
pub mod worker_state;
