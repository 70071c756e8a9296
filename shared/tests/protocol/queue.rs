//! A queue with only SQS's weakest guarantee: a message that was sent and not deleted can be received. The test decides
//! when, how often, and by how many processes at once. Visibility timeouts have no effect.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use longhand_shared::domain::attempt::Holder;
use longhand_shared::lifecycle::MAX_REQUEUES;
use longhand_shared::queue::{ChunkMessage, ChunkQueue, Delivery, Depth, Outgoing, QueueError, Receipt};
use parking_lot::Mutex;

use longhand_shared::{ChunkRef, Timestamp};

use crate::sim::{Fault, Wire};

/// `maxReceiveCount` of the chunk queue.
const MAX_RECEIVES: u32 = 3;

/// The chunk queue and its dead-letter queue.
#[derive(Debug)]
pub(crate) struct Queue {
    wire: Arc<Wire>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    messages: Vec<Message>,
    /// All messages ever sent, by id. SQS may deliver a deleted message again.
    all: Vec<Outgoing>,
    /// The claims of running workers. The claim of a crashed worker is dropped.
    active: Vec<Weak<ActiveClaim>>,
    /// How many messages were moved to the dead-letter queue by their receive count.
    dead_lettered: usize,
    /// Whether a message was lost that no worker deleted.
    lost: bool,
    /// Whether sends hang.
    unresponsive: bool,
}

#[derive(Clone, Debug)]
struct Message {
    id: usize,
    chunk: ChunkRef,
    outgoing: Outgoing,
    receives: u32,
    dead: bool,
    /// The process that last received the message. It is dropped when that process ends or crashes.
    holder: Weak<()>,
}

impl Message {
    fn origin(&self) -> String {
        self.outgoing.envelope.origin.clone().unwrap_or_else(|| self.id.to_string())
    }

    fn in_hand(&self) -> bool {
        self.holder.strong_count() > 0
    }

    fn deliver(&mut self) -> Received {
        self.receives += 1;
        let lease = Arc::new(());
        self.holder = Arc::downgrade(&lease);
        let receipt = format!("{}/{}", self.id, self.receives);
        let delivery = delivery(&self.outgoing, self.id, self.receives, receipt);
        Received { delivery, dead: self.dead, lease }
    }
}

/// A delivery, and whether it comes from the dead-letter queue.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) delivery: Delivery,
    pub(crate) dead: bool,
    /// Held by the receiving process.
    pub(crate) lease: Arc<()>,
}

/// A worker with a claim.
#[derive(Debug)]
pub(crate) struct ActiveClaim {
    pub(crate) chunk: ChunkRef,
    pub(crate) attempt: u32,
    pub(crate) claimed: Timestamp,
    pub(crate) holder: Holder,
    pub(crate) lease: Arc<()>,
}

impl Queue {
    pub(crate) fn new(wire: Arc<Wire>) -> Self {
        Self { wire, state: Mutex::default() }
    }

    /// Picks a message's id, of a message that is not in hand if `free`.
    pub(crate) fn pick(&self, pick: usize, free: bool) -> Option<usize> {
        let state = self.state.lock();
        let ids: Vec<_> = state
            .messages
            .iter()
            .filter(|message| !free || !message.in_hand())
            .map(|message| message.id)
            .collect();
        Some(ids[pick.checked_rem(ids.len())?])
    }

    /// Delivers a message, even if another process has it in hand.
    pub(crate) fn deliver(&self, id: usize) -> Option<Received> {
        let mut state = self.state.lock();
        let message = state.messages.iter_mut().find(|message| message.id == id)?;
        let moved = !message.dead && message.receives >= MAX_RECEIVES;
        message.dead |= moved;
        let received = message.deliver();
        state.dead_lettered += usize::from(moved);
        Some(received)
    }

