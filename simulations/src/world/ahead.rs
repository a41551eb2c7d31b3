//! Threads that work ahead of the world: each takes an engine with the next thing that befalls it, and has the
//! engine take that in, and what befalls it after that.
//!
//! What befalls an engine next is known a while before the world comes to it ([`super::foresight`]), and what the
//! engine makes of it depends on nothing else. So a thread does the work meanwhile, and the world finds it done.
//! Nothing here decides anything: with no thread, or with ten, an engine takes in the same, in the same order.
//!
//! Work lies in a ring of places. It is taken in the order in which it was given, by the threads and by the world
//! too, where it waits for something that is not done.

use std::collections::VecDeque;
use std::panic;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use blobmesh_protocol::Time;
use blobmesh_protocol::engine::{Engine, Input, Output};
use blobmesh_protocol::stats::Stats;

use super::links::Frame;
use super::{NodeIndex, host};

/// How much work there is at most that was given and not taken back: several times what is known ahead in a
/// world of thousands of nodes.
const PLACES: usize = 256;
/// How much may befall an engine after the first thing that it is told ahead.
const THEN_MAX: usize = 7;
/// How often a thread without work looks for some before it sleeps: for some hundreds of microseconds. To wake one
/// takes as long as an engine takes for ten events, and work comes again and again.
const SPINS: u32 = 10_000;

/// Is what befalls an engine next. Work crosses from one processor's cache into another's and back, so it is small.
#[derive(Debug)]
pub(super) enum Task {
    /// A message of a neighbour.
    Message { from: NodeIndex, frame: Arc<Frame> },
    /// The moment that it wanted to be woken at.
    Timeout,
    /// Anything else.
    Input(Box<Input>),
    /// The end of a fetch whose last bytes it was just told of.
    End(Box<Input>),
}

/// Is what befalls an engine with the bytes of a flow: they come, and their fetch may end with them.
pub(super) type Bytes = (Task, Option<Task>);

/// Is an engine with what befalls it, and what befalls it then unless it does something before.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) engine: Box<Engine>,
    pub(super) at: Time,
    pub(super) task: Task,
    pub(super) then: Vec<(Time, Task)>,
}

/// Is an engine that took in what befell it.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) engine: Box<Engine>,
    pub(super) told: Told,
}

/// Says what an engine was told ahead, and what it made of it: of what comes next, and of what comes then.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) next: Step,
    then: VecDeque<Step>,
}

/// Is one thing that an engine was told ahead.
#[derive(Debug)]
pub(super) struct Step {
    /// The moment at which it befalls it.
    pub(super) at: Time,
    pub(super) made: Made,
    /// The engine's counters before it, if something befalls it before that was told ahead, too.
    pub(super) before: Option<Box<Stats>>,
}

/// Is what an engine makes of something.
#[derive(Debug)]
pub(super) struct Made {
    /// How many of its outputs come of it.
    pub(super) outputs: usize,
    /// When it wants to be woken.
    pub(super) timeout: Option<Time>,
    /// How many hashes it resolves.
    pub(super) resolutions: usize,
}

/// Names work that was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(usize);

/// Has threads work ahead. See the [module](self).
#[derive(Debug)]
pub(super) struct Ahead {
    ring: Arc<Ring>,
    threads: Vec<JoinHandle<()>>,
    /// How much was given, whether it was started or not.
    given: usize,
}

#[derive(Debug)]
struct Ring {
    places: Vec<Place>,
    /// The counters of the engine of each place before it was told.
    before: Vec<Mutex<Stats>>,
    /// How much was given, and how much of it was taken by somebody who does it.
    given: Count,
    taken: Count,
    /// How many threads sleep.
    asleep: Count,
    over: AtomicBool,
}

/// Is a number in a line of the cache that is its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Count(AtomicUsize);

/// Is a place of the ring, in lines of the cache that are its own, too.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Place {
    /// Whether what it holds is done.
    is_done: AtomicBool,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
enum Held {
    /// It is free.
    #[default]
    Nothing,
    Work(Work),
    /// Somebody does the work, and will put here what came of it.
    UnderWay,
    Done(Done),
}

impl Ahead {
    /// Starts so many threads.
    pub(super) fn start(threads: usize) -> Self {
        let ring = Arc::new(Ring {
            places: (0..PLACES).map(|_| Place::default()).collect(),
            before: (0..PLACES).map(|_| Mutex::default()).collect(),
            given: Count::default(),
            taken: Count::default(),
            asleep: Count::default(),
            over: AtomicBool::new(false),
        });
        let thread = |_| {
            let ring = Arc::clone(&ring);
            thread::spawn(move || ring.work())
        };
        Self { threads: (0..threads).map(thread).collect(), ring, given: 0 }
    }

