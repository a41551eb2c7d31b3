//! Asks a running node through its control socket.

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, BufReader, BufWriter, ReadHalf, WriteHalf};
use tokio::sync::mpsc;

use super::api::{Answer, Event, Exchange, Failure, Input, Request, Trouble};
use super::frame::{Kind, read_frame, write_frame, write_split};
use super::hello::{greet, write_line};
use super::socket::{Stream, connect};
use super::{ANSWER_BYTES_MAX, ControlError, REQUEST_BYTES_MAX};

/// How long a node may take to greet: all its connections may be busy for a while.
const GREETING_WITHIN: Duration = Duration::from_secs(30);

/// Holds a connection to a running node, good for one request.
#[derive(Debug)]
pub struct Client {
    reader: BufReader<ReadHalf<Stream>>,
    writer: BufWriter<WriteHalf<Stream>>,
}

impl Client {
    /// Connects to the node that serves the socket at `path`; none when no node does.
    ///
    /// # Errors
    /// When something is there that cannot be talked to: see [`ControlError`].
    pub async fn connect(path: &Path) -> Result<Option<Self>, ControlError> {
        let Some(stream) = connect(path).await? else { return Ok(None) };
        let (reader, writer) = tokio::io::split(stream);
        let mut client = Self { reader: BufReader::new(reader), writer: BufWriter::new(writer) };
        let greeting = greet(&mut client.reader, &mut client.writer);
        let greeted = tokio::time::timeout(GREETING_WITHIN, greeting).await;
        let hello = greeted
            .map_err(|_| ControlError::Silent { path: path.to_owned() })?
            .map_err(|source| ControlError::Greeting { path: path.to_owned(), source })?;
        if hello.fits() {
            return Ok(Some(client));
        }
        Err(ControlError::Version { program: hello.program, theirs: hello.blobmesh_control })
    }

    /// Has the node serve `request`.
    ///
    /// Dropping the future hangs up, which cancels the request. Ends with `Interrupted` when the
    /// bytes of a `Cat` have no taker any more.
    ///
    /// # Errors
    /// The node's own [`Failure`]; `NoNode` when the node ended before it answered.
    pub async fn call(mut self, request: Request, exchange: Exchange) -> Result<Answer, Failure> {
        let line = encode(&request)?;
        write_line(&mut self.writer, &line).await.map_err(|error| gone(&error))?;
        let Exchange { events, input } = exchange;
        tokio::select! {
            answer = take_answer(&mut self.reader, events) => answer,
            never = give_input(&mut self.writer, input) => match never {},
        }
    }
}

fn encode(request: &Request) -> Result<Vec<u8>, Failure> {
    let line = serde_json::to_vec(request).map_err(|error| {
        Failure::new(Trouble::Usage, "the request cannot be sent to the running node")
            .cause(error.to_string())
    })?;
    if line.len() > REQUEST_BYTES_MAX {
        let text = format!("a request of {} bytes is too long for the running node", line.len());
        return Err(Failure::new(Trouble::Usage, text));
    }
    Ok(line)
}

fn gone(error: &dyn std::error::Error) -> Failure {
    Failure::new(Trouble::NoNode, "the running node ended before it answered")
        .cause(error.to_string())
}

/// Sends the input, then waits to be dropped: only the reading side knows how the request ends.
async fn give_input<W>(writer: &mut W, mut input: mpsc::Receiver<io::Result<Input>>) -> Infallible
where
    W: AsyncWrite + Unpin,
{
    let sent = async {
        loop {
            let why = match input.recv().await {
                Some(Ok(Input::Bytes(bytes))) => {
                    write_split(writer, Kind::Input, Kind::Input, &bytes).await?;
                    continue;
                }
                Some(Ok(Input::End)) => return write_frame(writer, Kind::InputEnd, &[]).await,
                Some(Err(error)) => error.to_string(),
                // So it is too for a request that reads none, whose node does not look.
                None => "it was cut".to_owned(),
            };
            return write_frame(writer, Kind::InputFailed, why.as_bytes()).await;
        }
    };
    // A node that refuses an input closes before it has read it all, and says why by its failure.
    if let Err(error) = sent.await {
        tracing::debug!(%error, "the running node takes no more input");
    }
    std::future::pending().await
}

async fn take_answer<R>(reader: &mut R, events: mpsc::Sender<Event>) -> Result<Answer, Failure>
where
    R: AsyncRead + Unpin,
{
    let mut parts = Vec::new();
    loop {
        let frame = match read_frame(reader).await {
            Ok(Some(frame)) => frame,
            Ok(None) => return Err(gone(&io::Error::from(io::ErrorKind::UnexpectedEof))),
            Err(error) => return Err(gone(&error)),
        };
        match frame.kind {
            Kind::Progress => {
                let progress = decode(&frame.body)?;
                // Progress tells what is; the next one makes up for one that found no room.
                events.try_send(Event::Progress(progress)).ok();
            }
            Kind::Bytes => {
                let sent = events.send(Event::Bytes(frame.body)).await;
                sent.map_err(|_| {
                    Failure::new(Trouble::Interrupted, "nobody takes the blob's bytes any more")
                })?;
            }
            Kind::Got => {
                let sent = events.send(Event::Got(decode(&frame.body)?)).await;
                sent.map_err(|_| {
                    Failure::new(Trouble::Interrupted, "nobody takes the answer any more")
                })?;
            }
            Kind::Part => collect(&mut parts, &frame.body)?,
            Kind::Answer => {
                collect(&mut parts, &frame.body)?;
                return decode(&parts);
            }
            Kind::Failure => {
                collect(&mut parts, &frame.body)?;
                return Err(decode(&parts)?);
            }
            Kind::Input | Kind::InputEnd | Kind::InputFailed => {
                return Err(Failure::new(Trouble::Other, "the running node sent a client's frame"));
            }
        }
    }
}

fn collect(parts: &mut Vec<u8>, body: &[u8]) -> Result<(), Failure> {
    if parts.len() + body.len() > ANSWER_BYTES_MAX {
        return Err(Failure::new(Trouble::Other, "the running node's answer is too long"));
    }
    parts.extend_from_slice(body);
    Ok(())
}

fn decode<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| {
        Failure::new(Trouble::Other, "the running node's answer was not understood")
            .cause(error.to_string())
    })
}
