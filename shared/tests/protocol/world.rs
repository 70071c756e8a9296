//! One job in a world where anything can happen next, and what happens is a value.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use longhand_shared::Timestamp;
use longhand_shared::job::{Metadata, NewJob, TranscribeOptions};
use longhand_shared::lifecycle;
use longhand_shared::queue::Depth;
use longhand_shared::store::{Created, StoreError};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use crate::checker::Checker;
use crate::post::Post;
use crate::processes::{Heard, Process, SILENCE};
use crate::sim::{Clock, Fault, Tasks, Wire};
use crate::table::{Flaw, Table};

/// How long until what nobody has finished comes again; much shorter than [`SILENCE`], so that a
/// message that is not in charge of its chunk finds out when all depends on messages.
const VISIBILITY: Duration = Duration::from_secs(30);

/// Tasks at once at most.
const MOST_TASKS: usize = 5;

/// How many rounds of redelivery and sweeping must be enough to end a job, each longer than the
/// sweeper ever waits. One would be, but for clocks that are ahead and dead letters.
const ROUNDS: usize = 4;

/// The next thing that happens. A `u8` picks a task or a message, modulo how many there are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Move {
    /// A task makes its next call, well or not.
    Step(u8, Option<Fault>),
    /// A task's process dies.
    Crash(u8),
    /// A message comes, whoever else may have it; a fourth delivery is a dead letter.
    Deliver(u8, Heard, i8),
    /// A message comes that may have been deleted.
    DeliverAgain(u8, Heard, i8),
    /// A message is moved to the dead-letter queue and comes from there.
    Bury(u8),
    /// A sweep begins. The queue says that it is empty, or that it is not.
    Sweep(bool, i8),
    /// Seconds pass.
    Wait(u16),
    /// A message is lost.
    Lose(u8),
    /// The job is erased.
    Erase,
}

/// What brings the job to its end when the disorder is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finale {
    /// Messages come again; nobody sweeps.
    Redelivery,
    /// All messages are lost; the sweeper alone knows.
    Sweeper,
    /// Both as they should be.
    Both,
}

/// All that happens to a job.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    chunks: usize,
    /// How many messages each chunk has from the sweeper when it begins.
    resent: usize,
    moves: Vec<Move>,
    /// Whether those who live when the disorder ends live on.
    survivors: bool,
    finale: Finale,
    /// Whether other jobs keep the queue from ever being empty.
    busy: bool,
    /// Whether a message comes to one at a time, and never after it was deleted.
    orderly: bool,
}

fn heard() -> impl Strategy<Value = Heard> {
    prop_oneof![
        6 => Just(Heard::Words),
        3 => Just(Heard::Refusal),
        1 => Just(Heard::Nothing),
        1 => Just(Heard::LeaseLost),
        1 => Just(Heard::Overdue),
    ]
}

fn a_move() -> impl Strategy<Value = Move> {
    let ahead = || prop_oneof![6 => Just(0), 1 => -60..60i8];
    prop_oneof![
        60 => any::<u8>().prop_map(|task| Move::Step(task, None)),
        3 => any::<u8>().prop_map(|task| Move::Step(task, Some(Fault::NotDone))),
        3 => any::<u8>().prop_map(|task| Move::Step(task, Some(Fault::NotAnswered))),
        3 => any::<u8>().prop_map(Move::Crash),
        14 => (any::<u8>(), heard(), ahead()).prop_map(|(m, heard, ahead)| Move::Deliver(m, heard, ahead)),
        2 => (any::<u8>(), heard(), ahead())
            .prop_map(|(m, heard, ahead)| Move::DeliverAgain(m, heard, ahead)),
        2 => any::<u8>().prop_map(Move::Bury),
        4 => (any::<bool>(), ahead()).prop_map(|(empty, ahead)| Move::Sweep(empty, ahead)),
        6 => prop_oneof![0..40u16, 0..700u16].prop_map(Move::Wait),
        1 => any::<u8>().prop_map(Move::Lose),
    ]
}

