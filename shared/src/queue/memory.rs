//! The queue in memory: for tests of logic. No setting chooses it. It is held to the same contract
//! suite as the real one, and keeps tokio's time, so that a test under the paused clock waits for nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::{ChunkQueue, Delivery, Depth, MAX_BATCH, Outgoing, QueueError, Receipt};

/// The queue in memory.
#[derive(Debug, Default)]
pub struct MemoryQueue {
    /// Where a message goes instead of being received once more than this.
    redrive: Option<(u32, Arc<MemoryQueue>)>,
    state: Mutex<State>,
    sent: Notify,
}

#[derive(Debug, Default)]
struct State {
    messages: Vec<Message>,
}

#[derive(Clone, Debug)]
struct Message {
    id: String,
    outgoing: Outgoing,
    receive_count: u32,
    visible_at: Instant,
    /// Names the newest delivery: an older receipt handle holds nothing.
    receipt: Option<Receipt>,
}

impl MemoryQueue {
    /// A queue without a dead-letter queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// A queue that moves a message to `dead_letters` when it would be received for more than the
    /// `max_receive_count`-th time.
    pub fn with_redrive(max_receive_count: u32, dead_letters: Arc<Self>) -> Self {
        Self { redrive: Some((max_receive_count, dead_letters)), ..Self::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, id: String, outgoing: Outgoing) {
        let visible_at = Instant::now() + outgoing.delay;
        let message = Message { id, receive_count: 0, visible_at, receipt: None, outgoing };
        self.lock().messages.push(message);
        self.sent.notify_waiters();
    }

    /// What can be received now, and when the next that cannot will be.
    fn take(&self, max: usize, visibility: Duration) -> (Vec<Delivery>, Option<Instant>) {
        let now = Instant::now();
        let mut state = self.lock();
        let mut dead = Vec::new();
        if let Some((max_receive_count, _)) = &self.redrive {
            let (gone, kept) = std::mem::take(&mut state.messages)
                .into_iter()
                .partition(|m| m.visible_at <= now && m.receive_count >= *max_receive_count);
            dead = gone;
            state.messages = kept;
        }
        let mut deliveries = Vec::new();
        for message in state.messages.iter_mut().filter(|m| m.visible_at <= now).take(max) {
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
        let next = state.messages.iter().map(|m| m.visible_at).filter(|at| *at > now).min();
        drop(state);
        if let Some((_, dead_letters)) = &self.redrive {
            for message in dead {
                dead_letters.push(message.id, Outgoing { delay: Duration::ZERO, ..message.outgoing });
            }
        }
        (deliveries, next)
    }

    fn lost(receipt: &Receipt) -> QueueError {
        QueueError::LeaseLost(format!("receipt handle {}", receipt.0))
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
            let sent = self.sent.notified();
            tokio::pin!(sent);
            sent.as_mut().enable();
            let (deliveries, next) = self.take(max.clamp(1, MAX_BATCH), visibility);
            if !deliveries.is_empty() || Instant::now() >= deadline {
                return Ok(deliveries);
            }
            let until = next.map_or(deadline, |next| next.min(deadline));
            // Either way there is something new to look at.
            let _ = timeout_at(until, sent).await;
        }
    }

    async fn delete(&self, receipts: &[Receipt]) -> Vec<Result<(), QueueError>> {
        let mut state = self.lock();
        // As SQS: deleting what is gone is no error.
        state.messages.retain(|message| message.receipt.as_ref().is_none_or(|held| !receipts.contains(held)));
        vec![Ok(()); receipts.len()]
    }

    async fn change_visibility(&self, changes: &[(Receipt, Duration)]) -> Vec<Result<(), QueueError>> {
        let now = Instant::now();
        let mut state = self.lock();
        let answers = changes
            .iter()
            .map(|(receipt, visibility)| {
                let held = state
                    .messages
                    .iter_mut()
                    .find(|m| m.receipt.as_ref() == Some(receipt) && m.visible_at > now);
                match held {
                    Some(message) => {
                        message.visible_at = now + *visibility;
                        Ok(())
                    }
                    None => Err(Self::lost(receipt)),
                }
            })
            .collect();
        drop(state);
        self.sent.notify_waiters();
        answers
    }

    async fn depth(&self) -> Result<Depth, QueueError> {
        let now = Instant::now();
        let state = self.lock();
        let mut depth = Depth::default();
        for message in &state.messages {
            match (message.visible_at <= now, message.receive_count) {
                (true, _) => depth.visible += 1,
                (false, 0) => depth.delayed += 1,
                (false, _) => depth.in_flight += 1,
            }
        }
        Ok(depth)
    }
}