    /// Delivers any message that was ever sent, even if it was deleted or is in hand.
    pub(crate) fn deliver_again(&self, pick: usize) -> Option<Received> {
        let state = self.state.lock();
        let id = pick.checked_rem(state.all.len())?;
        let delivery = delivery(&state.all[id], id, 1, format!("{id}/0"));
        Some(Received { delivery, dead: false, lease: Arc::new(()) })
    }

    /// Moves a message to the dead-letter queue. It counts as requeued as often as allowed.
    pub(crate) fn move_to_dead_letters(&self, id: usize) {
        let mut state = self.state.lock();
        if let Some(message) = state.messages.iter_mut().find(|message| message.id == id) {
            message.dead = true;
            message.outgoing.envelope.requeues = MAX_REQUEUES;
        }
    }

    /// Deletes a message unless another process received it since. There may be a delivery between check and delete.
    pub(crate) async fn delete_if_in_hand(&self, received: &Received) {
        let mine = Arc::downgrade(&received.lease);
        let ours = {
            let state = self.state.lock();
            let message =
                state.messages.iter().find(|message| message.id.to_string() == received.delivery.message_id);
            message.is_none_or(|message| message.holder.ptr_eq(&mine))
        };
        if ours {
            self.delete(std::slice::from_ref(&received.delivery.receipt)).await;
        }
    }

    /// Records a worker's claim. The worker runs until the returned value is dropped.
    pub(crate) fn begin(&self, active: ActiveClaim) -> Arc<ActiveClaim> {
        let active = Arc::new(active);
        self.state.lock().active.push(Arc::downgrade(&active));
        active
    }

    /// The claims on a chunk of running workers whose messages no other process has received since.
    pub(crate) fn active_claims(&self, chunk: ChunkRef) -> Vec<Arc<ActiveClaim>> {
        let mut state = self.state.lock();
        state.active.retain(|active| active.strong_count() > 0);
        let holds = |active: &ActiveClaim| {
            state.messages.iter().any(|message| {
                message.id.to_string() == active.holder.message
                    && message.holder.ptr_eq(&Arc::downgrade(&active.lease))
            })
        };
        let active_claims = state.active.iter().filter_map(Weak::upgrade);
        active_claims.filter(|active| active.chunk == chunk && holds(active)).collect()
    }

    /// How many messages were moved to the dead-letter queue by their receive count.
    pub(crate) fn dead_lettered(&self) -> usize {
        self.state.lock().dead_lettered
    }

    /// All messages: id, whether it is in hand, and whether its next delivery is a dead letter.
    pub(crate) fn messages(&self) -> Vec<(usize, bool, bool)> {
        let state = self.state.lock();
        let dead = |message: &Message| message.dead || message.receives >= MAX_RECEIVES;
        state.messages.iter().map(|message| (message.id, message.in_hand(), dead(message))).collect()
    }

    pub(crate) fn sent(&self) -> usize {
        self.state.lock().all.len()
    }

    /// The state of the queue, with all messages ever sent if they may be delivered `again`.
    pub(crate) fn fingerprint(&self, again: bool) -> String {
        let state = self.state.lock();
        let messages = state.messages.iter().map(|message| {
            (
                message.id,
                message.receives.min(MAX_RECEIVES),
                message.dead,
                message.in_hand(),
                &message.outgoing.envelope,
            )
        });
        let all = state.all.iter().filter(|_| again).map(|outgoing| (&outgoing.body, &outgoing.envelope));
        format!("{:?} {:?}", messages.collect::<Vec<_>>(), all.collect::<Vec<_>>())
    }

    /// The ids of all messages, in the order of sending.
    pub(crate) fn ids(&self) -> Vec<usize> {
        self.state.lock().messages.iter().map(|message| message.id).collect()
    }

    /// Loses a message, which a queue should not do.
    pub(crate) fn lose(&self, pick: usize) {
        let mut state = self.state.lock();
        if let Some(pick) = pick.checked_rem(state.messages.len()) {
            state.messages.remove(pick);
            state.lost = true;
        }
    }

