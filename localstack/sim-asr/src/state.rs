//! What the server's connections share: the behaviour in force, the scripts, the books, and the calls at work.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    answer::Answer,
    behaviour::{Behaviour, Schedule},
    books::{Books, FileBook},
};

#[derive(Debug)]
pub(crate) struct State {
    started: Instant,
    stop: CancellationToken,
    books: watch::Sender<Books>,
    controls: Mutex<Controls>,
}

/// What the caller of the sim has set.
#[derive(Debug)]
struct Controls {
    /// What was in force when the schedule was set.
    base: Arc<InForce>,
    /// Sorted by time.
    steps: Vec<(Instant, Arc<InForce>)>,
    scripts: HashMap<String, VecDeque<Answer>>,
    /// How many answers of lists in prompts each file name has had.
    prompt_turns: HashMap<String, usize>,
    /// How many calls hold a place among `max_concurrent`.
    at_work: usize,
}

/// A behaviour with its chance settled.
#[derive(Debug)]
pub(crate) struct InForce {
    pub(crate) behaviour: Behaviour,
    pub(crate) seed: u64,
}

impl InForce {
    fn new(behaviour: Behaviour) -> Arc<Self> {
        let seed = behaviour.seed.unwrap_or_else(rand::random);
        Arc::new(Self { behaviour, seed })
    }
}

impl Controls {
    fn in_force(&self) -> Arc<InForce> {
        let now = Instant::now();
        let due = self.steps.iter().rfind(|(from, _)| *from <= now);
        Arc::clone(due.map_or(&self.base, |(_, step)| step))
    }
}

impl State {
    pub(crate) fn new(behaviour: Behaviour) -> Self {
        Self {
            started: Instant::now(),
            stop: CancellationToken::new(),
            books: watch::Sender::default(),
            controls: Mutex::new(Controls {
                base: InForce::new(behaviour),
                steps: Vec::new(),
                scripts: HashMap::new(),
                prompt_turns: HashMap::new(),
                at_work: 0,
            }),
        }
    }

    /// Cancelled when the server is to stop.
    pub(crate) fn stop_token(&self) -> &CancellationToken {
        &self.stop
    }

    fn controls(&self) -> MutexGuard<'_, Controls> {
        self.controls.lock().expect("no code panics while it holds the controls")
    }

    pub(crate) fn set(&self, behaviour: Behaviour) {
        let mut controls = self.controls();
        controls.base = InForce::new(behaviour);
        controls.steps.clear();
    }

    pub(crate) fn schedule(&self, Schedule(mut steps): Schedule) {
        steps.sort_by_key(|step| step.after_ms);
        let now = Instant::now();
        let mut controls = self.controls();
        controls.base = controls.in_force();
        controls.steps = steps
            .into_iter()
            .filter_map(|step| {
                // What lies beyond the clock's end never comes.
                let from = now.checked_add(Duration::from_millis(step.after_ms))?;
                Some((from, InForce::new(step.behaviour)))
            })
            .collect();
    }

    pub(crate) fn script(&self, file_name: &str, answers: VecDeque<Answer>) {
        self.controls().scripts.insert(file_name.to_owned(), answers);
    }

    pub(crate) fn next_scripted(&self, file_name: &str) -> Option<Answer> {
        self.controls().scripts.get_mut(file_name)?.pop_front()
    }

    /// The answer of a list in a prompt whose turn it is, if one is left.
    pub(crate) fn next_prompted(&self, file_name: &str, answers: &[Answer]) -> Option<Answer> {
        let mut controls = self.controls();
        let turn = controls.prompt_turns.entry(file_name.to_owned()).or_default();
        let answer = answers.get(*turn)?.clone();
        *turn += 1;
        Some(answer)
    }

    pub(crate) fn books(&self) -> Books {
        self.books.borrow().clone()
    }

    pub(crate) fn reset_books(&self) {
        self.controls().prompt_turns.clear();
        self.books.send_modify(|books| {
            *books = Books { in_flight: books.in_flight, most_in_flight: books.in_flight, ..Books::default() }
        });
    }

    pub(crate) async fn wait_until(&self, cond: impl Fn(&Books) -> bool, deadline: Duration) -> bool {
        let mut changes = self.books.subscribe();
        timeout(deadline, changes.wait_for(|books| cond(books)))
            .await
            .is_ok_and(|satisfied| satisfied.is_ok())
    }
}

