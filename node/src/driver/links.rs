//! Links: the pair of control streams with one neighbour.
//!
//! Each side opens one stream and speaks on it, and listens on the one the other opened. A link
//! counts when ours is open; what the neighbour says waits until then, so that the engine hears
//! nothing of a neighbour it does not know yet.

use std::collections::BTreeMap;

use blobmesh_protocol::PeerId;
use blobmesh_protocol::engine::Input;
use blobmesh_protocol::wire::message::Message;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Duration, timeout};

use super::event::Event;
use super::tasks::Tasks;
use crate::swarm::{Stream, SwarmHandle};
use crate::transfer::{FrameIo, StreamError};

/// How many messages wait for a neighbour that reads too slowly before its link is given up.
const QUEUE_MAX: usize = 256;
/// How many bytes of messages that wait are written at once.
const JOINED_BYTES_MAX: usize = 64 << 10;
/// How long a neighbour may take to read one message.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug, Default)]
pub(super) struct Links {
    links: BTreeMap<PeerId, Link>,
    serial: u64,
}

#[derive(Debug)]
struct Link {
    number: u64,
    /// None while our stream is being opened.
    speaker: Option<Speaker>,
    /// The neighbour's stream, while it waits for ours.
    waiting: Option<Stream>,
    listener: Option<AbortHandle>,
}

#[derive(Debug)]
struct Speaker {
    queue: mpsc::Sender<Message>,
    task: AbortHandle,
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(listener) = &self.listener {
            listener.abort();
        }
        if let Some(speaker) = &self.speaker {
            speaker.task.abort();
        }
    }
}

impl Links {
    /// Returns whether a link counts: our stream of it is open.
    pub(super) fn is_open(&self, peer: PeerId) -> bool {
        self.links.get(&peer).is_some_and(|link| link.speaker.is_some())
    }

    /// Opens our stream of a link, unless there is one.
    pub(super) fn open(&mut self, peer: PeerId, swarm: &SwarmHandle, tasks: &mut Tasks) {
        if self.links.contains_key(&peer) {
            return;
        }
        self.serial += 1;
        let number = self.serial;
        let link = Link { number, speaker: None, waiting: None, listener: None };
        self.links.insert(peer, link);
        let swarm = swarm.clone();
        tasks.spawn_event(async move {
            let result = swarm.open_control(&peer).await;
            Event::LinkOpened { peer, link: number, result }
        });
    }

    /// Takes the stream that a neighbour opened; a second one replaces the first.
    pub(super) fn inbound(
        &mut self,
        peer: PeerId,
        stream: Stream,
        swarm: &SwarmHandle,
        tasks: &mut Tasks,
    ) {
        self.open(peer, swarm, tasks);
        let Some(link) = self.links.get_mut(&peer) else { return };
        if link.speaker.is_some() {
            link.listen(peer, stream, tasks);
        } else {
            link.waiting = Some(stream);
        }
    }

    /// Takes our own stream once it is open, and returns whether the link counts from now on. The
    /// stream of a link that was closed meanwhile is of no use to the one that followed.
    pub(super) fn opened(
        &mut self,
        peer: PeerId,
        number: u64,
        stream: Stream,
        tasks: &mut Tasks,
    ) -> bool {
        let link = self.links.get_mut(&peer);
        let Some(link) = link.filter(|link| link.number == number && link.speaker.is_none()) else {
            return false;
        };
        let (queue, messages) = mpsc::channel(QUEUE_MAX);
        let task = tasks.spawn_event(async move {
            let malformed = speak(stream, messages).await.is_err_and(|error| is_malformed(&error));
            Event::LinkClosed { peer, link: number, malformed }
        });
        link.speaker = Some(Speaker { queue, task });
        true
    }

    /// Begins to listen to the neighbour, where it opened its stream before ours was open.
    pub(super) fn listen(&mut self, peer: PeerId, tasks: &mut Tasks) {
        if let Some(link) = self.links.get_mut(&peer)
            && let Some(stream) = link.waiting.take()
        {
            link.listen(peer, stream, tasks);
        }
    }

    /// Queues a message, and returns false if the link must be given up: the neighbour does not read.
    pub(super) fn send(&self, peer: PeerId, message: Message) -> bool {
        let speaker = self.links.get(&peer).and_then(|link| link.speaker.as_ref());
        speaker.is_none_or(|speaker| speaker.queue.try_send(message).is_ok())
    }

    /// Ends a link and returns whether it counted. Another number than the link's own is of one that
    /// is gone already.
    pub(super) fn close(&mut self, peer: PeerId, number: Option<u64>) -> bool {
        let current = self.links.get(&peer);
        let stale = number.is_some_and(|number| current.is_none_or(|link| link.number != number));
        if stale {
            return false;
        }
        self.links.remove(&peer).is_some_and(|link| link.speaker.is_some())
    }

    /// Says goodbye on every link and ends our streams; returns how many will report their end.
    pub(super) fn finish(&mut self) -> usize {
        let mut speaking = 0;
        for link in self.links.values_mut() {
            if let Some(listener) = link.listener.take() {
                listener.abort();
            }
            // The task writes what is queued and ends once nobody can queue more.
            if let Some(speaker) = link.speaker.take()
                && speaker.queue.try_send(Message::Goodbye).is_ok()
            {
                speaking += 1;
            }
        }
        speaking
    }
}

impl Link {
    fn listen(&mut self, peer: PeerId, stream: Stream, tasks: &mut Tasks) {
        if let Some(listener) = self.listener.take() {
            listener.abort();
        }
        let (link, events) = (self.number, tasks.events());
        let task = tasks.spawn_event(async move {
            let malformed =
                listen(peer, stream, &events).await.is_err_and(|error| is_malformed(&error));
            Event::LinkClosed { peer, link, malformed }
        });
        self.listener = Some(task);
    }
}

fn is_malformed(error: &StreamError) -> bool {
    matches!(error, StreamError::Frame(_))
}

/// Writes messages as they come, several at once where several wait.
async fn speak(stream: Stream, mut messages: mpsc::Receiver<Message>) -> Result<(), StreamError> {
    let mut io = FrameIo::new(stream);
    while let Some(message) = messages.recv().await {
        let mut frames = message.encode()?;
        while frames.len() < JOINED_BYTES_MAX {
            let Ok(message) = messages.try_recv() else { break };
            frames.extend(message.encode()?);
        }
        let Ok(written) = timeout(WRITE_TIMEOUT, io.write(&frames)).await else {
            return Ok(());
        };
        written?;
    }
    io.close().await
}

/// Hands on what the neighbour says until it stops.
async fn listen(
    peer: PeerId,
    stream: Stream,
    events: &mpsc::Sender<Event>,
) -> Result<(), StreamError> {
    let mut io = FrameIo::new(stream);
    while let Some(frame) = io.read().await? {
        let Some(message) = Message::decode(frame.kind, &frame.body)? else { continue };
        let input = Event::Input(Input::Message { peer, message });
        if events.send(input).await.is_err() {
            break;
        }
    }
    Ok(())
}
