//! The state that all connections share: the current behaviour, the scripts, the records, and the calls in flight.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::answer::Answer;
use crate::behaviour::{Behaviour, Schedule};
use crate::books::{Books, FileBook};

#[derive(Debug)]
pub(crate) struct State {
    started: Instant,
    stop: CancellationToken,
    /// Notified when all calls in flight are cut.
    pub(crate) crash: Notify,
    books: watch::Sender<Books>,
    controls: Mutex<Controls>,
}

/// The configured behaviour and scripts.
#[derive(Debug)]
struct Controls {
    /// The behaviour before the first step of the schedule.
    base: Arc<SeededBehaviour>,
    /// Sorted by time.
    steps: Vec<(Instant, Arc<SeededBehaviour>)>,
    scripts: HashMap<String, VecDeque<Answer>>,
    /// How many answers from prompts' lists each file name has got.
    prompt_turns: HashMap<String, usize>,
    /// The number of calls in flight that count towards `max_concurrent`.
    admitted: usize,
}

/// A behaviour and its random seed.
#[derive(Debug)]
pub(crate) struct SeededBehaviour {
    pub(crate) behaviour: Behaviour,
    pub(crate) seed: u64,
}

impl SeededBehaviour {
    fn new(behaviour: Behaviour) -> Arc<Self> {
        let seed = behaviour.seed.unwrap_or_else(rand::random);
        Arc::new(Self { behaviour, seed })
    }
}

impl Controls {
    fn current(&self) -> Arc<SeededBehaviour> {
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
            crash: Notify::new(),
            books: watch::Sender::default(),
            controls: Mutex::new(Controls {
                base: SeededBehaviour::new(behaviour),
                steps: Vec::new(),
                scripts: HashMap::new(),
                prompt_turns: HashMap::new(),
                admitted: 0,
            }),
        }
    }

    /// Cancelled when the server must stop.
    pub(crate) fn stop_token(&self) -> &CancellationToken {
        &self.stop
    }

    fn controls(&self) -> MutexGuard<'_, Controls> {
        self.controls.lock().expect("no code panics while it holds the lock")
    }

    pub(crate) fn set(&self, behaviour: Behaviour) {
        let mut controls = self.controls();
        controls.base = SeededBehaviour::new(behaviour);
        controls.steps.clear();
    }

    pub(crate) fn schedule(&self, Schedule(mut steps): Schedule) {
        steps.sort_by_key(|step| step.after_ms);
        let now = Instant::now();
        let mut controls = self.controls();
        controls.base = controls.current();
        controls.steps = steps
            .into_iter()
            .filter_map(|step| {
                // A step beyond the clock's range never starts.
                let from = now.checked_add(Duration::from_millis(step.after_ms))?;
                Some((from, SeededBehaviour::new(step.behaviour)))
            })
            .collect();
    }

    pub(crate) fn script(&self, file_name: &str, answers: VecDeque<Answer>) {
        self.controls().scripts.insert(file_name.to_owned(), answers);
    }

    pub(crate) fn next_scripted(&self, file_name: &str) -> Option<Answer> {
        self.controls().scripts.get_mut(file_name)?.pop_front()
    }

    /// The next answer of a list in a prompt, if any is left.
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

/// A call in flight. Dropping it ends the call.
#[derive(Debug)]
pub(crate) struct Call {
    state: Arc<State>,
    current: Arc<SeededBehaviour>,
    arrived: Duration,
    /// The file's name and the number of this call for it, from 1.
    file: Option<(String, u64)>,
    is_admitted: bool,
    settled: bool,
}

impl Call {
    /// Records a call whose head has arrived.
    pub(crate) fn begin(state: &Arc<State>) -> Self {
        let (current, is_admitted) = {
            let mut controls = state.controls();
            let current = controls.current();
            let most = current.behaviour.max_concurrent;
            let is_admitted = most.is_none_or(|most| controls.admitted < most);
            controls.admitted += usize::from(is_admitted);
            (current, is_admitted)
        };
        state.books.send_modify(|books| {
            books.calls += 1;
            books.in_flight += 1;
            books.most_in_flight = books.most_in_flight.max(books.in_flight);
        });
        Self {
            arrived: state.started.elapsed(),
            state: Arc::clone(state),
            current,
            file: None,
            is_admitted,
            settled: false,
        }
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    pub(crate) fn behaviour(&self) -> &Behaviour {
        &self.current.behaviour
    }

    /// Whether the call is within `max_concurrent`.
    pub(crate) fn is_admitted(&self) -> bool {
        self.is_admitted
    }

    /// The file's name, empty if unknown.
    pub(crate) fn file_name(&self) -> &str {
        self.file.as_ref().map_or("", |(name, _)| name)
    }

    /// Draws the answer and the latency.
    pub(crate) fn draw(&self) -> (Answer, Duration) {
        let nth = self.file.as_ref().map_or(0, |(_, nth)| *nth);
        self.behaviour().draw(self.current.seed, self.file_name(), nth)
    }

    /// Records the head of the file part.
    pub(crate) fn file_received(&mut self, file_name: &str, content_type: Option<&str>) {
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

    /// Updates the records, and those of the file if it is known.
    pub(crate) fn note(&self, books: impl FnOnce(&mut Books), file: impl FnOnce(&mut FileBook)) {
        self.state.books.send_modify(|all| {
            books(all);
            if let Some((name, _)) = &self.file {
                file(all.per_file.entry(name.clone()).or_default());
            }
        });
    }

    /// Records a complete response, with or without a transcript.
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

    /// Records a cut connection.
    pub(crate) fn cut(&mut self) {
        self.settled = true;
        self.note(|books| books.cut += 1, |file| file.errors += 1);
    }

    /// Records that the call hangs until the client disconnects.
    pub(crate) fn hung(&self) {
        self.note(|books| books.hung += 1, |_| ());
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.is_admitted {
            self.state.controls().admitted -= 1;
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
