//! Taking lanes that peers dial: who gets as far as a token, and who does not.
//!
//! Until a connection has shown its token it is a stranger's: there are few of them at once, each has one
//! deadline for everything, and whatever is wrong closes it without a word. A connection beyond the bound
//! is closed at once; its requester falls back to a blob stream.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use blobmesh_protocol::PeerId;
use blobmesh_protocol::wire::lane::LaneOpen;
use blobmesh_protocol::wire::message::LANE_OPEN;
use tokio::net::TcpListener;

use super::accepted::Accepted;
use super::serve::{Admission, Service};
use super::wait::Patience;
use super::{Lanes, lock};
use crate::store::Store;
use crate::transfer::StreamError;
use crate::transfer::provider::ServeError;

/// How long a connection may take to its token.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait after the system could not accept: it has run out of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Is one open lane; dropping it makes room for another.
struct Place {
    lanes: Lanes,
    number: u64,
    stop: Arc<AtomicBool>,
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.lanes.0.accepted).lanes.remove(&self.number);
    }
}

impl Lanes {
    /// Takes what comes to a listener until it is dropped. `admission` makes what asks the engine about
    /// a peer.
    pub(crate) async fn accept<A: Admission + 'static>(
        self,
        listener: TcpListener,
        store: Store,
        admission: impl Fn(PeerId) -> A + Clone + Send + 'static,
    ) {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let Ok(pending) = Arc::clone(&self.0.pending).try_acquire_owned() else { continue };
            let Ok(stream) = stream.into_std() else { continue };
            let (lanes, store, admission) = (self.clone(), store.clone(), admission.clone());
            // It ends by its deadlines, or when the lanes are closed.
            drop(tokio::task::spawn_blocking(move || {
                let opened = lanes.open(stream);
                drop(pending);
                let result = opened.and_then(|(lane, peer, place)| {
                    let (buffers, stop) = (&lanes.0.buffers, &*place.stop);
                    let upload = lanes.upload();
                    let admission = admission(peer);
                    Service { lane, admission, store: &store, buffers, upload, stop, pace: None }
                        .run()
                });
                if let Err(error) = result {
                    tracing::debug!(%error, "lane ended early");
                }
            }));
        }
    }

    /// Shakes hands and takes the token.
    fn open(&self, stream: TcpStream) -> Result<(Accepted, PeerId, Place), ServeError> {
        let place = self.place()?;
        let patience = Patience { stop: &place.stop, deadline: Instant::now() + OPEN_TIMEOUT };
        let tls =
            self.0.tls.accept().map_err(|error| StreamError::Io(std::io::Error::other(error)))?;
        let (mut lane, peer) = Accepted::open(stream, tls, patience).map_err(StreamError::from)?;
        let frame = lane.next_frame(patience)?;
        let frame = frame.filter(|frame| frame.kind == LANE_OPEN).ok_or(ServeError::NoRequest)?;
        let LaneOpen { token } = frame.decode().map_err(StreamError::from)?;
        if !lock(&self.0.tokens).redeem(&peer, token, Instant::now()) {
            return Err(ServeError::NoToken);
        }
        self.settle(&place, peer)?;
        Ok((lane, peer, place))
    }

    /// Takes a place for a connection whose peer is not known yet.
    fn place(&self) -> Result<Place, ServeError> {
        let mut accepted = lock(&self.0.accepted);
        if accepted.closed {
            return Err(ServeError::Worker);
        }
        accepted.next += 1;
        let (number, stop) = (accepted.next, Arc::new(AtomicBool::new(false)));
        accepted.lanes.insert(number, (None, Arc::clone(&stop)));
        Ok(Place { lanes: self.clone(), number, stop })
    }

    /// Gives the place to the peer, if it may have one more.
    fn settle(&self, place: &Place, peer: PeerId) -> Result<(), ServeError> {
        let mut accepted = lock(&self.0.accepted);
        if accepted.room(peer) == 0 {
            return Err(ServeError::TooMany);
        }
        if let Some((of, _)) = accepted.lanes.get_mut(&place.number) {
            *of = Some(peer);
        }
        Ok(())
    }
}