/// A call being served. Dropping it ends it, answered or not.
#[derive(Debug)]
pub(crate) struct Call {
    state: Arc<State>,
    in_force: Arc<InForce>,
    arrived: Duration,
    /// The file's name and the number of this call for it, from 1.
    file: Option<(String, u64)>,
    has_place: bool,
    settled: bool,
}

impl Call {
    /// A call whose head has just arrived.
    pub(crate) fn begin(state: &Arc<State>) -> Self {
        let (in_force, has_place) = {
            let mut controls = state.controls();
            let in_force = controls.in_force();
            let most = in_force.behaviour.max_concurrent;
            let has_place = most.is_none_or(|most| controls.at_work < most);
            controls.at_work += usize::from(has_place);
            (in_force, has_place)
        };
        state.books.send_modify(|books| {
            books.calls += 1;
            books.in_flight += 1;
            books.most_in_flight = books.most_in_flight.max(books.in_flight);
        });
        Self {
            arrived: state.started.elapsed(),
            state: Arc::clone(state),
            in_force,
            file: None,
            has_place,
            settled: false,
        }
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    pub(crate) fn behaviour(&self) -> &Behaviour {
        &self.in_force.behaviour
    }

    /// Whether it is one of at most `max_concurrent`.
    pub(crate) fn has_place(&self) -> bool {
        self.has_place
    }

    /// The name of the file it brought, empty if it is not known.
    pub(crate) fn file_name(&self) -> &str {
        self.file.as_ref().map_or("", |(name, _)| name)
    }

    /// What chance has in store for it.
    pub(crate) fn draw(&self) -> (Answer, Duration) {
        let nth = self.file.as_ref().map_or(0, |(_, nth)| *nth);
        self.behaviour().draw(self.in_force.seed, self.file_name(), nth)
    }

    /// The head of its file part has arrived.
    pub(crate) fn brings(&mut self, file_name: &str, content_type: Option<&str>) {
        let mut nth = 0;
        self.state.books.send_modify(|books| {
            let book = books.per_file.entry(file_name.to_owned()).or_default();
            book.calls += 1;
            book.arrived.push(self.arrived);
            book.content_type = content_type.map(str::to_owned);
            nth = book.calls;
        });
        self.file = Some((file_name.to_owned(), nth));
    }

    /// Writes into the books, and into the file's book if the file is known.
    pub(crate) fn note(&self, books: impl FnOnce(&mut Books), file: impl FnOnce(&mut FileBook)) {
        self.state.books.send_modify(|all| {
            books(all);
            if let Some((name, _)) = &self.file {
                file(all.per_file.entry(name.clone()).or_default());
            }
        });
    }

    /// It has been answered with a whole HTTP answer, with a transcript in it or not.
    pub(crate) fn answered(&mut self, status: u16, transcript: bool) {
        self.settled = true;
        self.note(
            |books| *books.by_status.entry(status).or_default() += 1,
            |file| {
                file.ok += u64::from(transcript);
                file.errors += u64::from(!transcript);
            },
        );
    }

    /// Its connection is cut.
    pub(crate) fn cut(&mut self) {
        self.settled = true;
        self.note(|books| books.cut += 1, |file| file.errors += 1);
    }

    /// It will hang until its client goes away.
    pub(crate) fn hung(&self) {
        self.note(|books| books.hung += 1, |_| ());
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.has_place {
            self.state.controls().at_work -= 1;
        }
        let aborted = u64::from(!self.settled && !self.state.stop.is_cancelled());
        let took = self.state.started.elapsed().saturating_sub(self.arrived);
        self.note(
            |books| {
                books.in_flight -= 1;
                books.aborted += aborted;
            },
            |file| {
                file.aborted += aborted;
                file.took.push(took);
            },
        );
    }
}
