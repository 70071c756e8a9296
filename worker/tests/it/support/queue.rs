//! A queue in memory that keeps a log of its calls and fails on request.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use longhand_shared::queue::memory::MemoryQueue;
use longhand_shared::queue::{ChunkQueue, Delivery, Depth, Outgoing, QueueError, Receipt};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::{Instant, sleep};

/// What was asked of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Send,
    Receive,
    Delete,
    Change,
    Depth,
}

/// One call.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) kind: Kind,
    pub(crate) began: Instant,
    pub(crate) ended: Option<Instant>,
    /// Bodies sent, or receipts.
    pub(crate) entries: Vec<String>,
    /// Messages asked for.
    pub(crate) max: usize,
}

/// What happens to a call.
pub(crate) enum Fault {
    /// It is answered as usual.
    None,
    /// It fails, or all of its entries do.
    Fail(QueueError),
    /// These entries fail, the others pass.
    FailEntries(Vec<usize>, QueueError),
    /// It is done after a while.
    Slow(Duration),
    /// It fails after a while.
    SlowFail(Duration),
    /// It is done, and answered with a failure.
    LostAnswer,
    /// It is answered as if it were done, and is not.
    Ignored,
    /// It is never answered.
    Hang,
    /// Whatever is received comes twice in the same answer, with the same receipt handle.
    Double,
    /// Whatever is received comes twice in the same answer, as two deliveries.
    Duplicate,
}

/// What else happens to a call that passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Twist {
    None,
    /// What is received comes again, with this behind its receipt handle.
    Again(&'static str),
    LostAnswer,
    Ignored,
}

type Rule = Box<dyn FnMut(&Call) -> Fault + Send>;

/// The queue.
pub(crate) struct FaultyQueue {
    inner: Arc<MemoryQueue>,
    rule: Mutex<Rule>,
    calls: Mutex<Vec<Call>>,
    /// By message, the newest receipt handle, if older ones stay valid.
    newest: Mutex<Option<HashMap<String, Receipt>>>,
}

impl fmt::Debug for FaultyQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyQueue").finish_non_exhaustive()
    }
}

impl FaultyQueue {
    pub(crate) fn over(inner: MemoryQueue) -> Arc<Self> {
        Self::around(Arc::new(inner))
    }

    pub(crate) fn around(inner: Arc<MemoryQueue>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            rule: Mutex::new(Box::new(|_| Fault::None)),
            calls: Mutex::default(),
            newest: Mutex::default(),
        })
    }

    /// From now on a receipt handle stays valid when its message is delivered again, as a standard queue's may.
    pub(crate) fn keep_receipts_valid(&self) {
        *self.newest.lock() = Some(HashMap::new());
    }

    /// What the queue itself takes this receipt handle for.
    fn valid(&self, receipt: &Receipt) -> Receipt {
        let newest = self.newest.lock();
        let message = receipt.0.split('/').next().unwrap_or_default();
        newest.as_ref().and_then(|newest| newest.get(message)).unwrap_or(receipt).clone()
    }

    /// A queue that holds these messages.
    pub(crate) async fn holding(messages: &[Outgoing]) -> Arc<Self> {
        let queue = Self::over(MemoryQueue::new());
        queue.put(messages).await;
        queue
    }

    /// Puts messages in without a fault and without a trace in the log.
    pub(crate) async fn put(&self, messages: &[Outgoing]) {
        assert!(self.inner.send(messages).await.iter().all(Result::is_ok));
    }

    /// From now on, calls meet what this says.
    pub(crate) fn fault(&self, rule: impl FnMut(&Call) -> Fault + Send + 'static) {
        *self.rule.lock() = Box::new(rule);
    }

    /// From now on, calls of this kind fail with this.
    pub(crate) fn fail(&self, kind: Kind, error: QueueError) {
        self.fault(move |call| if call.kind == kind { Fault::Fail(error.clone()) } else { Fault::None });
    }

    /// From now on, calls of this kind are never answered.
    pub(crate) fn hang(&self, kind: Kind) {
        self.fault(move |call| if call.kind == kind { Fault::Hang } else { Fault::None });
    }

    /// No more faults.
    pub(crate) fn heal(&self) {
        self.fault(|_| Fault::None);
    }

    /// All calls of one kind so far.
    pub(crate) fn calls(&self, kind: Kind) -> Vec<Call> {
        self.log().iter().filter(|call| call.kind == kind).cloned().collect()
    }

    /// How many entries each call of one kind had.
    pub(crate) fn sizes(&self, kind: Kind) -> Vec<usize> {
        self.calls(kind).iter().map(|call| call.entries.len()).collect()
    }

    /// What the queue holds: visible, in flight and delayed.
    pub(crate) async fn len(&self) -> u64 {
        let Depth { visible, in_flight, delayed } = self.held().await;
        visible + in_flight + delayed
    }

    /// The queue's depth, without a trace in the log.
    pub(crate) async fn held(&self) -> Depth {
        self.inner.depth().await.expect("memory answers")
    }

    /// Takes what is visible now, without a trace in the log.
    pub(crate) async fn drain(&self) -> Vec<Delivery> {
        let mut all = Vec::new();
        loop {
            let some = self.inner.receive(10, Duration::ZERO, super::secs(43_200)).await;
            match some.expect("memory answers") {
                some if some.is_empty() => return all,
                some => all.extend(some),
            }
        }
    }

    fn log(&self) -> MutexGuard<'_, Vec<Call>> {
        self.calls.lock()
    }

    /// Notes the call and meets its fault; the entries that are to fail, or the error for all.
    async fn begin(
        &self,
        kind: Kind,
        entries: Vec<String>,
        max: usize,
    ) -> (usize, Result<Vec<(usize, QueueError)>, QueueError>, Twist) {
        let call = Call { kind, began: Instant::now(), ended: None, entries, max };
        let fault = (self.rule.lock())(&call);
        let place = {
            let mut log = self.log();
            log.push(call);
            log.len() - 1
        };
        let mut twist = Twist::None;
        let fate = match fault {
            Fault::None => Ok(vec![]),
            Fault::Fail(error) => Err(error),
            Fault::FailEntries(places, error) => {
                Ok(places.into_iter().map(|place| (place, error.clone())).collect())
            }
            Fault::Slow(pause) => {
                sleep(pause).await;
                Ok(vec![])
            }
            Fault::SlowFail(pause) => {
                sleep(pause).await;
                Err(super::unavailable())
            }
            Fault::Hang => std::future::pending().await,
            Fault::Double => {
                twist = Twist::Again("");
                Ok(vec![])
            }
            Fault::Duplicate => {
                twist = Twist::Again("/again");
                Ok(vec![])
            }
            Fault::LostAnswer => {
                twist = Twist::LostAnswer;
                Ok(vec![])
            }
            Fault::Ignored => {
                twist = Twist::Ignored;
                Ok(vec![])
            }
        };
        (place, fate, twist)
    }

    fn end(&self, place: usize) {
        self.log()[place].ended = Some(Instant::now());
    }
}

