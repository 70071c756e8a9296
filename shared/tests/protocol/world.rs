//! One job with its processes. A plan, which is a value, decides everything that happens.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use longhand_shared::Timestamp;
use longhand_shared::domain::job::{Metadata, NewJob, TranscribeOptions};
use longhand_shared::lifecycle;
use longhand_shared::queue::Depth;
use longhand_shared::store::{Created, StoreError};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use crate::checker::Checker;
use crate::processes::{CLAIM_TIMEOUT, ModelResult, Process};
use crate::queue::Queue;
use crate::sim::{Clock, Fault, Tasks, Wire};
use crate::table::{Flaw, Table};

/// The time between rounds of redelivery. It is much shorter than [`CLAIM_TIMEOUT`], so that messages are superfluous
/// for several rounds when redelivery alone must end the job.
const VISIBILITY: Duration = Duration::from_secs(30);

/// The maximum number of concurrent tasks.
const MAX_TASKS: usize = 5;

/// After how many rounds of redelivery and sweeps the job must have ended. Each round is longer than the sweeper's
/// longest pause. One round is not always enough, because of dead letters and clocks that are ahead.
const ROUNDS: usize = 4;

/// An event. A `u8` picks a task or a message, modulo their number.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Move {
    /// A task makes its next call, with or without a fault.
    Step(u8, Option<Fault>),
    /// A task's process crashes.
    Crash(u8),
    /// A message is delivered, even if it is in hand. The fourth delivery is a dead letter.
    Deliver(u8, ModelResult, i8),
    /// A message is delivered that may have been deleted.
    DeliverAgain(u8, ModelResult, i8),
    /// A message is moved to the dead-letter queue and delivered from there.
    DeadLetter(u8),
    /// A sweep starts. The flag is whether the queue reports that it is empty.
    Sweep(bool, i8),
    /// This many seconds pass.
    Wait(u16),
    /// A message is lost.
    Lose(u8),
    /// The job is erased.
    Erase,
}

/// How the job must end after the last fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recovery {
    /// Messages are delivered again, and no sweep runs.
    Redelivery,
    /// All messages are lost, and sweeps run.
    Sweeper,
    /// Messages are delivered again, and sweeps run.
    Both,
}

/// Everything that happens to a job.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    chunks: usize,
    /// How many messages each chunk has from the sweeper at the start.
    resent: usize,
    moves: Vec<Move>,
    /// Whether running tasks continue after the last event. Otherwise they crash.
    survivors: bool,
    recovery: Recovery,
    /// Whether the queue always has messages of other jobs.
    busy: bool,
    /// Whether a message is delivered to one process at a time, and never after its deletion.
    orderly: bool,
}

fn model() -> impl Strategy<Value = ModelResult> {
    prop_oneof![
        6 => Just(ModelResult::Transcribed),
        3 => Just(ModelResult::Rejected),
        1 => Just(ModelResult::Down),
        1 => Just(ModelResult::LeaseLost),
        1 => Just(ModelResult::Overdue),
    ]
}

fn a_move() -> impl Strategy<Value = Move> {
    let ahead = || prop_oneof![6 => Just(0), 1 => -60..60i8];
    prop_oneof![
        60 => any::<u8>().prop_map(|task| Move::Step(task, None)),
        3 => any::<u8>().prop_map(|task| Move::Step(task, Some(Fault::NotDone))),
        3 => any::<u8>().prop_map(|task| Move::Step(task, Some(Fault::NotAnswered))),
        3 => any::<u8>().prop_map(Move::Crash),
        14 => (any::<u8>(), model(), ahead()).prop_map(|(m, model, ahead)| Move::Deliver(m, model, ahead)),
        2 => (any::<u8>(), model(), ahead())
            .prop_map(|(m, model, ahead)| Move::DeliverAgain(m, model, ahead)),
        2 => any::<u8>().prop_map(Move::DeadLetter),
        4 => (any::<bool>(), ahead()).prop_map(|(empty, ahead)| Move::Sweep(empty, ahead)),
        6 => prop_oneof![0..40u16, 0..700u16].prop_map(Move::Wait),
        1 => any::<u8>().prop_map(Move::Lose),
    ]
}

/// Random plans. If `erasing`, the job is erased at a random time.
pub(crate) fn plans(erasing: bool) -> impl Strategy<Value = Plan> {
    let recovery = prop_oneof![Just(Recovery::Redelivery), Just(Recovery::Sweeper), Just(Recovery::Both)];
    let moves = (vec(a_move(), 10..160), any::<u8>()).prop_map(move |(mut moves, at)| {
        if erasing {
            moves.insert(usize::from(at) % moves.len(), Move::Erase);
        }
        moves
    });
    let resent = prop_oneof![2 => Just(0), 1 => 1..=2usize];
    ((1..=4usize, resent), moves, any::<bool>(), recovery, any::<bool>(), any::<bool>()).prop_map(
        |((chunks, resent), moves, survivors, recovery, busy, orderly)| Plan {
            chunks,
            resent,
            moves,
            survivors,
            recovery,
            busy,
            orderly,
        },
    )
}

