//! A worker: the consumer of chunks, the consumer of dead letters, the sweeper, and the consumer of webhooks.

use std::sync::Arc;
use std::time::Duration;

use longhand_shared::Timestamp;
use longhand_shared::outbound::{AllowedHosts, Outbound};
use longhand_shared::queue::ChunkQueue;
use longhand_shared::store::JobStore;
use longhand_shared::webhook::signature::MasterSecrets;
use tokio_util::sync::CancellationToken;

use crate::asr::guard::Guard;
use crate::asr::{Asr, AsrSettings};
use crate::audio::AudioStore;
use crate::dead_letters::DeadLetters;
use crate::process::Processor;
use crate::runner::{Limits, Pulse, Runner};
use crate::sweeper::Sweeper;
use crate::webhooks::Webhooks;

/// Dead letters handled at once. There should be none.
const DEAD_LETTER_SLOTS: usize = 4;

/// Webhooks posted at once. Each takes ten seconds at most, and none of the model's time.
const WEBHOOK_SLOTS: usize = 16;

/// What webhooks stand on.
#[derive(Clone, Debug)]
pub struct WebhookSources {
    /// Their queue.
    pub queue: Arc<dyn ChunkQueue>,
    /// Where those go that nobody took.
    pub dead_letters: Arc<dyn ChunkQueue>,
    /// What calls receivers.
    pub outbound: Outbound,
    /// Who may be told.
    pub hosts: AllowedHosts,
    /// What signs.
    pub secrets: MasterSecrets,
}

impl WebhookSources {
    fn runner(self, store: Arc<dyn JobStore>, limits: Limits) -> Runner {
        let Self { queue, dead_letters, outbound, hosts, secrets } = self;
        let webhooks = Webhooks { store, outbound, hosts, secrets, clock: Timestamp::now };
        let limits = Limits { slots: WEBHOOK_SLOTS, ..limits };
        Runner::new(queue, Some(dead_letters), Arc::new(webhooks), limits)
    }
}

/// A worker that has not begun.
pub struct Worker {
    chunks: Runner,
    dead_letters: Runner,
    webhooks: Option<Runner>,
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
        webhooks: Option<WebhookSources>,
        audio: AudioStore,
        asr: AsrSettings,
        limits: Limits,
        sweep: Duration,
        name: String,
    ) -> Result<Self, reqwest::Error> {
        let silence = limits.longest + limits.visibility;
        let told = webhooks.as_ref().map(|webhooks| Arc::clone(&webhooks.queue));
        let webhooks = webhooks.map(|webhooks| webhooks.runner(Arc::clone(&store), limits));
        let processor = Processor {
            store: Arc::clone(&store),
            webhooks: told.clone(),
            audio,
            asr: Asr::new(asr)?,
            silence,
            name,
        };
        let guard = processor.asr.guard();
        let chunks =
            Runner::new(Arc::clone(&queue), Some(Arc::clone(&dead_letters)), Arc::new(processor), limits)
                .with_slots(guard.slots());
        let dead_letters = Runner::new(
            dead_letters,
            None,
            Arc::new(DeadLetters {
                store: Arc::clone(&store),
                webhooks: told.clone(),
                queue: Arc::clone(&queue),
            }),
            Limits { slots: DEAD_LETTER_SLOTS, ..limits },
        );
        let sweeper = Sweeper { store, queue, webhooks: told, every: sweep, silence };
        Ok(Self { chunks, dead_letters, webhooks, sweeper, guard })
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
        let telling = async {
            if let Some(webhooks) = self.webhooks {
                webhooks.run(stop.clone()).await;
            }
        };
        tokio::join!(self.chunks.run(stop.clone()), self.dead_letters.run(stop.clone()), telling);
        // A sweep is safe to cut off anywhere.
        sweeping.abort();
        guarding.abort();
    }
}