    /// Loses all messages.
    pub(crate) fn lose_all(&self) {
        let mut state = self.state.lock();
        state.messages.clear();
        state.lost = true;
    }

    /// Lets all sends hang from now on.
    pub(crate) fn stop_answering(&self) {
        self.state.lock().unresponsive = true;
    }

    pub(crate) fn len(&self) -> usize {
        self.state.lock().messages.len()
    }

    /// Whether only receivers have deleted messages.
    pub(crate) fn is_reliable(&self) -> bool {
        !self.state.lock().lost
    }

    /// Whether there is a message or a dead letter for this chunk.
    pub(crate) fn holds(&self, chunk: ChunkRef) -> bool {
        self.state.lock().messages.iter().any(|message| message.chunk == chunk)
    }

    /// Whether there is a message or a dead letter of this origin.
    pub(crate) fn holds_origin(&self, chunk: ChunkRef, origin: &str) -> bool {
        self.state.lock().messages.iter().any(|message| message.chunk == chunk && message.origin() == origin)
    }
}

fn delivery(outgoing: &Outgoing, id: usize, receive_count: u32, receipt: String) -> Delivery {
    Delivery {
        body: outgoing.body.clone(),
        receipt: Receipt(receipt),
        message_id: id.to_string(),
        receive_count,
        sent: None,
        group: outgoing.group.clone(),
        envelope: outgoing.envelope.clone(),
    }
}

fn unavailable() -> QueueError {
    QueueError::Unavailable("no answer".to_owned())
}

#[async_trait]
impl ChunkQueue for Queue {
    /// Sends one message per step, so that a crash can leave part of a batch sent.
    async fn send(&self, messages: &[Outgoing]) -> Vec<Result<(), QueueError>> {
        if self.state.lock().unresponsive {
            std::future::pending::<()>().await;
        }
        let mut answers = Vec::new();
        for outgoing in messages {
            let fault = self.wire.call().await;
            if fault != Some(Fault::NotDone) {
                let mut state = self.state.lock();
                let chunk = ChunkMessage::parse(&outgoing.body).expect("only chunks are sent here").chunk();
                let message = Message {
                    id: state.all.len(),
                    chunk,
                    outgoing: outgoing.clone(),
                    receives: 0,
                    dead: false,
                    holder: Weak::new(),
                };
                state.messages.push(message);
                state.all.push(outgoing.clone());
                self.wire.wrote();
            }
            let answer = fault.map_or(Ok(()), |_| Err(unavailable()));
            self.wire.answer(&answer);
            answers.push(answer);
        }
        answers
    }

    async fn receive(&self, _: usize, _: Duration, _: Duration) -> Result<Vec<Delivery>, QueueError> {
        let first = self.pick(0, true).and_then(|id| self.deliver(id));
        Ok(first.map(|received| received.delivery).into_iter().collect())
    }

    /// Accepts any receipt handle: with an old one, SQS "might not" delete the message.
    async fn delete(&self, receipts: &[Receipt]) -> Vec<Result<(), QueueError>> {
        let fault = self.wire.call().await;
        if fault != Some(Fault::NotDone) {
            let held = |message: &Message| {
                let prefix = format!("{}/", message.id);
                receipts.iter().any(|receipt| receipt.0.starts_with(&prefix))
            };
            self.state.lock().messages.retain(|message| !held(message));
            self.wire.wrote();
        }
        self.wire.answer(&fault);
        receipts.iter().map(|_| fault.map_or(Ok(()), |_| Err(unavailable()))).collect()
    }

    async fn change_visibility(&self, changes: &[(Receipt, Duration)]) -> Vec<Result<(), QueueError>> {
        vec![Ok(()); changes.len()]
    }

    async fn depth(&self) -> Result<Depth, QueueError> {
        Ok(Depth { visible: self.len() as u64, ..Depth::default() })
    }
}
