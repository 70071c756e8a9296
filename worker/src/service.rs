//! A worker: the consumer of chunks, the consumer of dead letters, the sweeper.

use std::sync::Arc;
use std::time::Duration;

use longhand_shared::queue::ChunkQueue;
use longhand_shared::store::JobStore;
use tokio_util::sync::CancellationToken;

use crate::asr::guard::Guard;
use crate::asr::{Asr, AsrSettings};
use crate::audio::AudioStore;
use crate::dead_letters::DeadLetters;
use crate::process::Processor;
use crate::runner::{Limits, Pulse, Runner};
use crate::sweeper::Sweeper;

/// Dead letters handled at once. There should be none.
const DEAD_LETTER_SLOTS: usize = 4;

/// A worker that has not begun.
pub struct Worker {
    chunks: Runner,
    dead_letters: Runner,
    sweeper: Sweeper,
    guard: Arc<Guard>,
}

impl Worker {
    /// A worker of this name between these.
    #[expect(clippy::too_many_arguments, reason = "it is all that a worker stands on, named once")]
    pub fn new(
        store: Arc<dyn JobStore>,
        queue: Arc<dyn ChunkQueue>,
        dead_letters: Arc<dyn ChunkQueue>,
        audio: AudioStore,
        asr: AsrSettings,
        limits: Limits,
        sweep: Duration,
        name: String,
    ) -> Result<Self, reqwest::Error> {
        let silence = limits.longest + limits.visibility;
        let processor = Processor { store: Arc::clone(&store), audio, asr: Asr::new(asr)?, silence, name };
        let guard = processor.asr.guard();
        let chunks =
            Runner::new(Arc::clone(&queue), Some(Arc::clone(&dead_letters)), Arc::new(processor), limits)
                .with_slots(guard.slots());
        let dead_letters = Runner::new(
            dead_letters,
            None,
            Arc::new(DeadLetters { store: Arc::clone(&store), queue: Arc::clone(&queue) }),
            Limits { slots: DEAD_LETTER_SLOTS, ..limits },
        );
        let sweeper = Sweeper { store, queue, every: sweep, silence };
        Ok(Self { chunks, dead_letters, sweeper, guard })
    }

    /// Signs of life of the consumer of chunks.
    pub fn pulse(&self) -> Arc<Pulse> {
        self.chunks.pulse()
    }

    /// What protects the model.
    pub fn guard(&self) -> Arc<Guard> {
        Arc::clone(&self.guard)
    }

    /// Works until `stop`, then drains.
    pub async fn run(self, stop: CancellationToken) {
        let sweeping = tokio::spawn(self.sweeper.run(stop.clone()));
        let guarding = tokio::spawn(async move { self.guard.keep().await });
        tokio::join!(self.chunks.run(stop.clone()), self.dead_letters.run(stop));
        // A sweep is safe to cut off anywhere.
        sweeping.abort();
        guarding.abort();
    }
}
