//! A queue that keeps no promise but the one SQS makes: what was sent and not deleted can come. When, how
//! often, and to how many at once is for the test to say, so visibility means nothing here.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use longhand_shared::ChunkRef;
use longhand_shared::queue::{ChunkMessage, ChunkQueue, Delivery, Depth, Outgoing, QueueError, Receipt};

use crate::sim::{Fault, Wire};

/// `maxReceiveCount` of the chunks' queue.
const MAX_RECEIVES: u32 = 3;

/// The queue, and its dead-letter queue.
#[derive(Debug)]
pub(crate) struct Post {
    wire: Arc<Wire>,
    mail: Mutex<Mail>,
}

#[derive(Debug, Default)]
struct Mail {
    letters: Vec<Letter>,
    /// All that was ever sent: SQS may bring again what was deleted.
    ever: Vec<Outgoing>,
    /// Whether something was taken that no worker deleted.
    robbed: bool,
    /// Whether a send is ever answered.
    silent: bool,
}

#[derive(Clone, Debug)]
struct Letter {
    id: usize,
    chunk: ChunkRef,
    outgoing: Outgoing,
    receives: u32,
    dead: bool,
}

/// A delivery, and whether it is the dead-letter queue's.
#[derive(Clone, Debug)]
pub(crate) struct Handed {
    pub(crate) delivery: Delivery,
    pub(crate) dead: bool,
}

impl Post {
    pub(crate) fn new(wire: Arc<Wire>) -> Self {
        Self { wire, mail: Mutex::default() }
    }

    /// Hands out a message, whoever else may have it.
    pub(crate) fn hand_out(&self, pick: usize) -> Option<Handed> {
        let mut mail = self.lock();
        let count = mail.letters.len();
        let letter = mail.letters.get_mut(pick.checked_rem(count)?)?;
        letter.dead |= letter.receives >= MAX_RECEIVES;
        letter.receives += 1;
        let receipt = format!("{}/{}", letter.id, letter.receives);
        Some(Handed {
            delivery: delivery(&letter.outgoing, letter.id, letter.receives, receipt),
            dead: letter.dead,
        })
    }

    /// Hands out what may have been deleted long ago.
    pub(crate) fn hand_out_again(&self, pick: usize) -> Option<Delivery> {
        let mail = self.lock();
        let outgoing = mail.ever.get(pick.checked_rem(mail.ever.len())?)?;
        Some(delivery(outgoing, usize::MAX, 1, "none".to_owned()))
    }

    /// Moves a message to the dead-letter queue.
    pub(crate) fn kill(&self, pick: usize) {
        let mut mail = self.lock();
        let count = mail.letters.len();
        if let Some(letter) = pick.checked_rem(count).and_then(|pick| mail.letters.get_mut(pick)) {
            letter.dead = true;
        }
    }

    /// Loses a message, which a queue should not.
    pub(crate) fn lose(&self, pick: usize) {
        let mut mail = self.lock();
        if let Some(pick) = pick.checked_rem(mail.letters.len()) {
            mail.letters.remove(pick);
            mail.robbed = true;
        }
    }

    /// Loses everything.
    pub(crate) fn lose_all(&self) {
        let mut mail = self.lock();
        mail.letters.clear();
        mail.robbed = true;
    }

    /// From now on no send is answered.
    pub(crate) fn fall_silent(&self) {
        self.lock().silent = true;
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().letters.len()
    }

    /// Whether only those who were handed a message deleted it.
    pub(crate) fn is_honest(&self) -> bool {
        !self.lock().robbed
    }

    /// Whether a message about this chunk is there, dead or alive.
    pub(crate) fn holds(&self, chunk: ChunkRef) -> bool {
        self.lock().letters.iter().any(|letter| letter.chunk == chunk)
    }

    fn lock(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn delivery(outgoing: &Outgoing, id: usize, receive_count: u32, receipt: String) -> Delivery {
    Delivery {
        body: outgoing.body.clone(),
        receipt: Receipt(receipt),
        message_id: id.to_string(),
        receive_count,
        group: outgoing.group.clone(),
        envelope: outgoing.envelope.clone(),
    }
}

fn silence() -> QueueError {
    QueueError::Unavailable("no answer".to_owned())
}

#[async_trait]
impl ChunkQueue for Post {
    /// One message a step, so that a crash can leave part of a batch sent.
    async fn send(&self, messages: &[Outgoing]) -> Vec<Result<(), QueueError>> {
        if self.lock().silent {
            std::future::pending::<()>().await;
        }
        let mut answers = Vec::new();
        for outgoing in messages {
            let fault = self.wire.call().await;
            if fault != Some(Fault::NotDone) {
                let mut mail = self.lock();
                let chunk = ChunkMessage::parse(&outgoing.body).expect("only chunks are sent here").chunk();
                let letter = Letter {
                    id: mail.ever.len(),
                    chunk,
                    outgoing: outgoing.clone(),
                    receives: 0,
                    dead: false,
                };
                mail.letters.push(letter);
                mail.ever.push(outgoing.clone());
                self.wire.wrote();
            }
            answers.push(fault.map_or(Ok(()), |_| Err(silence())));
        }
        answers
    }

    async fn receive(&self, _: usize, _: Duration, _: Duration) -> Result<Vec<Delivery>, QueueError> {
        Ok(self.hand_out(0).map(|handed| handed.delivery).into_iter().collect())
    }

    /// Any receipt will do: SQS says of an old one that the message *might not* be deleted.
    async fn delete(&self, receipts: &[Receipt]) -> Vec<Result<(), QueueError>> {
        let fault = self.wire.call().await;
        if fault != Some(Fault::NotDone) {
            let held = |letter: &Letter| {
                let prefix = format!("{}/", letter.id);
                receipts.iter().any(|receipt| receipt.0.starts_with(&prefix))
            };
            self.lock().letters.retain(|letter| !held(letter));
            self.wire.wrote();
        }
        receipts.iter().map(|_| fault.map_or(Ok(()), |_| Err(silence()))).collect()
    }

    async fn change_visibility(&self, changes: &[(Receipt, Duration)]) -> Vec<Result<(), QueueError>> {
        vec![Ok(()); changes.len()]
    }

    async fn depth(&self) -> Result<Depth, QueueError> {
        Ok(Depth { visible: self.len() as u64, ..Depth::default() })
    }
}
