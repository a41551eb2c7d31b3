//! What the users of nodes do: clients, each on one node, that want one blob after another.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use blobmesh_protocol::{Hash, Time};

use super::{Event, NodeIndex, World};
use crate::plan::{Distribution, Zipf};
use crate::random::Random;

/// Holds the clients of a world.
#[derive(Debug, Default)]
pub(super) struct Workloads {
    clients: Vec<Client>,
    by_node: BTreeMap<NodeIndex, Vec<usize>>,
    /// Clients that still want something.
    open: usize,
}

/// Is one user of one node.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) node: NodeIndex,
    pub(super) wishes: Wishes,
    pub(super) start: Duration,
    pub(super) think: Distribution,
    pub(super) parallel: usize,
    pub(super) timeout: Option<Duration>,
    pub(super) random: Random,
    /// Blobs whose get ended with its node; they are wanted again.
    again: VecDeque<Hash>,
    /// Slots that still work.
    slots: usize,
    /// Slots that wait for the node to start again.
    waiting: usize,
    begun: bool,
}

/// Says what a client wants next.
#[derive(Debug)]
pub(super) enum Wishes {
    /// These, in this order.
    Listed(VecDeque<Hash>),
    /// So many by popularity.
    Popular { left: u64, blobs: Vec<Hash>, popularity: Zipf },
    /// So many blobs of its own are added.
    Add { left: u64, size: Distribution, advertised: bool },
    /// These, each at its moment.
    Timed(VecDeque<(Time, Hash)>),
}

/// Is what a client does next.
enum Wish {
    Get(Hash),
    Add { size: u64, advertised: bool },
}

impl Client {
    pub(super) fn new(node: NodeIndex, wishes: Wishes, start: Duration, random: Random) -> Self {
        Self {
            node,
            wishes,
            start,
            think: Distribution::constant(0),
            parallel: 1,
            timeout: None,
            random,
            again: VecDeque::new(),
            slots: 0,
            waiting: 0,
            begun: false,
        }
    }

    fn next(&mut self) -> Option<Wish> {
        if let Some(hash) = self.again.pop_front() {
            return Some(Wish::Get(hash));
        }
        match &mut self.wishes {
            Wishes::Listed(blobs) => blobs.pop_front().map(Wish::Get),
            Wishes::Popular { left, blobs, popularity } => {
                *left = left.checked_sub(1)?;
                blobs.get(popularity.draw(&mut self.random)).copied().map(Wish::Get)
            }
            Wishes::Add { left, size, advertised } => {
                *left = left.checked_sub(1)?;
                let size = size.draw(&mut self.random);
                Some(Wish::Add { size, advertised: *advertised })
            }
            Wishes::Timed(gets) => gets.pop_front().map(|(_, hash)| Wish::Get(hash)),
        }
    }
}

impl Workloads {
    pub(super) fn push(&mut self, client: Client) {
        self.by_node.entry(client.node).or_default().push(self.clients.len());
        self.clients.push(client);
        self.open += 1;
    }

    fn of(&self, node: NodeIndex) -> Vec<usize> {
        self.by_node.get(&node).cloned().unwrap_or_default()
    }

    /// Returns whether nobody wants anything any more.
    pub(super) fn is_done(&self) -> bool {
        self.open == 0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }
}

impl World {
    /// Has the clients of a node begin, or go on after it started again.
    pub(super) fn clients_started(&mut self, node: NodeIndex) {
        let now = self.now;
        let mut planned = Vec::new();
        for index in self.workloads.of(node) {
            let Some(client) = self.workloads.clients.get_mut(index) else { continue };
            if !client.begun {
                client.begun = true;
                planned.extend(client.begin(now).into_iter().map(|at| (at, index)));
            } else {
                planned.extend((0..std::mem::take(&mut client.waiting)).map(|_| (now, index)));
            }
        }
        for (at, client) in planned {
            self.schedule_own(at, Event::Want { client });
        }
    }

    /// Has a client that is due want its next blob.
    pub(super) fn client_wants(&mut self, index: usize) {
        let Some(client) = self.workloads.clients.get_mut(index) else { return };
        let (node, timeout) = (client.node, client.timeout);
        if !self.hosts.get(node).is_some_and(super::host::Host::is_up) {
            client.waiting += 1;
            return;
        }
        match client.next() {
            Some(Wish::Get(hash)) => {
                self.want(node, hash, timeout, Some(index));
            }
            Some(Wish::Add { size, advertised }) => {
                let number = client.random.draw().to_le_bytes();
                let hash = Hash::of(&number);
                self.blobs.insert(hash, size);
                self.hold_own(node, hash, size, advertised);
                self.client_continues(index);
            }
            None => self.slot_done(index),
        }
    }

    /// Takes in that a client's get ended.
    pub(super) fn client_served(&mut self, index: usize) {
        self.client_continues(index);
    }

    /// Takes in that a client's node ended under its get.
    pub(super) fn client_killed(&mut self, index: usize, hash: Hash) {
        if let Some(client) = self.workloads.clients.get_mut(index) {
            client.again.push_back(hash);
            client.waiting += 1;
        }
    }

    /// Lets the clients of a node go that will not start again.
    pub(super) fn clients_leave(&mut self, node: NodeIndex) {
        for index in self.workloads.of(node) {
            let Some(client) = self.workloads.clients.get_mut(index) else { continue };
            if client.slots > 0 || !client.begun {
                self.workloads.open -= 1;
            }
            (client.slots, client.begun) = (0, true);
            client.wishes = Wishes::Listed(VecDeque::new());
            client.again.clear();
        }
    }

    fn client_continues(&mut self, index: usize) {
        let Some(client) = self.workloads.clients.get_mut(index) else { return };
        if matches!(client.wishes, Wishes::Timed(_)) && client.again.is_empty() {
            // Each of its gets has its own moment.
            return self.slot_done(index);
        }
        let think = Duration::from_nanos(client.think.draw(&mut client.random));
        self.schedule_own(self.now + think, Event::Want { client: index });
    }

    fn slot_done(&mut self, index: usize) {
        let Some(client) = self.workloads.clients.get_mut(index) else { return };
        if client.slots == 0 {
            return;
        }
        client.slots -= 1;
        if client.slots == 0 {
            self.workloads.open -= 1;
        }
    }
}

impl Client {
    /// Returns when its slots want their first blobs.
    fn begin(&mut self, now: Time) -> Vec<Time> {
        let moments = match &self.wishes {
            Wishes::Timed(gets) => gets.iter().map(|(at, _)| (*at).max(now)).collect(),
            Wishes::Listed(_) | Wishes::Popular { .. } | Wishes::Add { .. } => {
                vec![now + self.start; self.parallel]
            }
        };
        self.slots = moments.len();
        moments
    }
}