    /// Returns whether there is room for more work.
    pub(super) fn has_room(&self) -> bool {
        matches!(*self.ring.place(self.given).held(), Held::Nothing)
    }

    /// Gives work, of which [`has_room`](Self::has_room) said that there is room for it. Nobody begins it before
    /// [`start_given`](Self::start_given).
    pub(super) fn give(&mut self, work: Work) -> Ticket {
        let ticket = Ticket(self.given);
        let place = self.ring.place(ticket.0);
        place.is_done.store(false, Ordering::Relaxed);
        *place.held() = Held::Work(work);
        self.given = ticket.0.wrapping_add(1);
        ticket
    }

    /// Adds to work what befalls its engine then, and returns whether that was in time: nobody has begun it.
    pub(super) fn give_then(&mut self, ticket: Ticket, at: Time, task: Task) -> bool {
        match &mut *self.ring.place(ticket.0).held() {
            Held::Work(work) if work.then.len() < THEN_MAX => {
                work.then.push((at, task));
                true
            }
            Held::Work(_) | Held::UnderWay | Held::Done(_) | Held::Nothing => false,
        }
    }

    /// Lets what was given begin.
    pub(super) fn start_given(&self) {
        if self.ring.given.0.load(Ordering::Relaxed) == self.given {
            return;
        }
        self.ring.given.0.store(self.given, Ordering::SeqCst);
        if self.ring.asleep.0.load(Ordering::SeqCst) > 0 {
            self.threads.iter().for_each(|thread| thread.thread().unpark());
        }
    }

    /// Returns the counters of an engine before it was told what is named by a ticket that was taken, and after
    /// which nothing was given.
    pub(super) fn stats_before(&self, ticket: Ticket) -> Stats {
        *self.ring.before(ticket.0)
    }

    /// Takes work back that is done; until it is, does what nobody has begun.
    pub(super) fn take(&mut self, ticket: Ticket) -> Option<Done> {
        let mut idle = 0_u32;
        self.start_given();
        while !self.ring.place(ticket.0).is_done.load(Ordering::Acquire) {
            if self.ring.do_next() {
                continue;
            }
            idle = idle.saturating_add(1);
            if idle < SPINS {
                std::hint::spin_loop();
            } else {
                thread::yield_now();
                self.pass_on_panic();
            }
        }
        match std::mem::take(&mut *self.ring.place(ticket.0).held()) {
            Held::Done(done) => Some(done),
            Held::Nothing | Held::Work(_) | Held::UnderWay => None,
        }
    }

    /// Panics as a thread did: its engine is gone, and this world with it.
    fn pass_on_panic(&mut self) {
        if let Some(ended) = self.threads.iter().position(JoinHandle::is_finished)
            && let Err(panic) = self.threads.swap_remove(ended).join()
        {
            panic::resume_unwind(panic);
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.ring.over.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            // It ended, or it panicked and that was told already.
            let _ended = thread.join();
        }
    }
}

impl Ring {
    fn place(&self, number: usize) -> &Place {
        // A power of two, so that numbers may begin again at 0.
        &self.places[number % PLACES]
    }

    fn before(&self, number: usize) -> MutexGuard<'_, Stats> {
        self.before[number % PLACES].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does work until it is over.
    fn work(&self) {
        let mut idle = 0_u32;
        while !self.over.load(Ordering::SeqCst) {
            idle = if self.do_next() { 0 } else { idle + 1 };
            if idle >= SPINS {
                self.sleep();
                idle = 0;
            } else if idle > 0 {
                std::hint::spin_loop();
            }
        }
    }

    /// Sleeps until there is work. Whoever gives some looks for sleepers after that, and a sleeper for work after
    /// it said that it sleeps: one of the two sees the other.
    fn sleep(&self) {
        self.asleep.0.fetch_add(1, Ordering::SeqCst);
        if !self.has_work() && !self.over.load(Ordering::SeqCst) {
            thread::park();
        }
        self.asleep.0.fetch_sub(1, Ordering::SeqCst);
    }

    fn has_work(&self) -> bool {
        self.taken.0.load(Ordering::SeqCst) != self.given.0.load(Ordering::SeqCst)
    }

