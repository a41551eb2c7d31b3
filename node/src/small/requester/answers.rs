//! What comes: answers to requests, one by one or bundled.

use std::time::Duration;

use blobmesh_protocol::Hash;
use blobmesh_protocol::engine::FetchOutcome;
use blobmesh_protocol::wire::frame::Frame;
use blobmesh_protocol::wire::small::{
    Longest, Packs, SMALL_ANSWER, SMALL_BLOB, SMALL_BUNDLE, SMALL_PREFIX_LEN, SmallAnswer,
    SmallResult, split_small_blob,
};
use bytes::{Buf, Bytes};

use super::unanswered::Unanswered;
use super::{Session, SessionError};
use crate::compute;
use crate::small::keeper::Arrival;
use crate::small::{End, Ends, Request, answers_in};
use crate::transfer::FetchError;
use crate::transfer::requester::Way;

impl<W: Way, E: Ends> Session<'_, W, E> {
    /// Takes an answer, or some of them.
    pub(super) async fn take_answers(
        &self,
        frame: Frame,
        unanswered: &Unanswered,
        ended: &mut Vec<End>,
    ) -> Result<(), SessionError> {
        if frame.kind != SMALL_BUNDLE || self.packs != Packs::Coded {
            return self.take_answer(frame, unanswered, ended).await;
        }
        let opened = compute::run(move || answers_in(&frame.body, Longest::Small)).await;
        for answer in opened.map_err(FetchError::from)?? {
            self.take_answer(answer, unanswered, ended).await?;
        }
        Ok(())
    }

    /// Takes one answer. A blob that is kept goes to the keeper, who tells of its end.
    async fn take_answer(
        &self,
        frame: Frame,
        unanswered: &Unanswered,
        ended: &mut Vec<End>,
    ) -> Result<(), SessionError> {
        let (request, outcome, bytes) = match frame.kind {
            SMALL_BLOB => {
                let (id, _) = split_small_blob(&frame.body)?;
                let request = unanswered.take(id)?;
                let mut bytes = Bytes::from(frame.body);
                bytes.advance(usize::try_from(SMALL_PREFIX_LEN).unwrap_or(0));
                if request.keep {
                    let Request { fetch, hash, .. } = request;
                    self.keeper.keep(Arrival { fetch, peer: self.peer, hash, bytes }).await;
                    return Ok(());
                }
                let (outcome, bytes) = verify(&request.hash, bytes);
                (request, outcome, bytes)
            }
            SMALL_ANSWER => {
                let answer: SmallAnswer = frame.decode()?;
                (unanswered.take(answer.id)?, outcome_of(answer.result), None)
            }
            kind => return Err(SessionError::OutOfTurn { kind }),
        };
        let Request { fetch, hash, .. } = request;
        ended.push(End { fetch, peer: self.peer, hash, outcome, bytes });
        Ok(())
    }
}

/// Verifies a blob that is only read; it is at most a group long.
fn verify(hash: &Hash, bytes: Bytes) -> (FetchOutcome, Option<Bytes>) {
    if Hash::of(&bytes) == *hash {
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        return (FetchOutcome::Read { size }, Some(bytes));
    }
    let detail = "the bytes are not the blob's".to_owned();
    (FetchOutcome::WrongBytes { detail }, None)
}

pub(in crate::small) fn outcome_of(result: SmallResult) -> FetchOutcome {
    match result {
        SmallResult::Absent => FetchOutcome::Absent,
        SmallResult::Busy { retry_after_ms } => {
            FetchOutcome::Busy { retry_after: Duration::from_millis(u64::from(retry_after_ms)) }
        }
        SmallResult::Large { size } => FetchOutcome::Large { size },
    }
}
