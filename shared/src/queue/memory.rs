//! The in-memory queue for tests. No setting selects it. The contract suite of the SQS queue covers it too.
//! It uses tokio's clock, so tests with a paused clock do not wait.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::{ChunkQueue, Delivery, Depth, MAX_BATCH, Outgoing, QueueError, Receipt};

#[derive(Debug, Default)]
pub struct MemoryQueue {
    /// The maximum receive count, and the dead-letter queue for messages that reach it.
    redrive: Option<(u32, Arc<MemoryQueue>)>,
    /// The random order of receives, if enabled. A standard queue of SQS guarantees no order either.
    shuffle: Option<Mutex<StdRng>>,
    messages: Mutex<Vec<Message>>,
    sent: Notify,
}

#[derive(Clone, Debug)]
struct Message {
    id: String,
    outgoing: Outgoing,
    receive_count: u32,
    visible_at: Instant,
    /// The receipt handle of the newest delivery. Older ones are invalid.
    receipt: Option<Receipt>,
}

impl MemoryQueue {
    /// A queue without a dead-letter queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// A queue that moves a message to `dead_letters` instead of delivering it more than
    /// `max_receive_count` times.
    pub fn with_redrive(max_receive_count: u32, dead_letters: Arc<Self>) -> Self {
        Self { redrive: Some((max_receive_count, dead_letters)), ..Self::default() }
    }

    /// The same queue with a random order of receives.
    #[must_use]
    pub fn shuffled(self, seed: u64) -> Self {
        Self { shuffle: Some(Mutex::new(StdRng::seed_from_u64(seed))), ..self }
    }

    fn push(&self, id: String, outgoing: Outgoing) {
        let visible_at = Instant::now() + outgoing.delay;
        let message = Message { id, receive_count: 0, visible_at, receipt: None, outgoing };
        self.messages.lock().push(message);
        self.sent.notify_waiters();
    }

    /// Receives up to `max` visible messages. Also returns when the next message becomes visible.
    fn take(&self, max: usize, visibility: Duration) -> (Vec<Delivery>, Option<Instant>) {
        let now = Instant::now();
        let mut messages = self.messages.lock();
        let mut dead = Vec::new();
        if let Some((max_receive_count, _)) = &self.redrive {
            let (gone, kept) = std::mem::take(&mut *messages)
                .into_iter()
                .partition(|m| m.visible_at <= now && m.receive_count >= *max_receive_count);
            dead = gone;
            *messages = kept;
        }
        if let Some(random) = &self.shuffle {
            messages.shuffle(&mut *random.lock());
        }
        let mut deliveries = Vec::new();
        for message in messages.iter_mut().filter(|m| m.visible_at <= now).take(max) {
            message.receive_count += 1;
            message.visible_at = now + visibility;
            let receipt = Receipt(format!("{}/{}", message.id, message.receive_count));
            message.receipt = Some(receipt.clone());
            deliveries.push(Delivery {
                body: message.outgoing.body.clone(),
                receipt,
                message_id: message.id.clone(),
                receive_count: message.receive_count,
                sent: None,
                group: message.outgoing.group.clone(),
                envelope: message.outgoing.envelope.clone(),
            });
        }
        let next = messages.iter().map(|m| m.visible_at).filter(|at| *at > now).min();
        drop(messages);
        if let Some((_, dead_letters)) = &self.redrive {
            for message in dead {
                dead_letters.push(message.id, Outgoing { delay: Duration::ZERO, ..message.outgoing });
            }
        }
        (deliveries, next)
    }
}

#[async_trait]
impl ChunkQueue for MemoryQueue {
    async fn send(&self, messages: &[Outgoing]) -> Vec<Result<(), QueueError>> {
        for message in messages {
            self.push(uuid::Uuid::now_v7().to_string(), message.clone());
        }
        vec![Ok(()); messages.len()]
    }

    async fn receive(
        &self,
        max: usize,
        wait: Duration,
        visibility: Duration,
    ) -> Result<Vec<Delivery>, QueueError> {
        let deadline = Instant::now() + wait;
        loop {
            // It receives each wakeup after its creation, so a change after the look below is not missed.
            let sent = self.sent.notified();
            let (deliveries, next) = self.take(max.clamp(1, MAX_BATCH), visibility);
            if !deliveries.is_empty() || Instant::now() >= deadline {
                return Ok(deliveries);
            }
            let until = next.map_or(deadline, |next| next.min(deadline));
            // Look again in both cases.
            let _ = timeout_at(until, sent).await;
        }
    }

    async fn delete(&self, receipts: &[Receipt]) -> Vec<Result<(), QueueError>> {
        let mut messages = self.messages.lock();
        // Like SQS: deleting a missing message is not an error.
        messages.retain(|message| message.receipt.as_ref().is_none_or(|held| !receipts.contains(held)));
        vec![Ok(()); receipts.len()]
    }

    async fn change_visibility(&self, changes: &[(Receipt, Duration)]) -> Vec<Result<(), QueueError>> {
        let now = Instant::now();
        let mut messages = self.messages.lock();
        let answers = changes
            .iter()
            .map(|(receipt, visibility)| {
                let held =
                    messages.iter_mut().find(|m| m.receipt.as_ref() == Some(receipt) && m.visible_at > now);
                match held {
                    Some(message) => {
                        message.visible_at = now + *visibility;
                        Ok(())
                    }
                    None => Err(QueueError::LeaseLost(format!("receipt handle {}", receipt.0))),
                }
            })
            .collect();
        drop(messages);
        self.sent.notify_waiters();
        answers
    }

    async fn depth(&self) -> Result<Depth, QueueError> {
        let now = Instant::now();
        let messages = self.messages.lock();
        let mut depth = Depth::default();
        for message in messages.iter() {
            match (message.visible_at <= now, message.receive_count) {
                (true, _) => depth.visible += 1,
                (false, 0) => depth.delayed += 1,
                (false, _) => depth.in_flight += 1,
            }
        }
        Ok(depth)
    }
}
