//! Where the driver hears from, and what it hears next.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::desk::Desk;
use super::event::Event;
use super::holdings::Holdings;
use crate::alarm::Alarm;
use crate::discovery::Candidate;
use crate::swarm::SwarmEvent;

pub(super) struct Inboxes {
    pub(super) events: mpsc::Receiver<Event>,
    /// None once the swarm has ended.
    pub(super) swarm: Option<mpsc::Receiver<SwarmEvent>>,
    pub(super) candidates: Option<mpsc::Receiver<Candidate>>,
    pub(super) holdings: Arc<Holdings>,
    pub(super) alarm: Alarm,
}

/// What came next.
pub(super) enum Heard {
    Event(Event),
    Swarm(SwarmEvent),
    Candidate(Candidate),
    /// Blobs came into the store or left it.
    Holdings,
    Timeout,
    /// Something is to be done earlier than the wait was to end.
    Earlier,
    /// The swarm has ended; said once.
    SwarmEnded,
}

impl Inboxes {
    /// Waits for what comes next, until `wake`. Nobody is heard first: a neighbour that floods its
    /// control stream must not keep the driver from the swarm, nor the swarm from those who wait.
    pub(super) async fn hear(&mut self, wake: Option<Instant>, desk: &Desk) -> Heard {
        let timer = async {
            match wake {
                Some(at) => self.alarm.at(at).await,
                None => std::future::pending().await,
            }
        };
        let heard = tokio::select! {
            Some(event) = self.events.recv() => Heard::Event(event),
            event = next(&mut self.swarm) => event.map_or(Heard::SwarmEnded, Heard::Swarm),
            Some(candidate) = next(&mut self.candidates) => Heard::Candidate(candidate),
            () = self.holdings.changed() => Heard::Holdings,
            () = timer => Heard::Timeout,
            () = desk.earlier() => Heard::Earlier,
        };
        if matches!(heard, Heard::SwarmEnded) {
            self.swarm = None;
        }
        heard
    }
}

/// Waits for the next of a channel; for ever where there is none.
async fn next<T>(channel: &mut Option<mpsc::Receiver<T>>) -> Option<T> {
    match channel {
        Some(channel) => channel.recv().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use blobmesh_protocol::PeerId;
    use blobmesh_protocol::engine::Input;

    use super::*;

    #[tokio::test]
    async fn flood_of_messages_does_not_silence_the_swarm_or_the_store() {
        let (flood, events) = mpsc::channel(1_000);
        let (swarm, swarm_in) = mpsc::channel(1);
        let holdings = Arc::new(Holdings::default());
        let heard_of = Arc::clone(&holdings);
        let swarm_in = Some(swarm_in);
        let mut inboxes = Inboxes {
            events,
            swarm: swarm_in,
            candidates: None,
            holdings: heard_of,
            alarm: Alarm::new(),
        };
        for _ in 0..1_000 {
            flood.try_send(Event::Input(Input::Timeout)).expect("room");
        }
        let peer = PeerId::from_bytes([1; 32]);
        swarm.try_send(SwarmEvent::Disconnected { peer }).expect("room");
        holdings.gone(blobmesh_protocol::Hash::of(b"x"));
        let (mut of_swarm, mut of_store) = (0, 0);
        // By chance alone one of them stays unheard in less than one of 10^30 runs.
        let desk = Desk::new(flood.clone());
        for _ in 0..500 {
            match inboxes.hear(None, &desk).await {
                Heard::Swarm(_) => of_swarm += 1,
                Heard::Holdings => of_store += 1,
                Heard::Event(_) | Heard::Candidate(_) | Heard::Timeout => {}
                Heard::Earlier | Heard::SwarmEnded => {}
            }
        }
        assert_eq!((of_swarm, of_store), (1, 1));
    }

    #[tokio::test]
    async fn end_of_the_swarm_is_heard_once_and_the_rest_goes_on() {
        let (events_out, events) = mpsc::channel(1);
        let (swarm, swarm_in) = mpsc::channel(1);
        let swarm_in = Some(swarm_in);
        let holdings = Arc::default();
        let mut inboxes =
            Inboxes { events, swarm: swarm_in, candidates: None, holdings, alarm: Alarm::new() };
        let desk = Desk::new(events_out.clone());
        drop(swarm);
        assert!(matches!(inboxes.hear(None, &desk).await, Heard::SwarmEnded));
        events_out.try_send(Event::Input(Input::Timeout)).expect("room");
        assert!(matches!(inboxes.hear(None, &desk).await, Heard::Event(_)));
    }
}
