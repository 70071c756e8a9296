//! A queue that keeps no promise but the one SQS makes: what was sent and not deleted can come. When, how
//! often, and to how many at once is for the test to say, so visibility means nothing here.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use longhand_shared::lifecycle::MOST_REQUEUES;
use longhand_shared::queue::{ChunkMessage, ChunkQueue, Delivery, Depth, Outgoing, QueueError, Receipt};

use longhand_shared::{ChunkRef, Timestamp};

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
    /// All that was ever sent, each at the index that is its id: SQS may bring again what was deleted.
    ever: Vec<Outgoing>,
    /// Who works on what. Whoever has died is not there any more.
    at_work: Vec<Weak<AtWork>>,
    /// How many messages ran out of deliveries.
    died: usize,
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
    /// Whose hand it was last given to; gone when that process has ended or died.
    holder: Weak<()>,
}

impl Letter {
    fn origin(&self) -> String {
        self.outgoing.envelope.origin.clone().unwrap_or_else(|| self.id.to_string())
    }

    fn in_hand(&self) -> bool {
        self.holder.strong_count() > 0
    }

    fn hand_out(&mut self) -> Handed {
        self.receives += 1;
        let lease = Arc::new(());
        self.holder = Arc::downgrade(&lease);
        let receipt = format!("{}/{}", self.id, self.receives);
        let delivery = delivery(&self.outgoing, self.id, self.receives, receipt);
        Handed { delivery, dead: self.dead, lease }
    }
}

/// A delivery, and whether it is the dead-letter queue's.
#[derive(Clone, Debug)]
pub(crate) struct Handed {
    pub(crate) delivery: Delivery,
    pub(crate) dead: bool,
    /// Held while whoever has it lives.
    pub(crate) lease: Arc<()>,
}

/// A worker with a claim.
#[derive(Debug)]
pub(crate) struct AtWork {
    pub(crate) chunk: ChunkRef,
    pub(crate) attempt: u32,
    pub(crate) claimed: Timestamp,
    pub(crate) message_id: String,
    pub(crate) origin: String,
    pub(crate) lease: Arc<()>,
}

impl Post {
    pub(crate) fn new(wire: Arc<Wire>) -> Self {
        Self { wire, mail: Mutex::default() }
    }

    /// The id of a message: of any, or of one that nobody has in hand.
    pub(crate) fn pick(&self, pick: usize, free: bool) -> Option<usize> {
        let mail = self.lock();
        let ids: Vec<_> =
            mail.letters.iter().filter(|letter| !free || !letter.in_hand()).map(|letter| letter.id).collect();
        Some(ids[pick.checked_rem(ids.len())?])
    }

    /// Hands out a message, whoever else may have it.
    pub(crate) fn hand_out(&self, id: usize) -> Option<Handed> {
        let mut mail = self.lock();
        let letter = mail.letters.iter_mut().find(|letter| letter.id == id)?;
        let dies = !letter.dead && letter.receives >= MAX_RECEIVES;
        letter.dead |= dies;
        let handed = letter.hand_out();
        mail.died += usize::from(dies);
        Some(handed)
    }

    /// Hands out what may have been deleted long ago, and may be in others' hands.
    pub(crate) fn hand_out_again(&self, pick: usize) -> Option<Handed> {
        let mail = self.lock();
        let id = pick.checked_rem(mail.ever.len())?;
        let delivery = delivery(&mail.ever[id], id, 1, format!("{id}/0"));
        Some(Handed { delivery, dead: false, lease: Arc::new(()) })
    }

    /// Moves a message to the dead-letter queue, as one that has been there too often.
    pub(crate) fn kill(&self, id: usize) {
        let mut mail = self.lock();
        if let Some(letter) = mail.letters.iter_mut().find(|letter| letter.id == id) {
            letter.dead = true;
            letter.outgoing.envelope.requeues = MOST_REQUEUES;
        }
    }