    /// Does the next work that nobody has begun, and returns whether there was any.
    fn do_next(&self) -> bool {
        let number = self.taken.0.load(Ordering::Relaxed);
        if number == self.given.0.load(Ordering::Acquire) {
            return false;
        }
        let next = number.wrapping_add(1);
        let took = self
            .taken
            .0
            .compare_exchange(number, next, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok();
        if took && let Some(work) = self.place(number).begin() {
            *self.before(number) = work.engine.stats();
            self.place(number).end(work.done());
        }
        true
    }
}

impl Place {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the work that lies here. The place stays taken until what comes of it is there: it must not be given away
    /// meanwhile.
    fn begin(&self) -> Option<Work> {
        match std::mem::replace(&mut *self.held(), Held::UnderWay) {
            Held::Work(work) => Some(work),
            Held::Nothing | Held::UnderWay | Held::Done(_) => None,
        }
    }

    fn end(&self, done: Done) {
        *self.held() = Held::Done(done);
        self.is_done.store(true, Ordering::Release);
    }
}

impl Work {
    /// Has the engine take it in.
    fn done(self) -> Done {
        let Self { mut engine, at, task, then } = self;
        let next = Step { at, made: task.told_to(&mut engine, at), before: None };
        let mut told = Told { next, then: VecDeque::new() };
        // A moment that it wanted to be woken at counts although it wants that no more.
        let mut wakes_at = told.next.made.timeout;
        for (at, task) in then {
            let last = told.then.back().map_or(&told.next.made, |step| &step.made);
            if !task.is_certain(&engine, at, (last.outputs, wakes_at)) {
                break;
            }
            let before = task.is_apart().then(|| Box::new(engine.stats()));
            let made = task.told_to(&mut engine, at);
            wakes_at = [wakes_at, made.timeout].into_iter().flatten().min();
            told.then.push_back(Step { at, made, before });
        }
        Done { engine, told }
    }
}

impl Task {
    /// Has an engine take it in.
    fn told_to(self, engine: &mut Engine, at: Time) -> Made {
        let before = engine.outputs().len();
        match self {
            Self::Message { from, frame } => {
                if let Some(message) = frame.message.clone() {
                    engine.handle(at, Input::Message { peer: host::peer_of(from), message });
                }
            }
            Self::Timeout if is_due(engine, at) => engine.handle(at, Input::Timeout),
            Self::Timeout => {}
            Self::Input(input) | Self::End(input) => engine.handle(at, *input),
        }
        Made::after(engine, before)
    }

    /// Returns whether this befalls an engine at a moment after what it made of what befell it before: the last few of its
    /// outputs, and when it wants to be woken. Words to others come back later than what is known ahead; anything else
    /// may befall itself sooner.
    fn is_certain(
        &self,
        engine: &Engine,
        at: Time,
        (of_last, wakes_at): (usize, Option<Time>),
    ) -> bool {
        let mut made = engine.outputs().rev().take(of_last);
        match self {
            // Groups of fetches that are let go come into the store, and what ends then may end otherwise.
            Self::End(_) => !made.any(|output| matches!(output, Output::StopFetch { .. })),
            Self::Message { .. } | Self::Timeout | Self::Input(_) => {
                made.all(|output| matches!(output, Output::Send { .. }))
                    && wakes_at.is_none_or(|wakes_at| wakes_at >= at)
            }
        }
    }

    /// Returns whether it befalls an engine by itself: anything else may happen in the world before.
    fn is_apart(&self) -> bool {
        !matches!(self, Self::End(_))
    }
}

impl Told {
    /// Returns the moment of what comes last.
    pub(super) fn last_at(&self) -> Time {
        self.then.back().map_or(self.next.at, |step| step.at)
    }