/// Plans, in which the job is erased at some time or never.
pub(crate) fn plans(erasing: bool) -> impl Strategy<Value = Plan> {
    let finale = prop_oneof![Just(Finale::Redelivery), Just(Finale::Sweeper), Just(Finale::Both)];
    let moves = (vec(a_move(), 10..160), any::<u8>()).prop_map(move |(mut moves, at)| {
        if erasing {
            moves.insert(usize::from(at) % moves.len(), Move::Erase);
        }
        moves
    });
    let resent = prop_oneof![2 => Just(0), 1 => 1..=2usize];
    ((1..=4usize, resent), moves, any::<bool>(), finale, any::<bool>(), any::<bool>()).prop_map(
        |((chunks, resent), moves, survivors, finale, busy, orderly)| Plan {
            chunks,
            resent,
            moves,
            survivors,
            finale,
            busy,
            orderly,
        },
    )
}

/// One job, its table and queue, and the processes at work.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) process: Process,
    pub(crate) wire: Arc<Wire>,
    pub(crate) new: NewJob,
    pub(crate) tasks: Tasks,
    pub(crate) checker: Checker,
    /// Steps of tasks so far.
    pub(crate) steps: usize,
    /// Whether a message comes to one at a time.
    pub(crate) orderly: bool,
    /// Whether all this has happened before, and was looked at then.
    pub(crate) again: bool,
}

type Verified = Result<(), TestCaseError>;

impl World {
    /// A world in which the job is not made yet.
    pub(crate) fn new(chunks: usize, flaw: Option<Flaw>) -> Self {
        let wire = Arc::new(Wire::default());
        let clock = Arc::new(Clock::new());
        let new = new_job(chunks, clock.read(0));
        let process = Process {
            table: Arc::new(Table::new(Arc::clone(&wire), flaw)),
            post: Arc::new(Post::new(Arc::clone(&wire))),
            clock,
            ahead: 0,
            flaw,
        };
        let checker = Checker::new(new.clone());
        Self { process, wire, new, tasks: Tasks::default(), checker, steps: 0, orderly: false, again: false }
    }

    /// What makes the job; its answer goes to nobody.
    pub(crate) fn submit(&self) -> impl Future<Output = Result<Created, StoreError>> + use<> {
        let (process, new) = (self.process.clone(), self.new.clone());
        async move { lifecycle::submit(process.table.as_ref(), process.post.as_ref(), &new, None).await }
    }

    pub(crate) fn begin_submit(&mut self) {
        let submit = self.submit();
        self.tasks.begin(async move { drop(submit.await) });
    }

    fn process(&self, ahead: i8) -> Process {
        Process { ahead, ..self.process.clone() }
    }

    /// Begins to work on a message.
    pub(crate) fn begin_work(&mut self, message: usize, heard: Heard, ahead: i8) {
        if let Some(id) = self.process.post.pick(message, self.orderly) {
            self.begin_work_on(id, heard, ahead);
        }
    }

    /// Begins to work on the message of this id.
    pub(crate) fn begin_work_on(&mut self, id: usize, heard: Heard, ahead: i8) {
        let Some(handed) = self.process.post.hand_out(id) else { return };
        let process = self.process(ahead);
        if handed.dead {
            self.tasks.begin(process.bury(handed));
        } else {
            self.tasks.begin(process.work(handed, heard));
        }
    }

    /// Moves a message to the dead-letter queue and begins to work on it there.
    pub(crate) fn begin_burial(&mut self, message: usize) {
        if let Some(id) = self.process.post.pick(message, self.orderly) {
            self.process.post.kill(id);
            self.begin_work_on(id, Heard::Words, 0);
        }
    }

    /// Begins to work on a message that may have been deleted.
    pub(crate) fn begin_work_again(&mut self, message: usize, heard: Heard, ahead: i8) {
        if let Some(handed) = self.process.post.hand_out_again(message) {
            self.tasks.begin(self.process(ahead).work(handed, heard));
        }
    }

    pub(crate) fn begin_sweep(&mut self, empty: bool, ahead: i8) {
        let depth = Depth { visible: u64::from(!empty), ..Depth::default() };
        self.tasks.begin(self.process(ahead).sweep(depth));
    }

    /// Lets all tasks end, and the sweeper send the messages of all chunks again so many times. Each has
    /// an origin of its own.
    pub(crate) fn resend(&mut self, times: usize) -> Verified {
        for _ in 0..times {
            self.process.clock.pass(lifecycle::FIRST_CHECK);
            self.begin_sweep(true, 0);
            self.settle_down()?;
        }
        Ok(())
    }

    /// A task makes its next call, and everything is looked at.
    pub(crate) fn step(&mut self, task: usize, fault: Option<Fault>) -> Verified {
        self.tasks.step(task, &self.wire, fault);
        self.steps += 1;
        self.look()
    }

