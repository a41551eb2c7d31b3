//! A connection to the edge that is made before anything is asked of it.
//!
//! Over TLS the first request waits two round trips for its connection, which is most of what a get loses whose
//! neighbours turn out to be of no help. So while it still waits for them a connection is made and kept for a moment:
//! whoever connects next takes it, or waits for it where it is about to come. No request is made on it, so none is paid
//! for, and the edge sees a client that thought better of it.
//!
//! The HTTP client has no word for this. Its connector is wrapped instead ([`Layer`]): that of the client that
//! makes the spare one puts it aside and fails, so that nothing can be sent on it; that of the client that reads looks
//! here first. The type of a connection has no name outside of the client, so it is kept as any value.

use std::any::Any;
use std::pin::Pin;
use std::sync::{Arc, Mutex as Shelf, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};
use tower_layer::Layer;
use tower_service::Service;

/// How long a connection is kept for a request: longer than a get waits for its neighbours, and shorter than servers
/// wait for a first request.
const KEEP: Duration = Duration::from_secs(3);

type Error = Box<dyn std::error::Error + Send + Sync>;
type Kept = Box<dyn Any + Send>;

/// Keeps one connection at most; all clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Spare {
    /// Locked while a connection is being made, so that whoever needs one waits for it.
    slot: Arc<Mutex<Option<(Kept, Instant)>>>,
    /// Where the connector puts the one that it made.
    made: Arc<Shelf<Option<Kept>>>,
}

impl Spare {
    /// Has `connect` make a connection, whose client has the layer of [`making`](Self::making), and keeps it for
    /// [`KEEP`], or until it is taken. Does nothing where one is kept or being made.
    pub(super) async fn prepare(&self, connect: impl Future<Output = ()>) {
        {
            let Ok(mut slot) = self.slot.try_lock() else { return };
            if slot.as_ref().is_some_and(|(_, since)| since.elapsed() < KEEP) {
                return;
            }
            connect.await;
            let made = self.shelf().take();
            *slot = made.map(|made| (made, Instant::now()));
        }
        sleep(KEEP).await;
        self.slot.lock().await.take_if(|(_, since)| since.elapsed() >= KEEP);
    }

    /// Returns what has a client put its connections aside, and use none.
    pub(super) fn making(&self) -> Sharing {
        Sharing { spare: self.clone(), role: Role::Maker }
    }

    /// Returns what has a client take the spare connection first.
    pub(super) fn taking(&self) -> Sharing {
        Sharing { spare: self.clone(), role: Role::Taker }
    }

    /// Takes the connection, if it is fresh, after one that is being made has come.
    async fn take<C: 'static>(&self) -> Option<C> {
        let (kept, since) = self.slot.lock().await.take()?;
        let kept = kept.downcast().ok().filter(|_| since.elapsed() < KEEP)?;
        Some(*kept)
    }

    fn shelf(&self) -> std::sync::MutexGuard<'_, Option<Kept>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wraps the connectors of the clients that make and use the spare connection.
#[derive(Clone, Debug)]
pub(super) struct Sharing {
    spare: Spare,
    role: Role,
}

#[derive(Clone, Copy, Debug)]
enum Role {
    /// Puts its connections aside.
    Maker,
    /// Takes the spare connection first.
    Taker,
}

impl<S> Layer<S> for Sharing {
    type Service = Connector<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Connector { sharing: self.clone(), inner }
    }
}

/// Is a connector that was wrapped.
#[derive(Clone, Debug)]
pub(super) struct Connector<S> {
    sharing: Sharing,
    inner: S,
}

#[derive(Debug, thiserror::Error)]
#[error("the connection is kept for a request")]
struct Aside;

type Connecting<C> = Pin<Box<dyn Future<Output = Result<C, Error>> + Send>>;

