//! Longhand's domain: what a job is, where it is kept, and how its chunks travel.
//!
//! Start at [`lifecycle`]: it is the whole protocol between the table and the queue, and everything
//! else here serves it. [`job`] has the states, [`store`] and [`queue`] the two traits with their
//! real and in-memory implementations, [`stitch`] turns chunks into a transcript.

pub mod api_key;
pub mod attempt;
pub mod aws;
pub mod cache;
pub mod captions;
pub mod clock;
pub mod health;
pub mod id;
pub mod idempotency;
pub mod job;
pub mod lifecycle;
pub mod media;
pub mod metrics;
mod options;
pub mod outbound;
pub mod path;
pub mod queue;
mod schema;
pub mod secret;
pub mod settings;
pub mod shutdown;
pub mod stitch;
pub mod store;
pub mod telemetry;
pub mod trace;
pub mod transcript;
pub mod upload;
pub mod webhook;

pub use attempt::{Attempt, Claimant};
pub use clock::Timestamp;
pub use id::{ChunkIndex, ChunkRef, JobId, UserId};
pub use path::AudioPath;
