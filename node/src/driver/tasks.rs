//! The driver's tasks: every one has its owner here and ends with it.

use std::future::Future;

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::event::Event;

#[derive(Debug)]
pub(super) struct Tasks {
    running: JoinSet<()>,
    events: mpsc::Sender<Event>,
}

impl Tasks {
    pub(super) fn new(events: mpsc::Sender<Event>) -> Self {
        Self { running: JoinSet::new(), events }
    }

    pub(super) fn events(&self) -> mpsc::Sender<Event> {
        self.events.clone()
    }

    pub(super) fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.running.spawn(task)
    }

    /// Spawns a task whose end the driver hears of; an aborted one says nothing.
    pub(super) fn spawn_event(
        &mut self,
        task: impl Future<Output = Event> + Send + 'static,
    ) -> AbortHandle {
        let events = self.events();
        self.running.spawn(async move {
            let event = task.await;
            // The driver is gone: nobody is left to tell.
            events.send(event).await.ok();
        })
    }

    /// Forgets the tasks that have ended.
    pub(super) fn reap(&mut self) {
        while self.running.try_join_next().is_some() {}
    }
}