    /// Takes what comes next, and what is left after it.
    pub(super) fn split(mut self) -> (Step, Option<Self>) {
        match self.then.pop_front() {
            Some(next) => {
                let step = std::mem::replace(&mut self.next, next);
                (step, Some(self))
            }
            None => (self.next, None),
        }
    }
}

impl Made {
    /// Returns what an engine makes of what it was told, and leaves it there. It had so many outputs before.
    pub(super) fn after(engine: &Engine, before: usize) -> Self {
        let outputs = engine.outputs().len().saturating_sub(before);
        let timeout = engine.poll_timeout().map(|(at, _)| at);
        Self { outputs, timeout, resolutions: engine.resolutions() }
    }
}

/// Returns whether an engine that is woken has something to do: what it was to be woken for may have been taken
/// back.
pub(super) fn is_due(engine: &Engine, now: Time) -> bool {
    engine.poll_timeout().is_none_or(|(at, _)| at <= now)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use blobmesh_protocol::id::WantId;
    use blobmesh_protocol::wire::message::{Hello, Message};
    use blobmesh_protocol::{Config, Hash};

    use super::*;

    fn engine(number: usize) -> Box<Engine> {
        Box::new(Engine::new(Config::default(), host::peer_of(number), 1, Time::ZERO))
    }

    fn work(number: usize) -> Work {
        let hash = Hash::of(&number.to_le_bytes());
        let input = Input::Get { want: WantId(7), hash, timeout: Some(Duration::from_secs(1)) };
        let at = Time::from_nanos(5);
        Work { engine: engine(number), at, task: Task::Input(Box::new(input)), then: Vec::new() }
    }

    /// Returns what an engine made of its want.
    fn looks_for(mut done: Done) -> Vec<Hash> {
        let look = |output| if let Output::Look { hash, .. } = output { Some(hash) } else { None };
        std::iter::from_fn(|| done.engine.poll_output()).filter_map(look).collect()
    }

    #[test]
    fn work_is_done_once_and_comes_back_to_whoever_gave_it_whatever_the_order() {
        for threads in 0..3 {
            let mut ahead = Ahead::start(threads);
            for round in 0..3 {
                let tickets: Vec<_> = (0..PLACES).map(|number| ahead.give(work(number))).collect();
                assert!(!ahead.has_room());
                ahead.start_given();
                let mut order: Vec<usize> = (0..PLACES).collect();
                order.rotate_left(round * 50);
                for number in order {
                    let done = ahead.take(tickets[number]).expect("it was given");
                    let gets = (ahead.stats_before(tickets[number]).gets, done.engine.stats().gets);
                    assert_eq!(gets, (0, 1));
                    assert_eq!(looks_for(done), [Hash::of(&number.to_le_bytes())]);
                }
                assert!(ahead.has_room());
            }
        }
    }

    #[test]
    fn place_of_work_that_is_under_way_is_not_given_away() {
        let mut ahead = Ahead::start(0);
        let tickets: Vec<_> = (0..PLACES).map(|number| ahead.give(work(number))).collect();
        let begun = ahead.ring.place(0).begin().expect("it was given");
        assert!(!ahead.has_room(), "what comes of it would take the place of other work");
        assert!(!ahead.give_then(tickets[0], begun.at, Task::Timeout), "it has begun");
        ahead.ring.place(0).end(begun.done());
        assert!(!ahead.has_room());
        assert_eq!(
            ahead.take(tickets[0]).map(looks_for),
            Some(vec![Hash::of(&0_usize.to_le_bytes())])
        );
        assert!(ahead.has_room());
    }

    fn question(id: u32) -> Task {
        let message = Message::Ask { id, hash: Hash::of(&id.to_le_bytes()) };
        Task::Input(Box::new(Input::Message { peer: host::peer_of(9), message }))
    }

    /// Returns how much of what befalls an engine it was told, and how much it made of each.
    fn told(first: Task, then: Vec<(Time, Task)>) -> Vec<usize> {
        let (mut engine, at) = (engine(1), Time::from_nanos(5));
        let hello = Message::Hello(Hello::ours());
        engine.handle(at, Input::Connected { peer: host::peer_of(9) });
        engine.handle(at, Input::Message { peer: host::peer_of(9), message: hello });
        while engine.poll_output().is_some() {}
        let Done { told, engine } = Work { engine, at, task: first, then }.done();
        let steps = std::iter::once(&told.next).chain(&told.then);
        let made: Vec<usize> = steps.map(|step| step.made.outputs).collect();
        assert_eq!(engine.outputs().len(), made.iter().sum::<usize>());
        let before =
            told.then.iter().map(|step| step.before.as_ref().map(|stats| stats.asks_received));
        assert!(before.eq((1..).take(told.then.len()).map(Some)));
        made
    }

    #[test]
    fn what_comes_after_words_is_told_too_and_what_may_come_otherwise_is_not() {
        let (soon, late) = (Time::from_nanos(6), Time::from_nanos(3_600_000_000_000));
        assert_eq!(told(question(0), vec![(soon, question(1)), (soon, question(2))]), [1, 1, 1]);
        // It wants to be woken before.
        assert_eq!(told(question(0), vec![(soon, question(1)), (late, question(2))]), [1, 1]);
        // What a look into its store finds befalls it soon.
        let hash = Hash::of(b"wanted");
        let get = Input::Get { want: WantId(7), hash, timeout: None };
        let get = Task::Input(Box::new(get));
        assert_eq!(told(question(0), vec![(soon, get), (soon, question(1))]).len(), 2);
    }
}
