//! A small world explored whole: every order in which its processes can make their calls, with a death
//! between any two of them, until no new state is met. A state is all that the table, the queue and the
//! processes know; what a process knows is what it was told. Two paths to one state are walked on once.
//!
//! The processes are the real functions, so a state cannot be copied: it is come to again from the
//! beginning, by the same choices.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use longhand_shared::lifecycle::FIRST_CHECK;
use proptest::test_runner::TestCaseError;

use crate::processes::{Heard, SILENCE};
use crate::sim::Fault;
use crate::table::Flaw;
use crate::world::{Finale, World};

/// Workers with a message at once.
const WORKERS: usize = 2;

/// What may happen at most so many times on one path. Steps and first deliveries are not counted: they end
/// by themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Budget {
    /// Processes that die.
    crashes: u8,
    /// Deliveries of what another has in hand, or of what was deleted.
    duplicates: u8,
    sweeps: u8,
    /// Messages moved to the dead-letter queue.
    burials: u8,
    /// Times that the model says something else than words.
    troubles: u8,
    /// Calls that fail, done or not.
    faults: u8,
}

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    /// A task makes its next call.
    Step(usize),
    /// The same, and the call fails.
    Fail(usize, Fault),
    Crash(usize),
    /// A message is given to a worker, who makes its first call.
    Deliver(usize, Heard),
    /// The same, for what another has in hand.
    Duplicate(usize, Heard),
    /// The same, for what was deleted.
    Late(usize, Heard),
    Bury(usize),
    /// After a moment, or so late that claims are too old. The queue says that it is empty.
    Sweep {
        late: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Submit,
    Work,
    Bury,
    Sweep,
}

/// A world with what the explorer knows of its tasks.
struct Node {
    world: World,
    left: Budget,
    /// For each task: what it is, and a digest of what it was given and told.
    tasks: Vec<(Kind, u64)>,
}

fn digest(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

impl Node {
    /// The job is in the table, and its messages are about to be sent.
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
        // Which of two tasks alike is the first makes no difference.
        let mut tasks: Vec<_> = self.tasks.iter().map(|(kind, told)| digest((kind, told))).collect();
        tasks.sort_unstable();
        let process = &self.world.process;
        let state = (
            tasks,
            self.left,
            process.table.fingerprint(self.world.new.id),
            process.post.fingerprint(self.left.duplicates > 0),
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
        let all = [Heard::Words, Heard::Refusal, Heard::Nothing, Heard::LeaseLost, Heard::Overdue];
        let heard = if left.troubles > 0 { &all[..] } else { &all[..1] };
        let (worker, burier) = (self.count(Kind::Work) < WORKERS, self.count(Kind::Bury) == 0);
        let letters = self.world.process.post.letters();
        for &(id, in_hand, dead) in &letters {
            if dead && burier && !in_hand {
                choices.push(Choice::Deliver(id, Heard::Words));
            } else if worker && !dead && !in_hand {
                choices.extend(heard.iter().map(|heard| Choice::Deliver(id, *heard)));
            } else if worker && !dead && left.duplicates > 0 {
                choices.extend(heard.iter().map(|heard| Choice::Duplicate(id, *heard)));
            }
            if burier && !in_hand && !dead && left.burials > 0 {
                choices.push(Choice::Bury(id));
            }
        }
        if worker && left.duplicates > 0 {
            let gone = |id: &usize| !letters.iter().any(|letter| letter.0 == *id);
            let gone = (0..self.world.process.post.sent()).filter(gone);
            choices.extend(gone.flat_map(|id| heard.iter().map(move |heard| Choice::Late(id, *heard))));
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
                return self.world.look();
            }
            Choice::Deliver(id, heard) => {
                let dead = self.world.process.post.letters().iter().any(|letter| letter.0 == id && letter.2);
                self.left.troubles -= u8::from(heard != Heard::Words);
                self.world.begin_work_on(id, heard, 0);
                self.begun(if dead { Kind::Bury } else { Kind::Work }, (id, heard as u8));
            }
            Choice::Duplicate(id, heard) => {
                self.left.duplicates -= 1;
                self.left.troubles -= u8::from(heard != Heard::Words);
                self.world.begin_work_on(id, heard, 0);
                self.begun(Kind::Work, (id, heard as u8));
            }
            Choice::Late(id, heard) => {
                self.left.duplicates -= 1;
                self.left.troubles -= u8::from(heard != Heard::Words);
                self.world.begin_work_again(id, heard, 0);
                self.begun(Kind::Work, (id, heard as u8));
            }
            Choice::Bury(id) => {
                self.left.burials -= 1;
                self.world.process.post.kill(id);
                self.world.begin_work_on(id, Heard::Words, 0);
                self.begun(Kind::Bury, (id, 0));
            }
            Choice::Sweep { late } => {
                self.left.sweeps -= 1;
                self.world.process.clock.pass(if late { 2 * SILENCE } else { FIRST_CHECK });
                self.world.begin_sweep(true, 0);
                self.begun(Kind::Sweep, (0, 0));
            }
        }
        // A death before the first call is a delivery that never was.
        self.step(self.tasks.len() - 1, None)
    }

    fn begun(&mut self, kind: Kind, given: (usize, u8)) {
        self.tasks.push((kind, digest((given, self.world.process.clock.read(0)))));
        assert_eq!(self.tasks.len(), self.world.tasks.len(), "a task that has begun is about to make a call");
    }

    /// A task makes one call, and is then about to make the next, or has ended.
    fn step(&mut self, task: usize, fault: Option<Fault>) -> Result<(), TestCaseError> {
        let calls = self.world.wire.calls();
        // The model is asked in a step of its own, in which nothing is called.
        while self.world.wire.calls() == calls && self.world.tasks.len() == self.tasks.len() {
            self.world.step(task, fault)?;
        }
        let heard = self.world.wire.heard();
        if self.world.tasks.len() < self.tasks.len() {
            self.tasks.remove(task);
        } else {
            let told = &mut self.tasks[task].1;
            *told = digest((*told, heard, self.world.process.clock.read(0)));
        }
        Ok(())
    }
}