/// One job, its table and queue, and its running processes.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) process: Process,
    pub(crate) wire: Arc<Wire>,
    pub(crate) new: NewJob,
    pub(crate) tasks: Tasks,
    pub(crate) checker: Checker,
    /// The number of steps so far.
    pub(crate) steps: usize,
    /// Whether a message is delivered to one process at a time.
    pub(crate) orderly: bool,
    /// Whether this is a replay, which needs no checks.
    pub(crate) again: bool,
}

type Verified = Result<(), TestCaseError>;

impl World {
    /// A world without the job.
    pub(crate) fn new(chunks: usize, flaw: Option<Flaw>) -> Self {
        let wire = Arc::new(Wire::default());
        let clock = Arc::new(Clock::new());
        let new = new_job(chunks, clock.read(0));
        let process = Process {
            table: Arc::new(Table::new(Arc::clone(&wire), flaw)),
            queue: Arc::new(Queue::new(Arc::clone(&wire))),
            clock,
            ahead: 0,
            flaw,
        };
        let checker = Checker::new(new.clone());
        Self { process, wire, new, tasks: Tasks::default(), checker, steps: 0, orderly: false, again: false }
    }

    /// The submit of the job.
    pub(crate) fn submit(&self) -> impl Future<Output = Result<Created, StoreError>> + use<> {
        let (process, new) = (self.process.clone(), self.new.clone());
        async move { process.lifecycle().submit(&new, None).await }
    }

    pub(crate) fn begin_submit(&mut self) {
        let submit = self.submit();
        self.tasks.begin(async move { drop(submit.await) });
    }

    fn process(&self, ahead: i8) -> Process {
        Process { ahead, ..self.process.clone() }
    }

    /// Delivers a message to a worker.
    pub(crate) fn begin_work(&mut self, message: usize, model: ModelResult, ahead: i8) {
        if let Some(id) = self.process.queue.pick(message, self.orderly) {
            self.begin_work_on(id, model, ahead);
        }
    }

    /// Delivers the message with this id to a worker.
    pub(crate) fn begin_work_on(&mut self, id: usize, model: ModelResult, ahead: i8) {
        let Some(received) = self.process.queue.deliver(id) else { return };
        let process = self.process(ahead);
        if received.dead {
            self.tasks.begin(process.handle_dead_letter(received));
        } else {
            self.tasks.begin(process.work(received, model));
        }
    }

    /// Delivers messages of the job to one worker, which settles their chunks together.
    pub(crate) fn begin_work_together(&mut self, ids: &[usize]) {
        let received =
            ids.iter().filter_map(|id| self.process.queue.deliver(*id)).filter(|it| !it.dead).collect();
        self.tasks.begin(self.process(0).work_together(received));
    }

    /// Moves a message to the dead-letter queue and delivers it from there.
    pub(crate) fn begin_dead_letter(&mut self, message: usize) {
        if let Some(id) = self.process.queue.pick(message, self.orderly) {
            self.process.queue.move_to_dead_letters(id);
            self.begin_work_on(id, ModelResult::Transcribed, 0);
        }
    }

    /// Delivers a message that may have been deleted.
    pub(crate) fn begin_work_again(&mut self, message: usize, model: ModelResult, ahead: i8) {
        if let Some(received) = self.process.queue.deliver_again(message) {
            self.tasks.begin(self.process(ahead).work(received, model));
        }
    }

    pub(crate) fn begin_sweep(&mut self, empty: bool, ahead: i8) {
        let depth = Depth { visible: u64::from(!empty), ..Depth::default() };
        self.tasks.begin(self.process(ahead).sweep(depth));
    }

    /// Lets the sweeper send messages for all chunks `times` times, each with its own origin. Runs all tasks to their
    /// end.
    pub(crate) fn resend(&mut self, times: usize) -> Verified {
        for _ in 0..times {
            self.process.clock.pass(longhand_shared::store::FIRST_CHECK);
            self.begin_sweep(true, 0);
            self.settle_down()?;
        }
        Ok(())
    }

    /// Lets a task make its next call, and checks all invariants.
    pub(crate) fn step(&mut self, task: usize, fault: Option<Fault>) -> Verified {
        self.tasks.step(task, &self.wire, fault);
        self.steps += 1;
        self.check()
    }

    pub(crate) fn check(&mut self) -> Verified {
        if self.again {
            self.checker.update(&self.process.queue);
            return Ok(());
        }
        self.checker.check(&self.process.table, &self.process.queue)
    }

