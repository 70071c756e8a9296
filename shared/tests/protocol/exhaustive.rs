//! Exhaustive exploration of small worlds: every order of calls, with a crash between any two of them, until no new
//! state is found. A state consists of the table, the queue, and each process' input and answers. The exploration
//! continues only once from each state.
//!
//! The processes are the real functions, so a state cannot be copied. It is reached again by a replay of the same
//! choices from the beginning.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use longhand_shared::store::FIRST_CHECK;
use proptest::test_runner::TestCaseError;

use crate::processes::{CLAIM_TIMEOUT, ModelResult};
use crate::sim::Fault;
use crate::table::Flaw;
use crate::world::{Recovery, World};

/// How many workers may have a message at once.
const WORKERS: usize = 2;

/// How often an event may happen on one path. Steps and first deliveries have no limit, since their number is finite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Budget {
    /// Crashes of processes.
    crashes: u8,
    /// Deliveries of messages that another process has in hand or that were deleted.
    duplicates: u8,
    sweeps: u8,
    /// Messages moved to the dead-letter queue.
    dead_letters: u8,
    /// Model results other than a transcription.
    failures: u8,
    /// Calls that fail, with or without effect.
    faults: u8,
    /// Deliveries of two messages to one worker, which settles their chunks together.
    together: u8,
}

/// The next event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    /// A task makes its next call.
    Step(usize),
    /// A task makes its next call, which fails.
    Fail(usize, Fault),
    Crash(usize),
    /// A message is delivered to a worker, which makes its first call.
    Deliver(usize, ModelResult),
    /// Two messages are delivered to a worker, which makes its first call.
    Together(usize, usize),
    /// A message that another process has in hand is delivered.
    Duplicate(usize, ModelResult),
    /// A deleted message is delivered.
    Late(usize, ModelResult),
    DeadLetter(usize),
    /// A sweep, `late` after the claims have timed out. The queue reports that it is empty.
    Sweep {
        late: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Submit,
    Work,
    DeadLetter,
    Sweep,
}

/// A world and the state of its tasks.
struct Node {
    world: World,
    left: Budget,
    /// For each task: its kind, and a digest of its input and of the answers to its calls.
    tasks: Vec<(Kind, u64)>,
}

