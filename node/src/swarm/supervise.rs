//! Keeps the swarm alive: a panic on some peer's bytes ends the swarm, not the node.
//!
//! The network stack panicked on remote input five times in one year. Such a panic is caught here, in
//! the swarm's own task and in the tasks of its connections, whose loss libp2p would not notice. Then
//! all connections are reported lost and the swarm is started anew, on the same ports, with the same
//! blobs to announce. Handles stay valid; what they waited for fails.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::actor::{Actor, End, Remains};
use super::handle::Command;
use super::{SwarmConfig, SwarmError, SwarmEvent};

/// How long connections may take to close when the swarm ends.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// The first pause before a new start; it doubles with each failure.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest pause before a new start.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A swarm that ran so long starts with the shortest pause again.
const STABLE_AFTER: Duration = Duration::from_secs(60);

/// Starts a swarm and the task that keeps it alive.
///
/// The first start's errors are returned; later ones are tried again for ever.
pub(super) fn start(
    config: SwarmConfig,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<SwarmEvent>,
) -> Result<(), SwarmError> {
    let listen = config.listen.clone();
    let actor = Actor::new(&config, &mut Remains { listen, ..Remains::default() })?;
    // The task owns itself: it ends with the last handle, the receiver of events or a shutdown.
    tokio::spawn(supervise(config, actor, commands, events));
    Ok(())
}

async fn supervise(
    config: SwarmConfig,
    mut actor: Actor,
    mut commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<SwarmEvent>,
) {
    let mut pause = PAUSE_MIN;
    loop {
        let started = Instant::now();
        let run = AssertUnwindSafe(actor.run(&mut commands, &events)).catch_unwind().await;
        if let Ok(End::Shutdown(done)) = run {
            actor.close().await;
            finish(done);
            return;
        }
        tracing::error!(panic = panic_text(&run), "the swarm failed and is started anew");
        if started.elapsed() >= STABLE_AFTER {
            pause = PAUSE_MIN;
        }
        let remains = actor.remains();
        discard(actor);
        actor = match restart(&config, remains, &mut pause, &mut commands).await {
            Ok(actor) => actor,
            Err(done) => return finish(done),
        };
    }
}

/// Starts a swarm anew, as often as it takes; ends early when the node shuts down.
async fn restart(
    config: &SwarmConfig,
    mut remains: Remains,
    pause: &mut Duration,
    commands: &mut mpsc::Receiver<Command>,
) -> Result<Actor, Option<oneshot::Sender<()>>> {
    loop {
        let until = Instant::now() + *pause;
        *pause = (*pause * 2).min(PAUSE_MAX);
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => break,
                command = commands.recv() => match command {
                    Some(Command::Shutdown { done }) => return Err(Some(done)),
                    None => return Err(None),
                    // Its reply is dropped with it, which says that the swarm stopped.
                    Some(Command::Provide { hash }) => remains.hashes.push(hash),
                    Some(_) => {}
                },
            }
        }
        match Actor::new(config, &mut remains) {
            Ok(actor) => return Ok(actor),
            Err(error) => tracing::warn!(%error, "the swarm could not be started anew"),
        }
    }
}

fn finish(done: Option<oneshot::Sender<()>>) {
    if let Some(done) = done {
        done.send(()).ok();
    }
}

/// Drops a swarm that may be in any state.
fn discard(actor: Actor) {
    if std::panic::catch_unwind(AssertUnwindSafe(move || drop(actor))).is_err() {
        tracing::warn!("the failed swarm panicked again while it was dropped");
    }
}

fn panic_text(run: &Result<End, Box<dyn Any + Send>>) -> &str {
    match run {
        Ok(_) => "in a connection's task",
        Err(panic) => panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("without a message"),
    }
}

/// The tasks of a swarm's connections: runs them, notices their panics and their end.
pub(super) struct Tasks {
    tracker: TaskTracker,
    panics: mpsc::Sender<()>,
    panics_in: mpsc::Receiver<()>,
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Tasks {
    pub(super) fn new() -> Self {
        let (panics, panics_in) = mpsc::channel(1);
        Self { tracker: TaskTracker::new(), panics, panics_in }
    }

    /// Returns what libp2p runs its tasks with.
    pub(super) fn executor(&self) -> impl Fn(Task) + Send + Sync + 'static {
        let (tracker, panics) = (self.tracker.clone(), self.panics.clone());
        move |task| {
            let panics = panics.clone();
            tracker.spawn(async move {
                if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                    // A full channel means that one has been reported already.
                    panics.try_send(()).ok();
                }
            });
        }
    }

    /// Waits until a task panics. Cancel safe.
    pub(super) async fn panicked(&mut self) {
        if self.panics_in.recv().await.is_none() {
            // Not reached, since this holds a sender itself.
            std::future::pending::<()>().await;
        }
    }

    /// Waits until all tasks have ended, but not for long.
    pub(super) async fn finish(self) {
        self.tracker.close();
        tokio::time::timeout(CLOSE_TIMEOUT, self.tracker.wait()).await.ok();
    }
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_of_a_connection_task_is_noticed() {
        let mut tasks = Tasks::new();
        let executor = tasks.executor();
        executor(Box::pin(async {}));
        executor(Box::pin(async { panic!("on a peer's bytes") }));
        executor(Box::pin(async { panic!("on another peer's bytes") }));
        tokio::time::timeout(Duration::from_secs(10), tasks.panicked()).await.unwrap();
        tasks.finish().await;
    }
}