/// What was met.
#[derive(Debug, Default)]
struct Explored {
    states: usize,
    transitions: usize,
    /// States in which nobody is at work; from each of them the job was brought to its end.
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

/// How a wrong state is come to, and what is wrong.
type Found = (Vec<Choice>, TestCaseError);

impl Explorer {
    /// The state at the end of a path that was walked before, where its tasks were these.
    fn replay(&self, path: &[Choice], tasks: &[(Kind, u64)]) -> Node {
        let mut node = Node::new(self.chunks, self.budget, self.flaw).expect("it was right before");
        node.world.again = true;
        for choice in path {
            node.apply(*choice).expect("it was right before");
        }
        node.world.again = false;
        node.world.look().expect("it was right before");
        assert_eq!(node.tasks.len(), tasks.len(), "the same choices lead to the same state");
        node.tasks = tasks.to_vec();
        node.world.wire.overhear(true);
        node
    }

    /// Goes on from a state that was not met before.
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
            // Only the first goes on from here; the others begin anew.
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

    /// Nobody is at work, and nothing more goes wrong: the job ends, by redelivery where every chunk had a
    /// message, and by the sweeper alone where all messages are lost.
    fn end(&self, node: &Node, path: &[Choice]) -> Result<(), TestCaseError> {
        let process = &node.world.process;
        let mut finales = vec![Finale::Sweeper, Finale::Both];
        if node.world.checker.all_mailed(&process.table, &process.post) {
            finales.push(Finale::Redelivery);
        }
        finales.into_iter().try_for_each(|finale| self.replay(path, &[]).world.finale(finale, false))
    }
}

/// Explores everything that is reachable within the budget.
fn explore(chunks: usize, budget: Budget, flaw: Option<Flaw>) -> Result<Explored, Found> {
    let mut explorer = Explorer { chunks, budget, flaw, seen: HashSet::new(), explored: Explored::default() };
    let node = Node::new(chunks, budget, flaw).map_err(|wrong| (vec![], wrong))?;
    node.world.wire.overhear(true);
    explorer.seen.insert(node.key());
    explorer.visit(node, &mut vec![])?;
    Ok(explorer.explored)
}

const NONE: Budget = Budget { crashes: 0, duplicates: 0, sweeps: 0, burials: 0, troubles: 0, faults: 0 };

/// Set for worlds that take minutes.
const LONG: &str = "LONGHAND_TEST_EXHAUSTIVE";

/// Explores these worlds, and larger ones where they are asked for.
fn nothing_is_wrong(usual: &[(usize, Budget)], larger: &[(usize, Budget)]) {
    let larger = if std::env::var_os(LONG).is_some() { larger } else { &[] };
    for (chunks, budget) in usual.iter().chain(larger) {
        match explore(*chunks, *budget, None) {
            Ok(explored) => {
                eprintln!("{chunks} chunks, {budget:?}: {explored:?}");
                assert!(explored.states > explored.quiet && explored.quiet > 1, "{explored:?}");
            }
            Err((path, wrong)) => panic!("{chunks} chunks, {budget:?}: {wrong}\nafter {path:#?}"),
        }
    }
}

#[test]
fn two_workers_who_die_anywhere() {
    let usual = [
        (1, Budget { crashes: 3, ..NONE }),
        (2, Budget { crashes: 2, ..NONE }),
        (3, Budget { crashes: 1, ..NONE }),
        (2, Budget { crashes: 1, troubles: 1, ..NONE }),
        (2, Budget { crashes: 1, burials: 1, ..NONE }),
        (2, Budget { burials: 1, faults: 1, ..NONE }),
    ];
    let larger = [(3, Budget { crashes: 2, ..NONE }), (2, Budget { crashes: 2, faults: 1, ..NONE })];
    nothing_is_wrong(&usual, &larger);
}

#[test]
fn two_workers_with_duplicate_and_late_deliveries() {
    let usual = [
        (2, Budget { crashes: 1, duplicates: 1, ..NONE }),
        (1, Budget { duplicates: 1, troubles: 1, ..NONE }),
    ];
    let larger = [
        (2, Budget { crashes: 2, duplicates: 1, ..NONE }),
        (1, Budget { crashes: 1, duplicates: 1, troubles: 1, ..NONE }),
    ];
    nothing_is_wrong(&usual, &larger);
}

#[test]
fn two_workers_and_the_sweeper() {
    let usual =
        [(1, Budget { crashes: 1, sweeps: 1, ..NONE }), (1, Budget { sweeps: 1, burials: 1, ..NONE })];
    let larger = [(1, Budget { duplicates: 1, sweeps: 1, ..NONE }), (2, Budget { sweeps: 1, ..NONE })];
    nothing_is_wrong(&usual, &larger);
}

/// Each flaw, and the small world in which it must show.
#[test]
fn every_flaw_shows_in_a_small_world() {
    let crash = Budget { crashes: 1, ..NONE };
    let duplicate = Budget { crashes: 1, duplicates: 1, ..NONE };
    let trouble = Budget { crashes: 1, troubles: 1, ..NONE };
    let superseded = Budget { duplicates: 1, troubles: 1, ..NONE };
    let burials = Budget { sweeps: 1, burials: 1, ..NONE };
    let cases = [
        (Flaw::SettlesTwice, 2, duplicate, "settled twice"),
        (Flaw::HearsTheSuperseded, 1, superseded, "failed the chunk, which is"),
        (Flaw::ClaimsForAnyone, 1, Budget { sweeps: 1, ..NONE }, "was taken from a living worker"),
        (Flaw::BusyForItsOwn, 2, crash, "its message is deleted"),
        (Flaw::CountsDown, 2, Budget { crashes: 2, ..NONE }, "ended with chunks not struck off"),
        (Flaw::EndsTwice, 2, crash, "finished 2 times"),
        (Flaw::DeletesEarly, 2, NONE, "its message is deleted"),
        (Flaw::DeletesWhenSuperseded, 1, superseded, "its message is deleted"),
        (Flaw::DeletesBeforeRequeue, 2, trouble, "its message is deleted"),
        (Flaw::ForgetsTheOrigin, 1, Budget { troubles: 1, faults: 1, ..NONE }, "its message is deleted"),
        (Flaw::BuriesAnothers, 1, burials, "another's dead letter failed a living worker's chunk"),
        (Flaw::BuriesTheBlameless, 1, Budget { crashes: 3, ..NONE }, "its message is deleted"),
        (Flaw::LeavesSettledAlone, 2, crash, "deleted"),
    ];
    for (flaw, chunks, budget, what) in cases {
        match explore(chunks, budget, Some(flaw)) {
            Ok(explored) => panic!("{flaw:?} is on none of all paths: {explored:?}"),
            Err((path, wrong)) => {
                assert!(wrong.to_string().contains(what), "{flaw:?}: {wrong} after {path:#?}");
            }
        }
    }
}
