//! The state that all connections share: the current behaviour, the scripts, the records, and the calls in flight.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
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
    /// Cancelled when the server must stop.
    pub(crate) stop: CancellationToken,
    /// Notified when all calls in flight are cut.
    pub(crate) crash: Notify,
    books: watch::Sender<Books>,
    controls: Mutex<Controls>,
}

/// The configured behaviour and scripts.
#[derive(Debug)]
struct Controls {
    /// The behaviour before the first step of the schedule.
    base: Arc<Behaviour>,
    /// Sorted by time.
    steps: Vec<(Instant, Arc<Behaviour>)>,
    scripts: HashMap<String, VecDeque<Answer>>,
    /// How many answers from prompts' lists each file name has got.
    prompt_turns: HashMap<String, usize>,
    /// The number of calls in flight that count towards `max_concurrent`.
    admitted: usize,
}

/// The behaviour with a random seed, if it has none.
fn seeded(mut behaviour: Behaviour) -> Arc<Behaviour> {
    behaviour.seed.get_or_insert_with(rand::random);
    Arc::new(behaviour)
}

impl Controls {
    fn current(&self) -> Arc<Behaviour> {
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
                base: seeded(behaviour),
                steps: Vec::new(),
                scripts: HashMap::new(),
                prompt_turns: HashMap::new(),
                admitted: 0,
            }),
        }
    }

    pub(crate) fn set(&self, behaviour: Behaviour) {
        let mut controls = self.controls.lock();
        controls.base = seeded(behaviour);
        controls.steps.clear();
    }

    pub(crate) fn schedule(&self, Schedule(mut steps): Schedule) {
        steps.sort_by_key(|step| step.after_ms);
        let now = Instant::now();
        let mut controls = self.controls.lock();
        controls.base = controls.current();
        controls.steps = steps
            .into_iter()
            .filter_map(|step| {
                // A step beyond the clock's range never starts.
                let from = now.checked_add(Duration::from_millis(step.after_ms))?;
                Some((from, seeded(step.behaviour)))
            })
            .collect();
    }

    pub(crate) fn script(&self, file_name: &str, answers: VecDeque<Answer>) {
        self.controls.lock().scripts.insert(file_name.to_owned(), answers);
    }

    pub(crate) fn next_scripted(&self, file_name: &str) -> Option<Answer> {
        self.controls.lock().scripts.get_mut(file_name)?.pop_front()
    }

    /// The next answer of a list in a prompt, if any is left.
    pub(crate) fn next_prompted(&self, file_name: &str, answers: &[Answer]) -> Option<Answer> {
        let mut controls = self.controls.lock();
        let turn = controls.prompt_turns.entry(file_name.to_owned()).or_default();
        let answer = answers.get(*turn)?.clone();
        *turn += 1;
        Some(answer)
    }

    pub(crate) fn books(&self) -> Books {
        self.books.borrow().clone()
    }

    pub(crate) fn reset_books(&self) {
        self.controls.lock().prompt_turns.clear();
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
    pub(crate) state: Arc<State>,
    pub(crate) behaviour: Arc<Behaviour>,
    arrived: Duration,
    /// The file's name and the number of this call for it, from 1.
    file: Option<(String, u64)>,
    /// Whether the call is within `max_concurrent`.
    pub(crate) is_admitted: bool,
    settled: bool,
}

impl Call {
    /// Records a call whose head has arrived.
    pub(crate) fn begin(state: &Arc<State>) -> Self {
        let (behaviour, is_admitted) = {
            let mut controls = state.controls.lock();
            let behaviour = controls.current();
            let most = behaviour.max_concurrent;
            let is_admitted = most.is_none_or(|most| controls.admitted < most);
            controls.admitted += usize::from(is_admitted);
            (behaviour, is_admitted)
        };
        state.books.send_modify(|books| {
            books.calls += 1;
            books.in_flight += 1;
            books.most_in_flight = books.most_in_flight.max(books.in_flight);
        });
        Self {
            arrived: state.started.elapsed(),
            state: Arc::clone(state),
            behaviour,
            file: None,
            is_admitted,
            settled: false,
        }
    }

    /// The file's name, empty if unknown.
    pub(crate) fn file_name(&self) -> &str {
        self.file.as_ref().map_or("", |(name, _)| name)
    }

    /// Draws the answer and the latency.
    pub(crate) fn draw(&self) -> (Answer, Duration) {
        let nth = self.file.as_ref().map_or(0, |(_, nth)| *nth);
        self.behaviour.draw(self.behaviour.seed.unwrap_or_default(), self.file_name(), nth)
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
    pub(crate) fn note(&self, change: impl FnOnce(&mut Books, &mut FileBook)) {
        self.state.books.send_modify(|books| {
            let name = self.file.as_ref().map(|(name, _)| name);
            let mut file = name.and_then(|name| books.per_file.remove(name)).unwrap_or_default();
            change(books, &mut file);
            books.per_file.extend(name.map(|name| (name.clone(), file)));
        });
    }

    /// Records a complete response, with or without a transcript.
    pub(crate) fn answered(&mut self, status: u16, transcript: bool) {
        self.settled = true;
        self.note(|books, file| {
            *books.by_status.entry(status).or_default() += 1;
            file.ok += u64::from(transcript);
            file.errors += u64::from(!transcript);
        });
    }

    /// Records a cut connection.
    pub(crate) fn cut(&mut self) {
        self.settled = true;
        self.note(|books, file| {
            books.cut += 1;
            file.errors += 1;
        });
    }

    /// Records that the call hangs until the client disconnects.
    pub(crate) fn hung(&self) {
        self.note(|books, _| books.hung += 1);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.is_admitted {
            self.state.controls.lock().admitted -= 1;
        }
        let aborted = u64::from(!self.settled && !self.state.stop.is_cancelled());
        let took = self.state.started.elapsed().saturating_sub(self.arrived);
        self.note(|books, file| {
            books.in_flight -= 1;
            books.aborted += aborted;
            file.aborted += aborted;
            file.took.push(took);
        });
    }
}