fn digest(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

impl Node {
    /// A world after the first write: the job is stored, and its messages are not sent yet.
    fn new(chunks: usize, budget: Budget, flaw: Option<Flaw>) -> Result<Self, TestCaseError> {
        let mut world = World::new(chunks, flaw);
        if budget.duplicates == 0 {
            world.orderly = true;
            world.checker.orderly();
        }
        world.begin_submit();
        let mut node = Self { world, left: budget, tasks: vec![(Kind::Submit, 0)] };
        node.step(0, None)?;
        Ok(node)
    }

    fn key(&self) -> u128 {
        // The order of tasks makes no difference.
        let mut tasks: Vec<_> = self.tasks.iter().map(|(kind, answers)| digest((kind, answers))).collect();
        tasks.sort_unstable();
        let process = &self.world.process;
        let state = (
            tasks,
            self.left,
            process.table.fingerprint(self.world.new.id),
            process.queue.fingerprint(self.left.duplicates > 0),
            self.world.checker.fingerprint(),
            process.clock.read(0),
        );
        u128::from(digest((0, &state))) << 64 | u128::from(digest((1, &state)))
    }

    fn count(&self, kind: Kind) -> usize {
        self.tasks.iter().filter(|task| task.0 == kind).count()
    }

    fn choices(&self) -> Vec<Choice> {
        let left = self.left;
        let mut choices = Vec::new();
        for task in 0..self.tasks.len() {
            choices.push(Choice::Step(task));
            if left.crashes > 0 {
                choices.push(Choice::Crash(task));
            }
            if left.faults > 0 {
                choices.extend([Fault::NotDone, Fault::NotAnswered].map(|fault| Choice::Fail(task, fault)));
            }
        }
        let all = [
            ModelResult::Transcribed,
            ModelResult::Rejected,
            ModelResult::Down,
            ModelResult::LeaseLost,
            ModelResult::Overdue,
        ];
        let model = if left.failures > 0 { &all[..] } else { &all[..1] };
        let (worker, dead_letter_worker) =
            (self.count(Kind::Work) < WORKERS, self.count(Kind::DeadLetter) == 0);
        let messages = self.world.process.queue.messages();
        for &(id, in_hand, dead) in &messages {
            if dead && dead_letter_worker && !in_hand {
                choices.push(Choice::Deliver(id, ModelResult::Transcribed));
            } else if worker && !dead && !in_hand {
                choices.extend(model.iter().map(|model| Choice::Deliver(id, *model)));
            } else if worker && !dead && left.duplicates > 0 {
                choices.extend(model.iter().map(|model| Choice::Duplicate(id, *model)));
            }
            if dead_letter_worker && !in_hand && !dead && left.dead_letters > 0 {
                choices.push(Choice::DeadLetter(id));
            }
        }
        if worker && left.together > 0 {
            let free: Vec<_> = messages.iter().filter(|(_, in_hand, dead)| !in_hand && !dead).collect();
            for (place, one) in free.iter().enumerate() {
                choices.extend(free[place + 1..].iter().map(|other| Choice::Together(one.0, other.0)));
            }
        }
        if worker && left.duplicates > 0 {
            let gone = |id: &usize| !messages.iter().any(|message| message.0 == *id);
            let gone = (0..self.world.process.queue.sent()).filter(gone);
            choices.extend(gone.flat_map(|id| model.iter().map(move |model| Choice::Late(id, *model))));
        }
        if left.sweeps > 0 && self.count(Kind::Sweep) == 0 {
            choices.extend([false, true].map(|late| Choice::Sweep { late }));
        }
        choices
    }

    fn apply(&mut self, choice: Choice) -> Result<(), TestCaseError> {
        match choice {
            Choice::Step(task) => return self.step(task, None),
            Choice::Fail(task, fault) => {
                self.left.faults -= 1;
                return self.step(task, Some(fault));
            }
            Choice::Crash(task) => {
                self.left.crashes -= 1;
                self.world.tasks.crash(task);
                self.tasks.remove(task);
                return self.world.check();
            }
            Choice::Deliver(id, model) => {
                let dead =
                    self.world.process.queue.messages().iter().any(|message| message.0 == id && message.2);
                self.left.failures -= u8::from(model != ModelResult::Transcribed);
                self.world.begin_work_on(id, model, 0);
                self.begun(if dead { Kind::DeadLetter } else { Kind::Work }, (id, model as u8));
            }
            Choice::Together(one, other) => {
                self.left.together -= 1;
                self.world.begin_work_together(&[one, other]);
                self.begun(Kind::Work, (one, u8::MAX));
            }
            Choice::Duplicate(id, model) => {
                self.left.duplicates -= 1;
                self.left.failures -= u8::from(model != ModelResult::Transcribed);
                self.world.begin_work_on(id, model, 0);
                self.begun(Kind::Work, (id, model as u8));
            }
            Choice::Late(id, model) => {
                self.left.duplicates -= 1;
                self.left.failures -= u8::from(model != ModelResult::Transcribed);
                self.world.begin_work_again(id, model, 0);
                self.begun(Kind::Work, (id, model as u8));
            }
            Choice::DeadLetter(id) => {
                self.left.dead_letters -= 1;
                self.world.process.queue.move_to_dead_letters(id);
                self.world.begin_work_on(id, ModelResult::Transcribed, 0);
                self.begun(Kind::DeadLetter, (id, 0));
            }
            Choice::Sweep { late } => {
                self.left.sweeps -= 1;
                self.world.process.clock.pass(if late { 2 * CLAIM_TIMEOUT } else { FIRST_CHECK });
                self.world.begin_sweep(true, 0);
                self.begun(Kind::Sweep, (0, 0));
            }
        }
        // A crash before the first call equals no delivery, so the first call follows at once.
        self.step(self.tasks.len() - 1, None)
    }

    fn begun(&mut self, kind: Kind, given: (usize, u8)) {
        self.tasks.push((kind, digest((given, self.world.process.clock.read(0)))));
        assert_eq!(self.tasks.len(), self.world.tasks.len(), "the new task is about to make its first call");
    }

    /// Lets a task make one call and run until its next call or its end.
    fn step(&mut self, task: usize, fault: Option<Fault>) -> Result<(), TestCaseError> {
        let calls = self.world.wire.calls();
        // The model call is a separate step without a call to the table or the queue.
        while self.world.wire.calls() == calls && self.world.tasks.len() == self.tasks.len() {
            self.world.step(task, fault)?;
        }
        let answer = self.world.wire.take_answer();
        if self.world.tasks.len() < self.tasks.len() {
            self.tasks.remove(task);
        } else {
            let answers = &mut self.tasks[task].1;
            *answers = digest((*answers, answer, self.world.process.clock.read(0)));
        }
        Ok(())
    }
}

/// Statistics of an exploration.
#[derive(Debug, Default)]
struct Explored {
    states: usize,
    transitions: usize,
    /// States without running tasks. From each of them the job must end.
    quiet: usize,
    longest: usize,
}

struct Explorer {
    chunks: usize,
    budget: Budget,
    flaw: Option<Flaw>,
    seen: HashSet<u128>,
    explored: Explored,
}

/// The path to a violation, and the violation.
type Found = (Vec<Choice>, TestCaseError);

impl Explorer {
    /// Reaches the state at the end of a known path again. `tasks` are its tasks.
    fn replay(&self, path: &[Choice], tasks: &[(Kind, u64)]) -> Node {
        let mut node =
            Node::new(self.chunks, self.budget, self.flaw).expect("no violation at the first time");
        node.world.again = true;
        for choice in path {
            node.apply(*choice).expect("no violation at the first time");
        }
        node.world.again = false;
        node.world.check().expect("no violation at the first time");
        assert_eq!(node.tasks.len(), tasks.len(), "a replay reaches the same state");
        node.tasks = tasks.to_vec();
        node.world.wire.record_answers(true);
        node
    }

    /// Explores all successors of a new state.
    fn visit(&mut self, node: Node, path: &mut Vec<Choice>) -> Result<(), Found> {
        self.explored.states += 1;
        self.explored.longest = self.explored.longest.max(path.len());
        let (choices, tasks) = (node.choices(), node.tasks.clone());
        if node.tasks.is_empty() {
            self.explored.quiet += 1;
            self.end(&node, path).map_err(|wrong| (path.clone(), wrong))?;
        }
        let mut node = Some(node);
        for choice in choices {
            // The first choice continues from this node. The others need a replay.
            let mut child = node.take().unwrap_or_else(|| self.replay(path, &tasks));
            self.explored.transitions += 1;
            path.push(choice);
            child.apply(choice).map_err(|wrong| (path.clone(), wrong))?;
            if self.seen.insert(child.key()) {
                self.visit(child, path)?;
            }
            path.pop();
        }
        Ok(())
    }

    /// Checks that the job ends from a state without running tasks and without further faults: by redelivery alone if
    /// every chunk had a message, and by the sweeper alone if all messages are lost.
    fn end(&self, node: &Node, path: &[Choice]) -> Result<(), TestCaseError> {
        let process = &node.world.process;
        let mut recoveries = vec![Recovery::Sweeper, Recovery::Both];
        if node.world.checker.all_sent(&process.table, &process.queue) {
            recoveries.push(Recovery::Redelivery);
        }
        recoveries.into_iter().try_for_each(|recovery| self.replay(path, &[]).world.recover(recovery, false))
    }
}

/// Explores all states within the budget.
fn explore(chunks: usize, budget: Budget, flaw: Option<Flaw>) -> Result<Explored, Found> {
    let mut explorer = Explorer { chunks, budget, flaw, seen: HashSet::new(), explored: Explored::default() };
    let node = Node::new(chunks, budget, flaw).map_err(|wrong| (vec![], wrong))?;
    node.world.wire.record_answers(true);
    explorer.seen.insert(node.key());
    explorer.visit(node, &mut vec![])?;
    Ok(explorer.explored)
}

const NONE: Budget =
    Budget { crashes: 0, duplicates: 0, sweeps: 0, dead_letters: 0, failures: 0, faults: 0, together: 0 };

/// The variable that enables worlds that take minutes.
const LONG: &str = "LONGHAND_TEST_EXHAUSTIVE";

/// Explores the usual worlds, and also the larger ones if [`LONG`] is set.
fn assert_no_violation(usual: &[(usize, Budget)], larger: &[(usize, Budget)]) {
    let larger = if std::env::var_os(LONG).is_some() { larger } else { &[] };
    for (chunks, budget) in usual.iter().chain(larger) {
        match explore(*chunks, *budget, None) {
            Ok(explored) => {
                eprintln!("{chunks} chunks, {budget:?}: {explored:?}");
                assert!(explored.states > explored.quiet && explored.quiet > 1, "{explored:?}");
            }
            Err((path, violation)) => panic!("{chunks} chunks, {budget:?}: {violation}\nafter {path:#?}"),
        }
    }
}

#[test]
fn two_workers_with_crashes() {
    let usual = [
        (1, Budget { crashes: 3, ..NONE }),
        (2, Budget { crashes: 2, ..NONE }),
        (3, Budget { crashes: 1, ..NONE }),
        (2, Budget { crashes: 1, failures: 1, ..NONE }),
        (2, Budget { crashes: 1, dead_letters: 1, ..NONE }),
        (2, Budget { dead_letters: 1, faults: 1, ..NONE }),
    ];
    let larger = [(3, Budget { crashes: 2, ..NONE }), (2, Budget { crashes: 2, faults: 1, ..NONE })];
    assert_no_violation(&usual, &larger);
}

#[test]
fn two_workers_with_duplicate_and_late_deliveries() {
    let usual = [
        (2, Budget { crashes: 1, duplicates: 1, ..NONE }),
        (1, Budget { duplicates: 1, failures: 1, ..NONE }),
    ];
    let larger = [
        (2, Budget { crashes: 2, duplicates: 1, ..NONE }),
        (1, Budget { crashes: 1, duplicates: 1, failures: 1, ..NONE }),
    ];
    assert_no_violation(&usual, &larger);
}

#[test]
fn a_worker_that_settles_chunks_together() {
    let usual = [
        (2, Budget { together: 1, crashes: 2, ..NONE }),
        (2, Budget { together: 1, faults: 1, ..NONE }),
        (2, Budget { together: 1, duplicates: 1, failures: 1, ..NONE }),
        (3, Budget { together: 1, crashes: 1, ..NONE }),
    ];
    let larger = [
        (2, Budget { together: 1, crashes: 1, faults: 1, ..NONE }),
        (2, Budget { together: 1, crashes: 1, sweeps: 1, ..NONE }),
        (3, Budget { together: 2, crashes: 1, ..NONE }),
    ];
    assert_no_violation(&usual, &larger);
}

#[test]
fn two_workers_and_the_sweeper() {
    let usual =
        [(1, Budget { crashes: 1, sweeps: 1, ..NONE }), (1, Budget { sweeps: 1, dead_letters: 1, ..NONE })];
    let larger = [(1, Budget { duplicates: 1, sweeps: 1, ..NONE }), (2, Budget { sweeps: 1, ..NONE })];
    assert_no_violation(&usual, &larger);
}

/// Each flaw, and a small world in which it must be found.
#[test]
fn every_flaw_is_found_in_a_small_world() {
    let crash = Budget { crashes: 1, ..NONE };
    let duplicate = Budget { crashes: 1, duplicates: 1, ..NONE };
    let failure = Budget { crashes: 1, failures: 1, ..NONE };
    let superseded = Budget { duplicates: 1, failures: 1, ..NONE };
    let dead_letters = Budget { sweeps: 1, dead_letters: 1, ..NONE };
    let cases = [
        (Flaw::SettlesTwice, 2, duplicate, "settled twice"),
        (Flaw::AcceptsSuperseded, 1, superseded, "failed the chunk, which is"),
        (Flaw::ClaimsForAnyMessage, 1, Budget { sweeps: 1, ..NONE }, "was taken from a running worker"),
        (Flaw::RefusesOwnMessage, 2, crash, "its message is deleted"),
        (Flaw::CountsChunks, 2, Budget { crashes: 2, ..NONE }, "AllSettled with a non-empty unsettled set"),
        (Flaw::FinishesTwice, 2, crash, "finished 2 times"),
        (Flaw::DeletesEarly, 2, NONE, "its message is deleted"),
        (Flaw::DeletesBeforeRemoval, 2, Budget { together: 1, ..crash }, "its message is deleted"),
        (Flaw::DeletesWhenSuperseded, 1, superseded, "its message is deleted"),
        (Flaw::DeletesBeforeRequeue, 2, failure, "its message is deleted"),
        (Flaw::DropsOrigin, 1, Budget { failures: 1, faults: 1, ..NONE }, "its message is deleted"),
        (
            Flaw::FailsClaimedByOther,
            1,
            dead_letters,
            "another message's dead letter failed a running worker's chunk",
        ),
        (Flaw::SkipsRequeue, 1, Budget { crashes: 3, ..NONE }, "its message is deleted"),
        (Flaw::SkipsConclude, 2, crash, "deleted"),
    ];
    for (flaw, chunks, budget, what) in cases {
        match explore(chunks, budget, Some(flaw)) {
            Ok(explored) => panic!("{flaw:?} was not found: {explored:?}"),
            Err((path, violation)) => {
                assert!(violation.to_string().contains(what), "{flaw:?}: {violation} after {path:#?}");
            }
        }
    }
}
