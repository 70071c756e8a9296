//! Longhand's worker: receives chunks from the queue, transcribes them with the model, and settles them.
//!
//! [`process`] handles one chunk. [`runner`] handles messages: slots, long polling, leases, deletes, drain.

pub mod asr;
pub mod audio;
pub mod dead_letters;
pub mod failure;
pub mod handler;
pub mod health;
pub mod lease;
pub mod process;
pub mod report;
pub mod runner;
pub mod settings;
pub mod siblings;
pub mod slots;
pub mod sweeper;
pub mod webhooks;

mod deleter;
mod pulse;
mod receiving;
mod service;

pub use service::{Parts, WebhookSources, Worker};
