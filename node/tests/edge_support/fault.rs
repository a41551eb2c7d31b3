//! What can be wrong with an edge, put between the edge and its real server.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{CONTENT_LENGTH, HeaderName, HeaderValue, RANGE};
use hyper::http::response::Parts;
use hyper::{Request, Response, StatusCode};

use super::front::{BoxError, Reply, ReplyBody, Upstream};

/// One fault of one answer.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Accepts the request, reads nothing of its body and never answers.
    Silent,
    /// Answers so, without asking the server.
    Answer { status: u16, headers: Vec<(&'static str, String)>, body: String },
    /// Sends the right body a few bytes at a time.
    Drip { bytes: usize, every: Duration },
    /// Sends the first bytes of the right body and breaks the connection.
    CutAfter(usize),
    /// Answers as a server that does not know ranges.
    IgnoreRange,
    /// Answers with the right body, and this header instead of its own.
    Header(&'static str, String),
}

impl Fault {
    /// Answers with a status and an S3 error body.
    pub(crate) fn s3(status: u16, code: &str, message: &str) -> Self {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code>\
             <Message>{message}</Message></Error>"
        );
        Self::Answer { status, headers: vec![("content-type", "application/xml".into())], body }
    }

    /// Answers with a status and no body.
    pub(crate) fn status(status: u16, headers: &[(&'static str, &str)]) -> Self {
        let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Self::Answer { status, headers, body: String::new() }
    }

    /// Answers with a web page.
    pub(crate) fn page(status: u16) -> Self {
        let headers = vec![("content-type", "text/html; charset=utf-8".to_owned())];
        Self::Answer { status, headers, body: "<html><body>Sign in</body></html>".to_owned() }
    }

    /// Answers a request with this fault.
    pub(crate) async fn answer(
        self,
        mut request: Request<hyper::body::Incoming>,
        upstream: &Upstream,
    ) -> Reply {
        match self {
            Self::Silent => std::future::pending().await,
            Self::Answer { status, headers, body } => canned(status, headers, body),
            Self::IgnoreRange => {
                request.headers_mut().remove(RANGE);
                upstream.answer(request).await
            }
            Self::Header(name, value) => {
                let mut reply = upstream.answer(request).await;
                let value = HeaderValue::from_str(&value).expect("a header value");
                reply.headers_mut().insert(HeaderName::from_static(name), value);
                reply
            }
            Self::Drip { bytes, every } => {
                let (parts, body) = whole(upstream.answer(request).await).await;
                Response::from_parts(parts, drip(body, bytes, every))
            }
            Self::CutAfter(len) => {
                let (parts, body) = whole(upstream.answer(request).await).await;
                let len = len.min(body.len());
                Response::from_parts(parts, cut(body.slice(..len)))
            }
        }
    }
}

fn canned(status: u16, headers: Vec<(&'static str, String)>, body: String) -> Reply {
    let body = Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync();
    let mut reply = Response::new(body);
    *reply.status_mut() = StatusCode::from_u16(status).expect("a status");
    for (name, value) in headers {
        let value = HeaderValue::from_str(&value).expect("a header value");
        reply.headers_mut().insert(HeaderName::from_static(name), value);
    }
    reply
}

/// Takes the whole body and makes sure that its length is announced.
async fn whole(reply: Reply) -> (Parts, Bytes) {
    let (mut parts, body) = reply.into_parts();
    let body = body.collect().await.expect("the server's own body").to_bytes();
    parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    (parts, body)
}

fn drip(body: Bytes, bytes: usize, every: Duration) -> ReplyBody {
    let pieces: Vec<Bytes> = body.chunks(bytes).map(Bytes::copy_from_slice).collect();
    let slow = stream::iter(pieces).then(move |piece| async move {
        tokio::time::sleep(every).await;
        Ok::<_, BoxError>(Frame::data(piece))
    });
    StreamBody::new(slow).boxed_unsync()
}

fn cut(body: Bytes) -> ReplyBody {
    let pieces = [Ok(Frame::data(body)), Err(BoxError::from("cut on purpose"))];
    // The first piece must be on its way before the connection breaks.
    let pieces = stream::iter(pieces).then(|piece| async move {
        tokio::task::yield_now().await;
        piece
    });
    StreamBody::new(pieces).boxed_unsync()
}