impl<S, T> Service<T> for Connector<S>
where
    S: Service<T, Error = Error> + Clone + Send + 'static,
    S::Response: Send + 'static,
    S::Future: Send,
    T: Send + 'static,
{
    type Response = S::Response;
    type Error = Error;
    type Future = Connecting<S::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, to: T) -> Self::Future {
        // The one that was polled ready is the one that is called.
        let fresh = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, fresh);
        let Sharing { spare, role } = self.sharing.clone();
        match role {
            Role::Maker => Box::pin(put_aside(spare, inner, to)),
            Role::Taker => Box::pin(take_or_connect(spare, inner, to)),
        }
    }
}

/// Connects, and keeps the connection from the client.
async fn put_aside<S, T>(spare: Spare, mut inner: S, to: T) -> Result<S::Response, Error>
where
    S: Service<T, Error = Error>,
    S::Response: Send + 'static,
{
    let connection = inner.call(to).await?;
    *spare.shelf() = Some(Box::new(connection));
    Err(Aside.into())
}

/// Takes the spare connection, and connects where there is none.
async fn take_or_connect<S, T>(spare: Spare, mut inner: S, to: T) -> Result<S::Response, Error>
where
    S: Service<T, Error = Error>,
    S::Response: 'static,
{
    match spare.take().await {
        Some(connection) => Ok(connection),
        None => inner.call(to).await,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Numbers its connections, each of which takes a second.
    #[derive(Clone, Default)]
    struct Wire(Arc<AtomicU32>);

    impl Service<()> for Wire {
        type Response = u32;
        type Error = Error;
        type Future = Connecting<u32>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, (): ()) -> Self::Future {
            let number = self.0.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move {
                sleep(Duration::from_secs(1)).await;
                Ok(number)
            })
        }
    }

    /// A spare connection, and how it is made and used.
    fn spare() -> (Spare, Connector<Wire>, Connector<Wire>) {
        let (spare, wire) = (Spare::default(), Wire::default());
        let (maker, taker) = (spare.making().layer(wire.clone()), spare.taking().layer(wire));
        (spare, maker, taker)
    }

    fn prepare(spare: &Spare, mut maker: Connector<Wire>) -> tokio::task::JoinHandle<()> {
        let spare = spare.clone();
        tokio::spawn(async move {
            let connect = async move {
                assert!(maker.call(()).await.is_err(), "nothing is to be sent on it");
            };
            spare.prepare(connect).await;
        })
    }

    #[tokio::test(start_paused = true)]
    async fn connection_made_ahead_is_taken_by_the_next_request_and_by_no_other() {
        let (spare, maker, mut taker) = spare();
        let preparing = prepare(&spare, maker);
        sleep(Duration::from_millis(1_500)).await;
        let began = Instant::now();
        assert_eq!(taker.call(()).await.expect("kept"), 0);
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert_eq!(taker.call(()).await.expect("made"), 1);
        assert_eq!(began.elapsed(), Duration::from_secs(1));
        preparing.await.expect("no panic");
    }

    #[tokio::test(start_paused = true)]
    async fn request_waits_for_the_connection_that_is_being_made() {
        let (spare, maker, mut taker) = spare();
        let _preparing = prepare(&spare, maker);
        let began = Instant::now();
        sleep(Duration::from_millis(600)).await;
        assert_eq!(taker.call(()).await.expect("kept"), 0);
        assert_eq!(began.elapsed(), Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn connection_that_nobody_takes_is_closed_after_a_while() {
        let (spare, maker, mut taker) = spare();
        prepare(&spare, maker.clone()).await.expect("no panic");
        assert!(spare.slot.lock().await.is_none());
        assert_eq!(taker.call(()).await.expect("made"), 1);
        prepare(&spare, maker).await.expect("no panic");
    }

    #[tokio::test(start_paused = true)]
    async fn one_connection_is_made_at_a_time_and_one_is_kept() {
        let (spare, maker, mut taker) = spare();
        for _ in 0..3 {
            let _preparing = prepare(&spare, maker.clone());
            sleep(Duration::from_millis(500)).await;
        }
        assert_eq!(taker.call(()).await.expect("kept"), 0);
        assert_eq!(taker.call(()).await.expect("made"), 1);
    }
}