/// The items that do not fail.
fn passing<T: Clone>(items: &[T], bad: &[(usize, QueueError)]) -> Vec<T> {
    let is_bad = |place: usize| bad.iter().any(|(at, _)| *at == place);
    items.iter().enumerate().filter(|(place, _)| !is_bad(*place)).map(|(_, item)| item.clone()).collect()
}

/// One answer for each item, the failed ones in their places.
fn weave(
    count: usize,
    bad: &[(usize, QueueError)],
    good: Vec<Result<(), QueueError>>,
) -> Vec<Result<(), QueueError>> {
    let mut good = good.into_iter();
    (0..count)
        .map(|place| match bad.iter().find(|(at, _)| *at == place) {
            Some((_, error)) => Err(error.clone()),
            None => good.next().expect("one answer for each entry that passed"),
        })
        .collect()
}

#[async_trait]
impl ChunkQueue for FaultyQueue {
    async fn send(&self, messages: &[Outgoing]) -> Vec<Result<(), QueueError>> {
        let entries = messages.iter().map(|message| message.body.clone()).collect();
        let (place, fate, twist) = self.begin(Kind::Send, entries, 0).await;
        let mut answers = match fate {
            Err(error) => vec![Err(error); messages.len()],
            Ok(bad) => weave(messages.len(), &bad, self.inner.send(&passing(messages, &bad)).await),
        };
        if twist == Twist::LostAnswer {
            answers.fill(Err(super::unavailable()));
        }
        self.end(place);
        answers
    }

    async fn receive(
        &self,
        max: usize,
        wait: Duration,
        visibility: Duration,
    ) -> Result<Vec<Delivery>, QueueError> {
        let (place, fate, twist) = self.begin(Kind::Receive, vec![], max).await;
        let answer = match fate {
            Err(error) => Err(error),
            Ok(_) => self.inner.receive(max, wait, visibility).await,
        };
        self.end(place);
        let mut deliveries = answer?;
        if let Some(newest) = self.newest.lock().as_mut() {
            newest.extend(deliveries.iter().map(|it| (it.message_id.clone(), it.receipt.clone())));
        }
        if let Twist::Again(suffix) = twist {
            let again = |it: &Delivery| Delivery {
                receipt: Receipt(format!("{}{suffix}", it.receipt.0)),
                ..it.clone()
            };
            deliveries.extend(deliveries.iter().map(again).collect::<Vec<_>>());
        }
        Ok(deliveries)
    }

    async fn delete(&self, receipts: &[Receipt]) -> Vec<Result<(), QueueError>> {
        let entries = receipts.iter().map(|receipt| receipt.0.clone()).collect();
        let (place, fate, _) = self.begin(Kind::Delete, entries, 0).await;
        let answers = match fate {
            Err(error) => vec![Err(error); receipts.len()],
            Ok(bad) => {
                let valid: Vec<_> = passing(receipts, &bad).iter().map(|it| self.valid(it)).collect();
                weave(receipts.len(), &bad, self.inner.delete(&valid).await)
            }
        };
        self.end(place);
        answers
    }

    async fn change_visibility(&self, changes: &[(Receipt, Duration)]) -> Vec<Result<(), QueueError>> {
        let entries = changes.iter().map(|(receipt, _)| receipt.0.clone()).collect();
        let (place, fate, twist) = self.begin(Kind::Change, entries, 0).await;
        let answers = match fate {
            Ok(_) if twist == Twist::Ignored => vec![Ok(()); changes.len()],
            Err(error) => vec![Err(error); changes.len()],
            Ok(bad) => {
                let passing = passing(changes, &bad);
                let valid: Vec<_> = passing.iter().map(|(it, delay)| (self.valid(it), *delay)).collect();
                weave(changes.len(), &bad, self.inner.change_visibility(&valid).await)
            }
        };
        self.end(place);
        answers
    }

    async fn depth(&self) -> Result<Depth, QueueError> {
        let (place, fate, _) = self.begin(Kind::Depth, vec![], 0).await;
        let answer = match fate {
            Err(error) => Err(error),
            Ok(_) => self.inner.depth().await,
        };
        self.end(place);
        answer
    }
}
