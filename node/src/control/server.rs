//! Serves the requests that come in by the control socket.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, BufReader, BufWriter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::api::{Answer, Event, Exchange, Failure, Input, Request, Trouble};
use super::frame::{FrameError, Kind, read_frame, write_frame, write_split};
use super::hello::{greet, read_line};
use super::{CONNECTIONS_MAX, EXCHANGE_LEN_MAX, Listener, REQUEST_BYTES_MAX, Service};

/// How long a client may take to greet and to send its request.
const REQUEST_WITHIN: Duration = Duration::from_secs(5);

/// How long accepting rests after an error: mostly there are no descriptors left, which passes.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Serves requests until `shutdown` is ready, then cancels those still running.
///
/// At most [`CONNECTIONS_MAX`] are served at once. Dropping the future cancels them all, too.
pub async fn serve<S: Service>(
    listener: Listener,
    service: Arc<S>,
    shutdown: impl Future<Output = ()>,
) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            accepted = accept(&listener, &permits) => match accepted {
                Ok((stream, permit)) => {
                    let service = Arc::clone(&service);
                    connections.spawn(async move {
                        let _permit = permit;
                        if let Err(error) = serve_connection(stream, &*service).await {
                            tracing::debug!(%error, "a control connection ended early");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the control socket accepts nobody for a moment");
                    tokio::time::sleep(ACCEPT_REST).await;
                }
            },
        }
    }
    connections.shutdown().await;
}

async fn accept(
    listener: &Listener,
    permits: &Arc<Semaphore>,
) -> io::Result<(super::socket::Stream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.map_err(io::Error::other)?;
    Ok((listener.accept().await?, permit))
}

/// Serves the one request of a connection.
async fn serve_connection<S: Service>(
    stream: impl AsyncRead + AsyncWrite + Send,
    service: &S,
) -> io::Result<()> {
    let (reader, writer) = tokio::io::split(stream);
    let (mut reader, mut writer) = (BufReader::new(reader), BufWriter::new(writer));
    let opened = timeout(REQUEST_WITHIN, open(&mut reader, &mut writer)).await?;
    let Some(line) = opened? else { return Ok(()) };
    let request: Request = match serde_json::from_slice(&line) {
        Ok(request) => request,
        Err(error) => {
            let failure = Failure::new(Trouble::Usage, "the request was not understood");
            return finish(&mut writer, Err(failure.cause(error.to_string()))).await;
        }
    };

    let (events, events_taken) = mpsc::channel(EXCHANGE_LEN_MAX);
    let (input_given, input) = mpsc::channel(EXCHANGE_LEN_MAX);
    let handled = service.handle(request, Exchange { events, input });
    tokio::select! {
        answered = answer(handled, events_taken, &mut writer) => answered,
        // The handler is dropped with this branch: that is how a request is cancelled.
        hung_up = take_input(&mut reader, input_given) => hung_up.map_err(io::Error::other),
    }
}

/// Greets and reads the request's line; none when the client speaks another version.
async fn open<R, W>(reader: &mut R, writer: &mut W) -> io::Result<Option<Vec<u8>>>
where
    R: AsyncBufRead + Unpin,
    W: AsyncWrite + Unpin,
{
    if !greet(reader, writer).await?.fits() {
        return Ok(None);
    }
    read_line(reader, REQUEST_BYTES_MAX).await.map(Some)
}

/// Passes the client's input on; returns once the client hung up, which cuts an input that has not ended.
async fn take_input<R>(
    reader: &mut R,
    input: mpsc::Sender<io::Result<Input>>,
) -> Result<(), FrameError>
where
    R: AsyncRead + Unpin,
{
    while let Some(frame) = read_frame(reader).await? {
        let piece = match frame.kind {
            Kind::Input => Ok(Input::Bytes(frame.body)),
            Kind::InputEnd => Ok(Input::End),
            Kind::InputFailed => {
                Err(io::Error::other(String::from_utf8_lossy(&frame.body).into_owned()))
            }
            Kind::Progress
            | Kind::Bytes
            | Kind::Part
            | Kind::Answer
            | Kind::Failure
            | Kind::Got => {
                return Err(FrameError::UnknownKind { kind: frame.kind as u8 });
            }
        };
        // A handler that takes no input has dropped its end; its answer is on the way.
        input.send(piece).await.ok();
    }
    Ok(())
}

/// Drives the handler to its end, sends its events meanwhile, and its answer last.
async fn answer<W>(
    handled: impl Future<Output = Result<Answer, Failure>>,
    mut events: mpsc::Receiver<Event>,
    writer: &mut W,
) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
{
    let mut handled = pin!(handled);
    let result = loop {
        tokio::select! {
            Some(event) = events.recv() => send_event(writer, event).await?,
            result = &mut handled => break result,
        }
    };
    events.close();
    while let Some(event) = events.recv().await {
        send_event(writer, event).await?;
    }
    finish(writer, result).await
}

async fn send_event<W: AsyncWrite + Unpin>(writer: &mut W, event: Event) -> io::Result<()> {
    match event {
        Event::Progress(progress) => {
            write_frame(writer, Kind::Progress, &serde_json::to_vec(&progress)?).await
        }
        Event::Got(rows) => write_frame(writer, Kind::Got, &serde_json::to_vec(&rows)?).await,
        Event::Bytes(bytes) => write_split(writer, Kind::Bytes, Kind::Bytes, &bytes).await,
    }
}

async fn finish<W: AsyncWrite + Unpin>(
    writer: &mut W,
    result: Result<Answer, Failure>,
) -> io::Result<()> {
    let (kind, body) = match &result {
        Ok(answer) => (Kind::Answer, serde_json::to_vec(answer)?),
        Err(failure) => (Kind::Failure, serde_json::to_vec(failure)?),
    };
    write_split(writer, Kind::Part, kind, &body).await
}