    /// Runs all tasks to their end, one after the other.
    pub(crate) fn settle_down(&mut self) -> Verified {
        while self.tasks.len() > 0 {
            self.step(0, None)?;
        }
        Ok(())
    }

    fn play(&mut self, next: Move) -> Verified {
        let room = self.tasks.len() < MAX_TASKS;
        match next {
            Move::Step(task, fault) => self.step(usize::from(task), fault)?,
            Move::Crash(task) => self.tasks.crash(usize::from(task)),
            Move::Deliver(message, model, ahead) if room => {
                self.begin_work(usize::from(message), model, ahead);
            }
            Move::DeliverAgain(message, model, ahead) if room && !self.orderly => {
                self.begin_work_again(usize::from(message), model, ahead);
            }
            Move::DeadLetter(message) if room => self.begin_dead_letter(usize::from(message)),
            Move::Sweep(empty, ahead) if room => self.begin_sweep(empty, ahead),
            Move::Deliver(..) | Move::DeliverAgain(..) | Move::DeadLetter(_) | Move::Sweep(..) => {}
            Move::Wait(seconds) => self.process.clock.pass(Duration::from_secs(u64::from(seconds))),
            Move::Lose(message) => self.process.queue.lose(usize::from(message)),
            Move::Erase => {
                self.process.table.expire(self.new.id);
                self.checker.erased();
            }
        }
        self.check()
    }

    /// Requires that the job ends without further faults.
    pub(crate) fn recover(&mut self, recovery: Recovery, busy: bool) -> Verified {
        if recovery == Recovery::Sweeper {
            self.process.queue.lose_all();
        }
        for _ in 0..ROUNDS {
            if recovery == Recovery::Redelivery {
                self.process.clock.pass(VISIBILITY);
            } else {
                self.process.clock.pass(lifecycle::MAX_CHECK_INTERVAL.max(CLAIM_TIMEOUT));
                self.begin_sweep(!busy && self.process.queue.len() == 0, 0);
                self.settle_down()?;
            }
            // Deliver each message once. The remaining messages belong to the next round.
            let mut ids = self.process.queue.ids();
            if busy {
                ids.reverse();
            }
            for id in ids {
                self.begin_work_on(id, ModelResult::Transcribed, 0);
                self.settle_down()?;
            }
            if self.checker.ended().is_some() {
                return self.check_late_messages();
            }
        }
        Err(TestCaseError::fail("the job has not ended"))
    }

    /// Late deliveries and sweeps change nothing. The checker knows the end.
    fn check_late_messages(&mut self) -> Verified {
        for message in 0..self.new.chunks().len() {
            self.begin_work_again(message, ModelResult::Rejected, 0);
            self.begin_work(message, ModelResult::Transcribed, 60);
            self.begin_dead_letter(message);
        }
        self.begin_sweep(true, 60);
        self.settle_down()
    }
}

/// How often each outcome occurred.
pub(crate) type Outcomes = BTreeMap<&'static str, usize>;

/// Runs a plan and checks all invariants after every step.
pub(crate) fn run(plan: &Plan, flaw: Option<Flaw>) -> Result<Outcomes, TestCaseError> {
    let mut world = World::new(plan.chunks, flaw);
    if plan.orderly {
        world.orderly = true;
        world.checker.orderly();
    }
    world.begin_submit();
    // The first write. Other tests cover a crash before it.
    world.step(0, None)?;
    world.resend(plan.resent)?;
    for next in &plan.moves {
        world.play(*next)?;
    }
    if plan.survivors {
        world.settle_down()?;
    } else {
        world.tasks.crash_all();
    }
    if world.checker.is_erased() {
        world.begin_sweep(true, 60);
        world.settle_down()?;
    } else {
        let alone = world.checker.all_sent(&world.process.table, &world.process.queue);
        let recovery =
            if plan.recovery == Recovery::Redelivery && !alone { Recovery::Both } else { plan.recovery };
        world.recover(recovery, plan.busy)?;
    }
    let mut outcomes = world.process.table.outcomes();
    outcomes.insert("steps", world.steps);
    outcomes.insert("orphans", world.process.table.orphans().len());
    Ok(outcomes)
}

pub(crate) fn new_job(chunks: usize, now: Timestamp) -> NewJob {
    let mut new = NewJob::new(
        "ana".parse().expect("a user"),
        (0..chunks).map(|i| format!("{i}.wav").parse().expect("a path")).collect(),
        TranscribeOptions::default(),
        Metadata::new(),
        now,
    )
    .expect("not too many chunks");
    // A fixed id, so that equal events lead to equal states.
    new.id = "0198c1d2-7a3e-7cc0-8000-1c2d3e4f5a6b".parse().expect("an id");
    new
}