    pub(crate) fn look(&mut self) -> Verified {
        if self.again {
            self.checker.glance(&self.process.post);
            return Ok(());
        }
        self.checker.look(&self.process.table, &self.process.post)
    }

    /// Lets all tasks end, one after the other.
    pub(crate) fn settle_down(&mut self) -> Verified {
        while self.tasks.len() > 0 {
            self.step(0, None)?;
        }
        Ok(())
    }

    fn play(&mut self, next: Move) -> Verified {
        let room = self.tasks.len() < MOST_TASKS;
        match next {
            Move::Step(task, fault) => self.step(usize::from(task), fault)?,
            Move::Crash(task) => self.tasks.crash(usize::from(task)),
            Move::Deliver(message, heard, ahead) if room => {
                self.begin_work(usize::from(message), heard, ahead);
            }
            Move::DeliverAgain(message, heard, ahead) if room && !self.orderly => {
                self.begin_work_again(usize::from(message), heard, ahead);
            }
            Move::Bury(message) if room => self.begin_burial(usize::from(message)),
            Move::Sweep(empty, ahead) if room => self.begin_sweep(empty, ahead),
            Move::Deliver(..) | Move::DeliverAgain(..) | Move::Bury(_) | Move::Sweep(..) => {}
            Move::Wait(seconds) => self.process.clock.pass(Duration::from_secs(u64::from(seconds))),
            Move::Lose(message) => self.process.post.lose(usize::from(message)),
            Move::Erase => {
                self.process.table.expire(self.new.id);
                self.checker.erased();
            }
        }
        self.look()
    }

    /// Peace: no more faults, and everyone does what they should. The job must end.
    pub(crate) fn finale(&mut self, finale: Finale, busy: bool) -> Verified {
        if finale == Finale::Sweeper {
            self.process.post.lose_all();
        }
        for _ in 0..ROUNDS {
            if finale == Finale::Redelivery {
                self.process.clock.pass(VISIBILITY);
            } else {
                self.process.clock.pass(lifecycle::LONGEST_CHECK.max(SILENCE));
                self.begin_sweep(!busy && self.process.post.len() == 0, 0);
                self.settle_down()?;
            }
            // Each once: what is still there afterwards is for the next round.
            let mut ids = self.process.post.ids();
            if busy {
                ids.reverse();
            }
            for id in ids {
                self.begin_work_on(id, Heard::Words, 0);
                self.settle_down()?;
            }
            if self.checker.ended().is_some() {
                return self.epilogue();
            }
        }
        Err(TestCaseError::fail("the job has not ended"))
    }

    /// Whatever comes late changes nothing; the checker has seen the end.
    fn epilogue(&mut self) -> Verified {
        for message in 0..self.new.chunks().len() {
            self.begin_work_again(message, Heard::Refusal, 0);
            self.begin_work(message, Heard::Words, 60);
            self.begin_burial(message);
        }
        self.begin_sweep(true, 60);
        self.settle_down()
    }
}

/// What was met on the way.
pub(crate) type Sights = BTreeMap<&'static str, usize>;

/// Runs a plan, looking at everything after every step.
pub(crate) fn run(plan: &Plan, flaw: Option<Flaw>) -> Result<Sights, TestCaseError> {
    let mut world = World::new(plan.chunks, flaw);
    if plan.orderly {
        world.orderly = true;
        world.checker.orderly();
    }
    world.begin_submit();
    // What a submit leaves that does not come this far has tests of its own.
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
        let alone = world.checker.all_mailed(&world.process.table, &world.process.post);
        let finale = if plan.finale == Finale::Redelivery && !alone { Finale::Both } else { plan.finale };
        world.finale(finale, plan.busy)?;
    }
    let mut sights = world.process.table.outcomes();
    sights.insert("steps", world.steps);
    sights.insert("orphans", world.process.table.orphans().len());
    Ok(sights)
}

pub(crate) fn new_job(chunks: usize, now: Timestamp) -> NewJob {
    let mut new = NewJob::new(
        "ana".parse().expect("a user"),
        (0..chunks).map(|i| format!("{i}.wav").parse().expect("a path")).collect(),
        TranscribeOptions::default(),
        Metadata::new(),
        now,
    )
    .expect("1 to 24 chunks");
    // Always the same, so that worlds in which the same has happened are equal.
    new.id = "0198c1d2-7a3e-7cc0-8000-1c2d3e4f5a6b".parse().expect("an id");
    new
}
