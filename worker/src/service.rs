//! A worker: the consumer of chunks, the consumer of dead letters, the sweeper, and the consumer of webhooks.

use std::sync::Arc;

use longhand_shared::Timestamp;
use longhand_shared::domain::url::AllowedHosts;
use longhand_shared::lifecycle::Lifecycle;
use longhand_shared::net::outbound::Outbound;
use longhand_shared::queue::ChunkQueue;
use longhand_shared::store::JobStore;
use longhand_shared::webhook::signature::MasterSecrets;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::asr::guard::Guard;
use crate::asr::{Asr, AsrSettings};
use crate::audio::AudioStore;
use crate::dead_letters::DeadLetters;
use crate::process::Processor;
use crate::runner::{EndedEarly, Limits, Pulse, Runner};
use crate::siblings::Siblings;
use crate::sweeper::{SweepSettings, Sweeper};
use crate::webhooks::Webhooks;

/// Dead letters handled at once. There should be none.
const DEAD_LETTER_SLOTS: usize = 4;

/// Webhooks posted at once. Each takes at most ten seconds.
const WEBHOOK_SLOTS: usize = 16;

#[derive(Clone, Debug)]
pub struct WebhookSources {
    pub queue: Arc<dyn ChunkQueue>,
    /// Receives the webhooks whose delivery was given up.
    pub dead_letters: Arc<dyn ChunkQueue>,
    pub outbound: Outbound,
    /// The hosts that webhooks may be sent to.
    pub hosts: AllowedHosts,
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

pub struct Parts {
    pub lifecycle: Lifecycle,
    /// The dead letters of the chunks' queue.
    pub dead_letters: Arc<dyn ChunkQueue>,
    pub webhooks: Option<WebhookSources>,
    pub audio: AudioStore,
    pub asr: AsrSettings,
    pub limits: Limits,
    pub sweep: SweepSettings,
    /// The worker's name in the history of the chunks that it attempts.
    pub name: String,
}

/// A worker that has not started.
pub struct Worker {
    chunks: Runner,
    dead_letters: Runner,
    webhooks: Option<Runner>,
    sweeper: Sweeper,
    asr: Arc<Asr>,
}

impl Worker {
    pub fn new(parts: Parts) -> Result<Self, reqwest::Error> {
        let Parts { lifecycle, dead_letters, webhooks, audio, asr, limits, sweep, name } = parts;
        let claim_timeout = limits.longest + limits.visibility;
        let lifecycle =
            lifecycle.with_webhooks(webhooks.as_ref().map(|webhooks| Arc::clone(&webhooks.queue)));
        let webhooks = webhooks.map(|webhooks| webhooks.runner(Arc::clone(lifecycle.store()), limits));
        let asr = Arc::new(Asr::new(asr)?);
        let processor = Processor {
            lifecycle: lifecycle.clone(),
            audio,
            asr: Arc::clone(&asr),
            claim_timeout,
            name,
            siblings: Siblings::default(),
        };
        let chunks = Runner::with_slots(
            Arc::clone(lifecycle.queue()),
            Some(Arc::clone(&dead_letters)),
            Arc::new(processor),
            limits,
            asr.guard().slots(),
        );
        let dead_letters = Runner::new(
            dead_letters,
            None,
            Arc::new(DeadLetters { lifecycle: lifecycle.clone() }),
            Limits { slots: DEAD_LETTER_SLOTS, ..limits },
        );
        let sweeper = Sweeper { lifecycle, settings: sweep, claim_timeout };
        Ok(Self { chunks, dead_letters, webhooks, sweeper, asr })
    }

    pub fn pulse(&self) -> Arc<Pulse> {
        self.chunks.pulse()
    }

    pub fn guard(&self) -> Arc<Guard> {
        self.asr.guard()
    }

    /// The activity of all consumers, by name.
    pub fn pulses(&self) -> Vec<(&'static str, Arc<Pulse>)> {
        let mut pulses = vec![("chunks", self.chunks.pulse()), ("dead letters", self.dead_letters.pulse())];
        pulses.extend(self.webhooks.as_ref().map(|webhooks| ("webhooks", webhooks.pulse())));
        pulses
    }

    /// Works until `stop`, then drains. If a part ends by itself, all others drain, and the error says which it was.
    pub async fn run(self, stop: CancellationToken) -> Result<(), EndedEarly> {
        let asr = self.asr;
        // These never end by themselves, and can be aborted at any point.
        let mut sweeping = tokio::spawn(self.sweeper.run());
        let mut probing = tokio::spawn(async move { asr.keep_probing().await });
        let mut consumers = JoinSet::new();
        for runner in [Some(self.chunks), Some(self.dead_letters), self.webhooks].into_iter().flatten() {
            consumers.spawn(runner.run(stop.clone()));
        }
        let mut outcome = tokio::select! {
            biased;
            () = stop.cancelled() => Ok(()),
            _ = &mut sweeping => Err(EndedEarly("the sweeper")),
            _ = &mut probing => Err(EndedEarly("the probe")),
            Some(ended) = consumers.join_next() => ended.unwrap_or(Err(EndedEarly("a consumer"))),
        };
        stop.cancel();
        while let Some(ended) = consumers.join_next().await {
            outcome = outcome.and(ended.unwrap_or(Err(EndedEarly("a consumer"))));
        }
        sweeping.abort();
        probing.abort();
        outcome
    }
}
