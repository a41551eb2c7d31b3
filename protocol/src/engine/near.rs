//! What neighbours know of each other's neighbours.
//!
//! A site may have more nodes than one can be neighbour of, and the filters of those that are not are not here. So who
//! is about to ask the edge for a blob, and tells its neighbours ([`Message::Claims`] that seeks), hears of *their*
//! neighbours that hold it: each looks into the filters it has, asks the one that probably holds the blob, and names it
//! once it says that it does. With 64 neighbours each, two steps reach nearly all of a thousand nodes.
//!
//! This is the side that is asked; what comes of a name is the resolver's. A seeker is answered by what was asked on
//! its behalf alone, one question at a time and few in all, so it gets no more out of us than it put in.

use std::collections::BTreeMap;

use super::peers::{Lesson, Opinion, Peers};
use super::{Output, Shell};
use crate::blob::Hash;
use crate::id::PeerId;
use crate::time::Time;
use crate::wire::message::{AskResult, Message};

/// Questions out on behalf of others; further seekers are left without an answer. Each is 100 bytes.
const QUESTIONS_MAX: usize = 256;
/// Those of one seeker, and those to one neighbour: its queue is for other words, too.
const QUESTIONS_PER_PEER_MAX: usize = 32;
/// Neighbours asked for one seeker and blob, one after another: the first one holds it unless its filter erred.
const ASKED_MAX: usize = 3;

/// Holds the questions that are out on behalf of neighbours, by whom they were put to and their numbers.
#[derive(Debug, Default)]
pub(crate) struct Near {
    questions: BTreeMap<(PeerId, u32), Question>,
}

#[derive(Debug)]
struct Question {
    hash: Hash,
    seeker: PeerId,
    sent: Time,
    /// Who is asked next if this one does not hold the blob, the best last.
    others: Vec<PeerId>,
}

impl Near {
    /// Takes in that a neighbour is about to ask the edge for a blob, which may be held here or not.
    pub(crate) fn sought(
        &mut self,
        seeker: PeerId,
        hash: Hash,
        held: bool,
        peers: &mut Peers,
        shell: &mut Shell,
    ) {
        if !peers.get_mut(seeker).is_some_and(|neighbour| neighbour.takes_names) {
            return;
        }
        if held {
            // Word of it is under way: it came a moment ago.
            return name(seeker, hash, peers.me(), shell);
        }
        let timeout = shell.config.ask_timeout;
        self.questions.retain(|_, question| shell.now - question.sent < timeout);
        let of_seeker = self.questions.values().filter(|question| question.seeker == seeker);
        if self.questions.len() >= QUESTIONS_MAX || of_seeker.count() >= QUESTIONS_PER_PEER_MAX {
            return;
        }
        let (candidates, _) = peers.sort_for(&hash, shell.now, &shell.config);
        let likely = candidates
            .into_iter()
            .filter(|(peer, opinion)| *opinion == Opinion::Likely && *peer != seeker);
        let mut others: Vec<PeerId> = likely.map(|(peer, _)| peer).take(ASKED_MAX).collect();
        others.reverse();
        self.ask((seeker, hash), others, peers, shell);
    }

    /// Takes in an answer, and returns whether it is one to a question on behalf of somebody.
    pub(crate) fn answered(
        &mut self,
        peer: PeerId,
        id: u32,
        result: AskResult,
        peers: &mut Peers,
        shell: &mut Shell,
    ) -> bool {
        let Some(question) = self.questions.remove(&(peer, id)) else { return false };
        let Question { hash, seeker, others, .. } = question;
        let holds =
            matches!(result, AskResult::Have { size } if size <= shell.config.blob_bytes_max);
        if holds {
            name(seeker, hash, peer, shell);
        } else {
            self.ask((seeker, hash), others, peers, shell);
        }
        if !matches!(result, AskResult::Busy { .. }) {
            let lesson = if holds { Lesson::Truth } else { Lesson::Lie };
            peers.judge(peer, lesson, shell.now, &shell.config);
        }
        true
    }

    /// Forgets a neighbour that is gone, and what it was asked or sought.
    pub(crate) fn forget(&mut self, peer: PeerId) {
        self.questions.retain(|(asked, _), question| *asked != peer && question.seeker != peer);
    }

    /// Asks the next of those that may hold a blob, if there is one.
    fn ask(
        &mut self,
        (seeker, hash): (PeerId, Hash),
        mut others: Vec<PeerId>,
        peers: &mut Peers,
        shell: &mut Shell,
    ) {
        while let Some(peer) = others.pop() {
            let out = self.questions.range((peer, 0)..=(peer, u32::MAX)).count();
            let neighbour = peers.get_mut(peer).filter(|_| out < QUESTIONS_PER_PEER_MAX);
            let Some(neighbour) = neighbour else { continue };
            let id = neighbour.number_ask();
            shell.stats.asks_sent += 1;
            shell.emit(Output::Send { peer, message: Message::Ask { id, hash } });
            let question = Question { hash, seeker, sent: shell.now, others };
            self.questions.insert((peer, id), question);
            return;
        }
    }
}

fn name(seeker: PeerId, hash: Hash, holder: PeerId, shell: &mut Shell) {
    shell.emit(Output::Send { peer: seeker, message: Message::Near { hash, holder } });
}