    /// Deletes a message, unless it was given to another since. Between the look and the deed it still may be.
    pub(crate) async fn delete_if_in_hand(&self, handed: &Handed) {
        let mine = Arc::downgrade(&handed.lease);
        let ours = {
            let mail = self.lock();
            let letter =
                mail.letters.iter().find(|letter| letter.id.to_string() == handed.delivery.message_id);
            letter.is_none_or(|letter| letter.holder.ptr_eq(&mine))
        };
        if ours {
            self.delete(std::slice::from_ref(&handed.delivery.receipt)).await;
        }
    }

    /// A worker has claimed a chunk, and works on it until what is returned is dropped.
    pub(crate) fn begin(&self, at_work: AtWork) -> Arc<AtWork> {
        let at_work = Arc::new(at_work);
        self.lock().at_work.push(Arc::downgrade(&at_work));
        at_work
    }

    /// The others that work on a chunk and whose messages have been given to nobody else.
    pub(crate) fn living(&self, chunk: ChunkRef) -> Vec<Arc<AtWork>> {
        let mut mail = self.lock();
        mail.at_work.retain(|at_work| at_work.strong_count() > 0);
        let holds = |at_work: &AtWork| {
            mail.letters.iter().any(|letter| {
                letter.id.to_string() == at_work.message_id
                    && letter.holder.ptr_eq(&Arc::downgrade(&at_work.lease))
            })
        };
        let living = mail.at_work.iter().filter_map(Weak::upgrade);
        living.filter(|at_work| at_work.chunk == chunk && holds(at_work)).collect()
    }

    /// How many messages ran out of deliveries.
    pub(crate) fn died(&self) -> usize {
        self.lock().died
    }

    /// The ids of all messages, each with whether somebody has it in hand and whether it is dead, or would
    /// be when it came again.
    pub(crate) fn letters(&self) -> Vec<(usize, bool, bool)> {
        let mail = self.lock();
        let dies = |letter: &Letter| letter.dead || letter.receives >= MAX_RECEIVES;
        mail.letters.iter().map(|letter| (letter.id, letter.in_hand(), dies(letter))).collect()
    }

    /// How many messages were ever sent.
    pub(crate) fn sent(&self) -> usize {
        self.lock().ever.len()
    }

    /// All that is there and whether somebody has it, and all that ever was, where it may come again.
    pub(crate) fn fingerprint(&self, again: bool) -> String {
        let mail = self.lock();
        let letters = mail.letters.iter().map(|letter| {
            (
                letter.id,
                letter.receives.min(MAX_RECEIVES),
                letter.dead,
                letter.in_hand(),
                &letter.outgoing.envelope,
            )
        });
        let ever = mail.ever.iter().filter(|_| again).map(|outgoing| (&outgoing.body, &outgoing.envelope));
        format!("{:?} {:?}", letters.collect::<Vec<_>>(), ever.collect::<Vec<_>>())
    }

    /// The ids of all messages, in the order in which they were sent.
    pub(crate) fn ids(&self) -> Vec<usize> {
        self.lock().letters.iter().map(|letter| letter.id).collect()
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

    /// Whether a message of this origin is there, dead or alive.
    pub(crate) fn holds_origin(&self, chunk: ChunkRef, origin: &str) -> bool {
        self.lock().letters.iter().any(|letter| letter.chunk == chunk && letter.origin() == origin)
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
        sent: None,
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
                    holder: Weak::new(),
                };
                mail.letters.push(letter);
                mail.ever.push(outgoing.clone());
                self.wire.wrote();
            }
            let answer = fault.map_or(Ok(()), |_| Err(silence()));
            self.wire.answer(&answer);
            answers.push(answer);
        }
        answers
    }

    async fn receive(&self, _: usize, _: Duration, _: Duration) -> Result<Vec<Delivery>, QueueError> {
        let first = self.pick(0, true).and_then(|id| self.hand_out(id));
        Ok(first.map(|handed| handed.delivery).into_iter().collect())
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
        self.wire.answer(&fault);
        receipts.iter().map(|_| fault.map_or(Ok(()), |_| Err(silence()))).collect()
    }

    async fn change_visibility(&self, changes: &[(Receipt, Duration)]) -> Vec<Result<(), QueueError>> {
        vec![Ok(()); changes.len()]
    }

    async fn depth(&self) -> Result<Depth, QueueError> {
        Ok(Depth { visible: self.len() as u64, ..Depth::default() })
    }
}
